"""Models whose call takes its inputs as ``*inputs``, or other arguments as ``**kwargs``."""

import keras
import numpy as np
import pytest
from keras import ops

import embnoise
from embnoise import neftune
from embnoise_keras import attach
from tests.keras.models import DIM, IDS, MASK, VOCABULARY, numpy

NOISE = neftune(50.0)


class Variadic(keras.Model):
    def __init__(self):
        super().__init__()
        self.embed = keras.layers.Embedding(VOCABULARY, DIM)

    def build(self, *_):
        self.embed.build()

    def call(self, *inputs, training=None, **others):
        return self.embed(inputs[0])


@pytest.mark.parametrize("second", [1.0, MASK], ids=["number", "mask"])
def test_a_second_input_is_not_taken_for_training(second):
    model, inputs = Variadic(), [ops.convert_to_tensor(each) for each in (IDS, second)]
    clean = numpy(model(*inputs))
    with attach(model, NOISE, tokens=lambda ids: {"mask": ids != 0}) as handle:
        for training in ({}, {"training": False}):
            np.testing.assert_array_equal(numpy(model(*inputs, **training)), clean)
        assert handle.step == 0
        noisy = numpy(model(*inputs, training=True))
    expected = embnoise.add_noise(clean, NOISE, step=0, mask=MASK)
    np.testing.assert_allclose(noisy, expected, rtol=0, atol=1e-4)


def test_inputs_are_known_by_their_names():
    model, ids, mask = Variadic(), *map(ops.convert_to_tensor, (IDS, MASK))
    clean = numpy(model(ids))
    expected = embnoise.add_noise(clean, NOISE, step=0, mask=MASK)
    with attach(model, NOISE):
        noisy = model(ids, padding_mask=mask, training=True)
        np.testing.assert_allclose(numpy(noisy), expected, rtol=0, atol=1e-4)
    with attach(model, NOISE, tokens=lambda inputs: {"mask": inputs[1]}):
        noisy = model(ids, mask, training=True)
        np.testing.assert_allclose(numpy(noisy), expected, rtol=0, atol=1e-4)
    with attach(model, NOISE), pytest.warns(RuntimeWarning, match="inputs/1 of shape .* no name"):
        model(ids, mask, training=True)


class Negated(keras.layers.Embedding):
    """A lookup with more tensors."""

    def call(self, *inputs, reverse=False):
        return -super().call(inputs[0])


def test_a_lookup_may_take_several_inputs():
    layer = Negated(VOCABULARY, DIM, mask_zero=True)
    ids, more = map(ops.convert_to_tensor, (IDS, np.ones_like(IDS)))
    clean = numpy(layer(ids, more))
    with attach(layer, NOISE) as handle:
        np.testing.assert_array_equal(numpy(layer(ids, more)), clean)
        assert handle.step == 0
        layer(ids, more, training=True)
        assert handle.step == 1
