"""The private parts of Keras in ``embnoise_keras._compat``: what to do when Keras changes them."""

import keras
import numpy as np
import pytest

from embnoise_keras import _compat
from embnoise_keras.variables import State
from tests.keras.models import IDS, TARGETS, fit, functional, sequential

JAX = keras.backend.backend() == "jax"


def changed(part, function, module=_compat):
    where = module.__name__.replace(".", "/")
    return f"Keras changed {part}; adapt {function} in backends/{where}.py"


def test_layers_at_any_depth():
    inner = sequential()
    outer = keras.Sequential([keras.Input((5,), dtype="int32"), inner])
    hint = changed("Layer._flatten_layers", "all_layers")
    assert callable(getattr(outer, "_flatten_layers", None)), hint
    found = _compat.all_layers(outer)
    assert found[0] is outer, hint
    assert all(layer in found for layer in inner.layers), hint


@pytest.mark.parametrize("build", [functional, sequential])
def test_added_state_is_passed_on_but_not_saved(tmp_path, build):
    hint = changed("Layer._seed_generators or Layer.variables", "add_state, remove_state, states")
    model, added = build(), State("added", dtype="int")
    model.build((None, 5))
    embedding = next(each for each in model.layers if isinstance(each, keras.layers.Embedding))
    weights = [weight.path for weight in model.weights]
    _compat.add_state(embedding, added)
    assert _compat.states(embedding) == [added], hint
    assert [id(each) for each in model.non_trainable_variables] == [id(added.state)], hint
    assert [weight.path for weight in model.weights] == weights, hint
    model.save(tmp_path / "model.keras")
    loaded = keras.models.load_model(tmp_path / "model.keras")
    assert loaded.non_trainable_variables == [], hint
    _compat.remove_state(embedding, added)
    assert model.non_trainable_variables == [], hint


def test_fit_traces_anew_when_its_function_is_forgotten():
    hint = changed("Model.train_function", "forget_train_function")
    model = sequential()
    model.compile("sgd", "mse")
    _compat.forget_train_function(keras.layers.Dense(1))
    model.make_train_function()
    before = getattr(model, "train_function", None)
    assert before is not None, hint
    model.make_train_function()
    assert model.train_function is before, hint
    _compat.forget_train_function(model)
    model.make_train_function()
    assert model.train_function not in (None, before), hint


@pytest.mark.skipif(not JAX, reason="JAX's fit alone keeps the state to itself")
def test_fit_with_jax_takes_the_values_of_variables_until_they_are_synced():
    model = sequential()
    model.compile("sgd", "mse")
    seen = []

    class Watch(keras.callbacks.Callback):
        def on_train_batch_end(self, batch, logs=None):
            seen.append(_compat.has_value(model.weights[0]))
            _compat.sync_state(model)
            seen.append(_compat.has_value(model.weights[0]))

    fit(model, callbacks=[Watch()])
    assert seen == [False, True] * 2, changed(
        "Model.jax_state_sync, or Variable._value", "sync_state and has_value"
    )


def test_variables_have_values():
    assert _compat.has_value(keras.Variable(0.0)), changed("Variable._value", "has_value")
    _compat.sync_state(sequential())


def test_the_mask_of_a_tensor():
    hint = changed("Tensor._keras_mask", "keras_mask")
    embedding, ids = keras.layers.Embedding(9, 4, mask_zero=True), np.array([[1, 0]])
    seen = keras.ops.convert_to_numpy(_compat.keras_mask(embedding(ids)))
    assert seen.tolist() == [[True, False]], hint
    assert _compat.keras_mask(keras.ops.zeros(3)) is None
    other = _compat.with_keras_mask(keras.ops.zeros((1, 2, 4)), embedding(ids))
    assert keras.ops.convert_to_numpy(_compat.keras_mask(other)).tolist() == seen.tolist(), hint


def test_what_a_loop_repeats():
    hint = changed("how a backend traces ops.map", "tracing and is_repeated_in")
    seen = []

    class Loop(keras.layers.Layer):
        def call(self, x):
            outer = _compat.tracing()
            assert not _compat.is_repeated_in(outer), hint

            def turn(row):
                seen.append(_compat.is_repeated_in(outer))
                return row

            return keras.ops.map(turn, x)

    keras.Sequential([Loop()]).predict(np.ones((2, 3)), verbose=0)
    assert any(seen) == (keras.backend.backend() != "torch"), hint


def test_a_row_in_a_vectorized_map():
    hint = changed("how a backend maps rows", "is_mapped")
    rows, state, seen = keras.ops.ones((2, 3)), keras.ops.zeros(()), []
    assert not _compat.is_mapped(rows, state), hint
    keras.ops.vectorized_map(lambda row: seen.append(_compat.is_mapped(row, state)) or row, rows)
    assert all(seen), hint


def test_whether_gradients_are_taken():
    hint = changed("StatelessScope.state_mapping", "takes_gradients")
    seen = {}

    class Watch(keras.layers.Layer):
        def __init__(self):
            super().__init__()
            self.count = self.add_weight(trainable=False, name="count")

        def call(self, x, training=None):
            seen[training] = _compat.takes_gradients(self.count)
            return x

    model = sequential(Watch())
    model.compile("sgd", "mse")
    fit(model)
    model.evaluate(IDS, TARGETS, verbose=0)
    assert seen[True] == JAX, hint
    assert not seen[False], hint


@pytest.mark.skipif(JAX, reason="takes_gradients tells")
def test_which_model_in_fit_has_no_argument_training():
    hint = changed("CallContext, Model.train_function or record", "untold_model")
    seen = []

    class Watch(keras.layers.Layer):
        def call(self, x, training=None):
            seen.append(_compat.untold_model())
            return x

    class Model(keras.Model):
        def __init__(self):
            super().__init__()
            self.inner = sequential(Watch())

        def call(self, ids):
            return self.inner(ids)

    model = Model()
    model.compile("sgd", "mse")
    model(IDS)
    assert set(seen) == {None}, hint
    fit(model)
    assert seen[-1] is model, hint
    model.evaluate(IDS, TARGETS, verbose=0)
    assert seen[-1] is None, hint


def test_whether_training_may_be_a_default():
    hint = changed("CallContext", "may_be_default")
    seen = []

    class Inner(keras.layers.Layer):
        def call(self, x, training=None):
            seen.append(_compat.may_be_default())
            return x

    class Outer(keras.layers.Layer):
        def __init__(self):
            super().__init__()
            self.inner = Inner()

        def call(self, x, training=False):
            return self.inner(x)

    Outer()(keras.ops.zeros(3))
    assert seen.pop(), hint
    Inner()(keras.ops.zeros(3), training=False)
    assert not seen.pop(), hint
    assert not _compat.may_be_default()


def test_its_own_test_of_layers():
    hint = changed("TestCase.run_layer_test", "run_layer_test")

    def make(dtype=None):
        return keras.layers.GaussianNoise(0.1, dtype=dtype)

    with pytest.raises(AssertionError) as error:
        _compat.run_layer_test(make, input_data=np.ones((2, 3)), expected_output_shape=(2, 4))
    assert "Expected output shapes" in str(error.value), hint
