"""A block of ``attach`` in which nothing trains says so: perhaps another function was compiled."""

import keras
import numpy as np
import pytest

from embnoise import neftune
from embnoise_keras import attach
from tests.keras.models import DIM, IDS, sequential

UNUSED = r"'embedding.*' was not called in training inside the block of attach\(\).*compile\(\)"


def test_a_function_that_was_compiled_before_has_no_noise():
    ids = keras.Input((5,), dtype="int32")
    inner = keras.Model(ids, keras.layers.Embedding(20, DIM)(ids))
    outer = keras.Model(ids, inner(ids))
    outer.compile("sgd", "mse")
    targets = np.zeros((4, 5, DIM))
    outer.fit(IDS, targets, verbose=0)
    # JAX compiles anew for the state of the noise, and with PyTorch nothing is compiled.
    if keras.backend.backend() == "tensorflow":
        with pytest.warns(RuntimeWarning, match=UNUSED), attach(inner, neftune()) as handle:
            outer.fit(IDS, targets, verbose=0)
        assert handle.lookups == 0
    with attach(inner, neftune()) as handle:
        outer.compile("sgd", "mse")
        outer.fit(IDS, targets, verbose=0)
    assert handle.lookups == 1


def test_a_block_that_does_not_train_is_warned_of():
    model = sequential()
    with pytest.warns(RuntimeWarning, match=UNUSED), attach(model, neftune()):
        model.predict(IDS, verbose=0)


def test_a_compiled_model_may_predict_and_be_saved_in_a_block(tmp_path):
    model = sequential()
    model.compile("sgd", "mse")
    model.fit(IDS, np.zeros((len(IDS), 1)), verbose=0)
    with attach(model, neftune()):
        model.predict(IDS, verbose=0)
        model.save(tmp_path / "model.keras")


def test_an_update_without_a_training_call_is_warned_of():
    model = sequential()
    model.compile("sgd", "mse")
    with pytest.warns(RuntimeWarning, match=UNUSED), attach(model, neftune()):
        model.optimizer.iterations.assign(1)


def test_other_blocks_are_not_warned_of():
    model = sequential()
    attach(model, neftune()).remove()
    with attach(model, neftune()) as handle:
        handle.remove()
    with pytest.raises(KeyError), attach(model, neftune()):
        raise KeyError
    with attach(model, neftune()) as handle, handle.paused():
        model(IDS, training=True)
