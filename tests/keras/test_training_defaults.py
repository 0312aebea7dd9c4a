"""Models and layers that do not tell what is in them whether they train."""

import warnings

import keras
import pytest

from embnoise import neftune
from embnoise_keras import EmbeddingNoise, attach
from tests.keras.models import DIM, IDS, TARGETS, VOCABULARY, fit, sequential

NOISE = neftune(50.0)
JAX = keras.backend.backend() == "jax"


class Block(keras.layers.Layer):
    def __init__(self, noise):
        super().__init__()
        self.embed = keras.layers.Embedding(VOCABULARY, DIM)
        self.noise = noise

    def build(self, _):
        self.embed.build()

    def call(self, ids, training=False):
        x = self.embed(ids)
        return x if self.noise is None else self.noise(x)


class Explicit(Block):
    def call(self, ids, training=None):
        return super().call(ids)


class Model(keras.Model):
    def __init__(self, block, tell):
        super().__init__()
        self.block, self.tell = block, tell

    def call(self, ids, training=None):
        return keras.ops.mean(self.block(ids, **self.tell(training)), axis=(1, 2))[:, None]


def noise_in_fit(block, tell):
    """The noise of a fitted model: that of a layer in it, or one that is attached."""
    model = Model(block, tell)
    model.compile("sgd", "mse")
    noise = attach(model, NOISE) if block.noise is None else block.noise
    fit(model)
    return noise


BOTH = pytest.mark.parametrize("make", [lambda: None, lambda: EmbeddingNoise(NOISE)])


@BOTH
def test_a_default_that_turns_the_noise_off_is_warned_of_with_jax(make):
    def says_nothing(training):
        return {}

    if JAX:
        with pytest.warns(RuntimeWarning, match="does not hand `training` on: with JAX"):
            noise = noise_in_fit(Block(make()), says_nothing)
        assert noise.step == 0
    else:
        assert noise_in_fit(Block(make()), says_nothing).step == 2


@BOTH
def test_training_that_is_passed_is_not_warned_of(make):
    handed_on = noise_in_fit(Block(make()), lambda training: {"training": training})
    assert handed_on.step == 2
    frozen = noise_in_fit(Explicit(make()), lambda training: {"training": False})
    assert frozen.step == 0


class WithoutTraining(keras.Model):
    """Its ``call`` has no argument ``training``."""

    def __init__(self, *noise):
        super().__init__()
        self.inner = sequential(*noise)

    def call(self, ids):
        return self.inner(ids)


class OnPurpose(WithoutTraining):
    """Says by itself whether there is noise."""

    mode = True

    def call(self, ids):
        return self.inner(ids, training=self.mode)


@pytest.fixture
def warned():
    """Counts the warnings about noise so far."""
    with warnings.catch_warnings(record=True) as said:
        warnings.simplefilter("always")
        yield lambda: sum(str(each.message).startswith("embnoise: ") for each in said)


@pytest.mark.parametrize("eager", [False, True])
def test_a_model_without_the_argument_is_warned_of_once_in_fit(warned, eager):
    layer = EmbeddingNoise(NOISE)
    model = WithoutTraining(layer)
    model.compile("sgd", "mse", run_eagerly=eager)
    model(IDS)
    model.predict(IDS, verbose=0)
    model.evaluate(IDS, TARGETS, verbose=0)
    assert warned() == 0
    fit(model)
    assert warned() == 1
    fit(model, epochs=2)
    model.evaluate(IDS, TARGETS, verbose=0)
    assert warned() == 1
    assert (layer.step, layer.lookups) == (0, 0)


def test_a_model_that_attach_warned_of_is_not_warned_of_again(warned):
    model = WithoutTraining()
    model.compile("sgd", "mse")
    with attach(model, NOISE) as handle:
        assert warned() == 1
        fit(model)
        assert handle.step == 0
    assert warned() == 1
    with attach(model.inner, NOISE):
        assert warned() == 1
        fit(model)
    assert warned() == 2


@pytest.mark.parametrize("mode", [True, False])
def test_a_model_that_passes_training_on_purpose_is_not_warned_of(mode):
    layer = EmbeddingNoise(NOISE)
    model = OnPurpose(layer)
    model.mode = mode
    model.compile("sgd", "mse")
    fit(model)
    model(IDS)
    assert layer.step == (3 if mode else 0)
