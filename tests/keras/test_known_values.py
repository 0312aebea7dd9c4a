"""What is read from values in calls that are not compiled: inverted masks, and packed rows."""

import keras
import numpy as np
import pytest

from embnoise import neftune
from embnoise_keras import attach
from tests.keras.models import DIM, IDS, MASK, VOCABULARY

NOISE = neftune(50.0)
FULL = np.ones_like(IDS)
DOCUMENTS = FULL * np.int32([1, 1, 2, 2, 3])
AGAIN = FULL * np.int32([0, 1, 2, 0, 1])


class Model(keras.Model):
    def __init__(self, mask_zero=False):
        super().__init__()
        self.embed = keras.layers.Embedding(VOCABULARY, DIM, mask_zero=mask_zero)

    def call(self, inputs, training=None):
        return self.embed(inputs["token_ids"])


def graph():
    ids = keras.Input((5,), dtype="int32", name="token_ids")
    mask = keras.Input((5,), dtype="bool", name="padding_mask")
    x = keras.layers.Embedding(VOCABULARY, DIM, mask_zero=True)(ids)
    return keras.Model({"token_ids": ids, "padding_mask": mask}, x)


@pytest.mark.parametrize("build", [graph, lambda: Model(mask_zero=True)])
def test_an_inverted_mask_is_refused(build):
    model = build()
    model({"token_ids": IDS, "padding_mask": MASK})
    with attach(model, NOISE) as handle:
        with pytest.raises(ValueError, match=r"nonzero where .* looked up 0, its id of pad"):
            model({"token_ids": IDS, "padding_mask": ~MASK}, training=True)
        assert handle.step == 0
        for mask in (MASK, ~MASK & False, MASK & (IDS != 9), FULL == 1):
            model({"token_ids": IDS, "padding_mask": mask}, training=True)


PACKED = [
    ("positions", AGAIN),
    ("position_ids", AGAIN[:1]),
    ("document_ids", DOCUMENTS),
    ("segment_ids", DOCUMENTS),
    ("segment_ids", FULL * np.int32([0, 1, 1, 3, 3])),
]


@pytest.mark.parametrize(("name", "given"), PACKED)
def test_packed_rows_are_warned_of_beside_a_mask(name, given):
    model, inputs = Model(), {"token_ids": IDS, "padding_mask": FULL, name: given}
    with attach(model, NOISE):
        with pytest.warns(RuntimeWarning, match=rf"{name} may tell several documents.*segment_ids"):
            model(inputs, training=True)
        model(inputs, training=True)  # once is enough
    with attach(model, neftune(50.0, length=5)):
        model(inputs, training=True)  # documents do not matter


def test_positions_that_start_again_are_warned_of_without_a_mask():
    model = Model()
    with attach(model, NOISE), pytest.warns(RuntimeWarning, match="positions may tell several"):
        model({"token_ids": IDS, "positions": AGAIN}, training=True)


@pytest.mark.parametrize(
    ("name", "given"),
    [
        ("positions", FULL * np.arange(5, dtype=np.int32)),
        ("positions", (np.cumsum(MASK, 1) - 1) * MASK),  # 0 at padding
        ("positions", np.cumsum(MASK, 1) * MASK),
        ("positions", FULL),
        ("positions", AGAIN[:, ::-1]),
        ("segment_ids", FULL * np.int32([0, 0, 1, 1, 0])),
        ("segment_ids", FULL * np.int32([0, 0, 1, 1, 2])),  # XLNet
        ("segment_ids", FULL),
        ("ids_of_documents", IDS),
        ("document_ids", DOCUMENTS[:, :4]),
        ("labels", DOCUMENTS),
    ],
)
def test_whole_rows_are_not_warned_of(name, given):
    model = Model()
    with attach(model, NOISE) as handle:
        inputs = {"token_ids": IDS, "padding_mask": MASK, name: given.astype("int32")}
        model(inputs, training=True)  # a warning would be an error
        assert handle.step == 1


@pytest.mark.parametrize(("name", "given"), [PACKED[0], *PACKED[2:4]])
def test_documents_beside_a_mask_are_known_by_name_in_fit(name, given):
    model, inputs = Model(), {"token_ids": IDS, "padding_mask": MASK, name: given}
    model.compile("sgd", "mse")
    with attach(model, NOISE):
        if name == "document_ids" or keras.backend.backend() == "torch":
            with pytest.warns(RuntimeWarning, match=rf"{name} may tell several documents"):
                model.fit(inputs, np.zeros((4, 5, DIM)), verbose=0)
        else:
            model.fit(inputs, np.zeros((4, 5, DIM)), verbose=0)
