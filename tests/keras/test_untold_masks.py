"""Inputs that may tell padding or documents under names that are not known are warned of."""

import keras
import numpy as np
import pytest

import embnoise
from embnoise import neftune
from embnoise_keras import attach
from tests.keras.models import DIM, IDS, MASK, VOCABULARY, numpy

NOISE = neftune(50.0)
LENGTHS = MASK.sum(1).astype("int32")
DOCUMENTS = np.where(MASK, 1 + np.arange(5) // 2, 0).astype("int32")
UNTOLD = {
    "valid_tokens": MASK,
    "is_real": MASK,
    "lengths": LENGTHS,
    "seq_len": LENGTHS[:, None],
    "bias_mask": MASK[:, None].astype("int32"),
    "visible": MASK[:, None, None],
    "document_ids": DOCUMENTS,
    "segment_ids": DOCUMENTS,
}


# BERT has segments 0 and 1 beside a mask, and they are no documents.
TOLD = {name: given for name, given in UNTOLD.items() if name != "document_ids"}
TOLD["segment_ids"] = np.tile(np.int32([0, 0, 1, 1, 0]), (4, 1))


class Model(keras.Model):
    def __init__(self, name="ids", mask_zero=False):
        super().__init__()
        self.embed = keras.layers.Embedding(VOCABULARY, DIM, mask_zero=mask_zero)
        self.read = name

    def call(self, inputs, training=None):
        return self.embed(inputs[self.read])


@pytest.mark.parametrize("name", UNTOLD)
def test_an_input_that_may_tell_padding_is_warned_of(name):
    model, inputs = Model(), {"ids": IDS, name: UNTOLD[name]}
    clean = numpy(model(inputs))
    with attach(model, NOISE):
        message = rf"{name} of shape .* is not known, so it does not tell .*segment_ids.*full"
        with pytest.warns(RuntimeWarning, match=message):
            noisy = numpy(model(inputs, training=True))
        model(inputs, training=True)  # once is enough
    np.testing.assert_allclose(noisy, embnoise.add_noise(clean, NOISE, step=0), atol=1e-4)


@pytest.mark.parametrize("name", ["valid_tokens", "lengths", "document_ids"])
def test_it_is_warned_of_in_fit(name):
    ids = keras.Input((5,), dtype="int32", name="token_ids")
    other = keras.Input(UNTOLD[name].shape[1:], dtype=str(UNTOLD[name].dtype), name=name)
    x = keras.layers.Embedding(VOCABULARY, DIM)(ids)
    model = keras.Model({"token_ids": ids, name: other}, keras.layers.GlobalAveragePooling1D()(x))
    model.compile("sgd", "mse")
    with attach(model, NOISE), pytest.warns(RuntimeWarning, match=f"{name} of shape .*not known"):
        model.fit({"token_ids": IDS, name: UNTOLD[name]}, np.zeros((4, DIM)), verbose=0)


@pytest.mark.parametrize(
    ("others", "options"),
    [
        (TOLD | {"padding_mask": MASK}, {}),
        (TOLD, {"mask_zero": True}),
        ({"lengths": LENGTHS.astype("float32"), "answer_length": LENGTHS, "len": LENGTHS[0]}, {}),
        ({"valid_tokens": MASK[:, :4], "document_ids": DOCUMENTS[:, :4]}, {}),
        ({"answer_ids": IDS, "answer_mask": MASK}, {}),
        ({"doc_ids": IDS}, {"name": "query_ids"}),  # two towers
        ({"token_type_ids": DOCUMENTS}, {}),
    ],
)
def test_it_is_not_warned_of_without_need(others, options):
    model = Model(**options)
    with attach(model, NOISE) as handle:
        model({model.read: IDS, **others}, training=True)  # a warning would be an error
        assert handle.step == 1


def test_a_function_of_the_ids_alone_takes_no_mask():
    model, inputs = Model(), {"ids": IDS, "valid_tokens": MASK}
    with attach(model, NOISE, where=lambda ids: ids > 2), pytest.warns(match="valid_tokens .*full"):
        model(inputs, training=True)
    for where in (lambda valid_tokens: valid_tokens, lambda **named: named["valid_tokens"]):
        with attach(model, NOISE, where=where):
            model(inputs, training=True)  # a warning would be an error


class Unpacks(Model):
    def call(self, inputs, training=None):
        return self.embed(inputs[0])


def test_all_inputs_without_a_name_are_listed():
    model, inputs = Unpacks(), (IDS, MASK.astype("int32"), np.zeros_like(IDS))
    message = (
        r"whether inputs/1 or inputs/2 of shape \(4, 5\) is a mask is not known, so it does not"
    )
    with attach(model, NOISE), pytest.warns(RuntimeWarning, match=message):
        model(inputs, training=True)
