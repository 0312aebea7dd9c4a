"""Lookups of one token of each row, of whose length nothing tells."""

import keras
import numpy as np
import pytest
from keras import ops

from embnoise import Noise, neftune
from embnoise_keras import attach
from tests.keras.models import DIM, IDS, VOCABULARY

NOISE = neftune(50.0)
COLUMN = "which are one token of each row that the model was called with"
AT_A_TIME = "looks up one token of each row at a time.*neftune"


class Decoder(keras.Model):
    """Looks up one token at a time: those of its targets, or its own."""

    def __init__(self, forced=True):
        super().__init__()
        self.embed = keras.layers.Embedding(VOCABULARY, DIM)
        self.forced = forced

    def call(self, inputs, training=None):
        found, token = [], ops.ones_like(inputs["targets"][:, :1])
        for step in range(5):
            found.append(self.embed(token))
            token = inputs["targets"][:, step : step + 1] if self.forced else token * 2
        return ops.concatenate(found, axis=1)


def graph():
    ids = keras.Input((5,), dtype="int32", name="targets")
    embed = keras.layers.Embedding(VOCABULARY, DIM)
    tokens = [embed(ids[:, step : step + 1]) for step in range(5)]
    return keras.Model({"targets": ids}, ops.concatenate(tokens, axis=1))


INPUTS = {"targets": IDS, "src": IDS}


@pytest.mark.parametrize("build", [Decoder, graph])
def test_a_column_of_the_inputs_is_refused(build):
    model = build()
    inputs = {name: INPUTS[name] for name in ("targets", "src")[: 1 + (build is Decoder)]}
    model(inputs)
    with attach(model, NOISE), pytest.raises(ValueError, match=COLUMN):
        model(inputs, training=True)
    for noise in (neftune(50.0, length=5), Noise(1.0, scale="absolute")):
        with attach(model, noise) as handle:
            model(inputs, training=True)
            assert handle.lookups == 5


def test_tokens_of_its_own_are_warned_of():
    model = Decoder(forced=False)
    with attach(model, NOISE), pytest.warns(RuntimeWarning, match=AT_A_TIME):
        model(INPUTS, training=True)


def test_a_loop_is_warned_of_in_fit():
    model = Decoder(forced=False)
    model.compile("sgd", "mse")
    targets = np.zeros((4, 5, DIM))
    with attach(model, NOISE), pytest.warns(RuntimeWarning, match=AT_A_TIME):
        model.fit(INPUTS, targets, batch_size=2, verbose=0)
    with attach(model, neftune(50.0, length=5)):
        model.fit(INPUTS, targets, batch_size=2, verbose=0)


class Items(keras.Model):
    """Scores items beside a history of items, with a token of its own in front of it."""

    def __init__(self):
        super().__init__()
        self.embed = keras.layers.Embedding(VOCABULARY, DIM)

    def call(self, inputs, training=None):
        found = [self.embed(ops.maximum(inputs[name], 0)) for name in inputs]
        return [*found, self.embed(ops.zeros_like(inputs["history"][:, :1]))]


@pytest.mark.parametrize(
    "inputs", [{"history": IDS, "one": IDS[:, -1:], "other": IDS[:, :1]}, {"history": IDS}]
)
def test_single_items_beside_a_history_are_rows(inputs):
    model = Items()
    with attach(model, NOISE) as handle:
        model(inputs, training=True)  # a warning would be an error
        assert handle.step == 1
