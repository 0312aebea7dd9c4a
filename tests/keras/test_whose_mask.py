"""Whose mask an ``attention_mask`` is, where several arguments may be ids of tokens."""

import keras
import numpy as np
import pytest
from keras import ops

import embnoise
from embnoise import neftune
from embnoise_keras import attach
from tests.keras.models import DIM, IDS, MASK, VOCABULARY, numpy

NOISE = neftune(50.0)
OTHERS = IDS[::-1].copy()
INTEGERS = MASK.astype(np.int32)


def arguments(names, looked_up, mask_zero=False):
    """A model that takes arguments of these names, and looks one up."""
    space = {}
    exec(f"def call(self, {names}, training=None): return self.embed({looked_up})", space)  # noqa: S102

    class Model(keras.Model):
        def __init__(self):
            super().__init__()
            self.embed = keras.layers.Embedding(VOCABULARY, DIM, mask_zero=mask_zero)

        call = space["call"]

    return Model()


def graph(names, looked_up, mask_zero=False):
    """A functional model, which is called with a list."""
    inputs = {name: keras.Input((5,), dtype="int32", name=name) for name in names.split(", ")}
    embed = keras.layers.Embedding(VOCABULARY, DIM, mask_zero=mask_zero)
    return keras.Model([*inputs.values()], embed(inputs[looked_up]))


def check(model, inputs, mask):
    given = (inputs,) if hasattr(model, "inputs") else inputs
    clean = numpy(model(*given))
    with attach(model, NOISE):
        noisy = numpy(model(*given, training=True))
    expected = embnoise.add_noise(clean, NOISE, step=0, mask=mask)
    np.testing.assert_allclose(noisy, expected, rtol=0, atol=1e-4)


SECOND = [("src", "tgt"), ("context_ids", "response_ids"), ("text", "body"), ("prompt", "answer")]


@pytest.mark.parametrize("build", [arguments, graph])
@pytest.mark.parametrize("names", SECOND, ids=" ".join)
def test_a_mask_that_more_likely_is_that_of_another_argument_is_warned_of(names, build):
    model = build(f"{names[0]}, {names[1]}, attention_mask", names[1])
    with pytest.warns(RuntimeWarning, match=rf"may be that of .*{names[0]}\. Pass tokens="):
        check(model, [IDS, OTHERS, INTEGERS], MASK)


@pytest.mark.parametrize("build", [arguments, graph])
def test_the_padding_of_the_embedding_counts_before_such_a_mask(build):
    model = build("src, tgt, attention_mask", "tgt", mask_zero=True)
    check(model, [IDS, OTHERS, INTEGERS], OTHERS != 0)


def test_it_is_warned_of_in_fit():
    class Model(keras.Model):
        def __init__(self):
            super().__init__()
            self.embed = keras.layers.Embedding(VOCABULARY, DIM)

        def call(self, inputs, training=None):
            return ops.mean(self.embed(inputs["tgt"]), axis=1)

    model = Model()
    model.compile("sgd", "mse")
    inputs = {"src": IDS, "tgt": OTHERS, "attention_mask": INTEGERS}
    with attach(model, NOISE), pytest.warns(RuntimeWarning, match=r"may be that of .*src\. Pass"):
        model.fit(inputs, np.zeros((4, DIM)), batch_size=2, verbose=0)
    with attach(model, NOISE, tokens=lambda ids: {"mask": ids != 0}):
        model.fit(inputs, np.zeros((4, DIM)), batch_size=2, verbose=0)


@pytest.mark.parametrize(
    ("names", "looked_up"),
    [
        ("src, tgt, attention_mask", "src"),
        ("speaker_ids, token_ids, attention_mask", "token_ids"),
        ("item_ids, category_ids, attention_mask", "item_ids"),
        ("tokens, positions, attention_mask", "positions"),
        ("encoder_ids, decoder_ids, attention_mask", "decoder_ids"),
        ("labels, sentence, attention_mask", "sentence"),
    ],
)
@pytest.mark.parametrize("build", [arguments, graph])
def test_the_mask_is_that_of_the_likeliest_argument(names, looked_up, build):
    check(build(names, looked_up), [IDS, OTHERS, INTEGERS], MASK)  # a warning would be an error
