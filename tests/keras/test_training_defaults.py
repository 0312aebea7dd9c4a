"""Layers whose ``training`` is ``False`` by default, in a model that does not hand it on."""

import keras
import pytest

from embnoise import neftune
from embnoise_keras import EmbeddingNoise, attach
from tests.keras.models import DIM, VOCABULARY, fit

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
