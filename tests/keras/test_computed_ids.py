"""Ids that a model computes before it looks them up, beside the mask of what it was given."""

import contextlib

import keras
import numpy as np
import pytest
from keras import ops

import embnoise
from embnoise import neftune
from embnoise_keras import attach, untold
from tests.keras.models import DIM, IDS, MASK, VOCABULARY, Probe, numpy, probed

NOISE = neftune(50.0)
INPUTS = {"token_ids": IDS, "padding_mask": MASK}
REVERSED = MASK[:, ::-1]
FULL = np.ones_like(IDS)


class Computing(keras.Model):
    """Looks up something made of its ids."""

    def __init__(self, change, mask_zero=False):
        super().__init__()
        self.embed = keras.layers.Embedding(VOCABULARY, DIM, mask_zero=mask_zero)
        self.probe = Probe()
        self.change = change

    def call(self, inputs, training=None):
        return self.probe(self.embed(self.change(inputs["token_ids"])), training=training)


def graph(change, mask_zero=False):
    inputs = {
        "token_ids": keras.Input((5,), dtype="int32", name="token_ids"),
        "padding_mask": keras.Input((5,), dtype="bool", name="padding_mask"),
    }
    embed = keras.layers.Embedding(VOCABULARY, DIM, mask_zero=mask_zero)
    return keras.Model(inputs, embed(change(inputs["token_ids"])))


def reverse(ids):
    return ops.flip(ids, axis=1)


SAME_ORDER = {
    "cast": lambda ids: ops.cast(ids, "uint8"),
    "shift": lambda ids: ids + 1,
    "some_replaced": lambda ids: ops.where(ops.equal(ids, 9), 3, ids),
}


def check(model, mask, warned=False):
    inputs = {name: ops.convert_to_tensor(each) for name, each in INPUTS.items()}
    clean = numpy(model(inputs))
    with contextlib.ExitStack() as stack:
        if warned:
            stack.enter_context(pytest.warns(RuntimeWarning, match="as if .* order.*pass tokens="))
        stack.enter_context(attach(model, NOISE))
        noisy = numpy(model(inputs, training=True))
    expected = embnoise.add_noise(clean, NOISE, step=0, mask=mask)
    np.testing.assert_allclose(noisy, expected, rtol=0, atol=1e-4)


@pytest.mark.parametrize("mask_zero", [False, True])
@pytest.mark.parametrize("change", SAME_ORDER.values(), ids=SAME_ORDER)
def test_ids_in_the_same_order_keep_their_mask(change, mask_zero):
    check(Computing(change, mask_zero), MASK)  # a warning would be an error


@pytest.mark.parametrize("build", [Computing, graph])
def test_ids_in_another_order_have_the_mask_of_an_embedding_that_knows_padding(build):
    check(build(reverse, mask_zero=True), REVERSED)


def test_values_are_read_in_the_first_calls_alone(monkeypatch):
    model, read = Computing(reverse), []
    monkeypatch.setattr(untold, "known_value", lambda tensor: read.append(tensor) or FULL)
    inputs = {"token_ids": ops.convert_to_tensor(FULL), "padding_mask": ops.ones_like(FULL)}
    model(inputs)
    with attach(model, NOISE):
        for _ in range(8):
            model(inputs, training=True)
        first = len(read)
        assert first > 0
        model(inputs, training=True)
        assert len(read) == first


@pytest.mark.parametrize("build", [Computing, graph])
def test_ids_in_another_order_are_warned_of_where_their_values_are_known(build):
    check(build(reverse), MASK, warned=True)


def test_ids_in_another_order_in_fit():
    model = Computing(reverse, mask_zero=True)
    clean = numpy(model(INPUTS))
    with attach(model, NOISE):
        seen = probed(model, INPUTS)
    expected = embnoise.add_noise(clean, NOISE, step=0, mask=REVERSED)
    np.testing.assert_allclose(seen, expected, rtol=0, atol=1e-4)
