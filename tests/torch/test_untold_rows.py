"""Rows of which nothing is told in a way that is read: lists, offsets, positions of padding."""

import numpy as np
import pytest
import torch
from torch import nn

from embnoise import neftune
from embnoise_torch import add_noise, attach
from tests.frameworks import EAGER_OR_COMPILED
from tests.torch.test_masks_beside_arguments import model
from tests.torch.test_untold_padding import IDS, MASK, WARNED, messages

PADDED = "torch.nn.utils.rnn.pad_sequence([torch.as_tensor(each) for each in rows], True)"
JOINED = "torch.cat([torch.as_tensor(each) for each in rows])"
STACKED = "torch.stack([torch.as_tensor(each) for each in rows])"
KINDS = [list, tuple, np.array, torch.tensor]
RAGGED = [row[:length].tolist() for row, length in zip(IDS, MASK.sum(1).tolist(), strict=True)]
EQUAL = IDS.tolist()


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize(
    ("rows", "looked_up"), [(RAGGED, PADDED), (RAGGED, JOINED), (EQUAL, JOINED)]
)
def test_a_list_of_rows_that_the_model_pads_or_joins(rows, looked_up, kind):
    (message,) = messages(model("rows", looked_up), [kind(row) for row in rows])
    assert WARNED in message


@pytest.mark.parametrize("kind", KINDS)
def test_a_list_of_full_rows_and_other_lists(kind):
    assert messages(model("rows", STACKED), [kind(row) for row in EQUAL]) == []
    sizes = [kind((224, 224)), kind((336, 448))]
    assert messages(model("tokens, sizes", "tokens"), IDS, sizes) == []


@pytest.mark.parametrize(
    ("offsets", "told"), [([0, 4, 10], True), ([0, 4, 10, 18], True), ([0], False)]
)
def test_offsets_of_bags_in_one_row(offsets, told):
    found = messages(model("text, offsets", "text"), IDS.flatten(), torch.tensor(offsets))
    assert [WARNED in message for message in found] == [True] * told


def test_offsets_of_characters_are_none_of_bags():
    characters = torch.stack([IDS * 4, IDS * 4 + 3], dim=2)
    for offsets in (characters, characters[..., 0]):
        assert messages(model("tokens, offsets", "tokens"), IDS, offsets) == []


@pytest.mark.parametrize("compiled", EAGER_OR_COMPILED)
@pytest.mark.parametrize("padding", [None, 0])
@pytest.mark.parametrize(
    "positions",
    [
        [0, 1, 2, 3, 4, 5, 6],
        [0, 1, 2, 3, 4, -1, -1],
        [-1, -1, 0, 1, 2, 3, 4],
        [-1, -1, 0, 1, 2, 0, 1],
        [0, 1, 2, 0, 0, 1, -1],
    ],
)
def test_positions_of_padding_below_the_first_one(positions, padding, compiled):
    torch.compiler.reset()
    positions = torch.tensor([positions])
    real = positions >= 0
    ids = IDS[:1, :1] + torch.arange(7).where(real, -1)  # padding is 0
    embedder = model("input_ids, position_ids", "input_ids", padding_idx=padding)
    called = torch.compile(embedder, backend="eager") if compiled else embedder
    with attach(embedder, neftune(5.0)):
        noisy = called(ids, positions)
    documents = (positions == 0).cumsum(1).where(real, 0)
    expected = add_noise(torch.zeros(1, 7, 8), neftune(5.0), step=0, segment_ids=documents)
    assert torch.equal(noisy, expected)


@pytest.mark.parametrize(
    ("positions", "told"),
    [
        ([0, 1, 2, 3, -1, -1], True),
        ([-1, -1, 0, 1, 2, 3], True),
        ([0, 1, 2, 3, 4, 5], False),
        ([-1, 0, 1, 2, 3, 4], True),
        ([-2, -1, 0, 1, 2, 3], False),
        ([3, -1, 5, 0, 1, -1], False),
    ],
)
def test_such_positions_under_another_name(positions, told):
    found = messages(model("tokens, input_pos", "tokens"), IDS, torch.tensor([positions] * 3))
    assert [WARNED in message for message in found] == [True] * told


class Sides(nn.Module):
    """An encoder-decoder with one table, which is on neither side."""

    def __init__(self):
        super().__init__()
        self.e = nn.Embedding(50, 8, padding_idx=0)

    def forward(
        self, input_ids, attention_mask=None, decoder_input_ids=None, decoder_attention_mask=None
    ):
        return torch.cat([self.e(input_ids), self.e(decoder_input_ids)], dim=1)


def test_the_mask_of_one_side_is_not_that_of_the_other():
    encoder, decoder = (IDS * MASK, MASK), (IDS.flip(0) * MASK, MASK)
    (message,) = messages(Sides(), *encoder, decoder[0])
    assert "begins or ends with 0, the id of padding" in message
    (message,) = messages(Sides(), encoder[0], None, *decoder)
    assert "begins or ends with 0, the id of padding" in message
    assert messages(Sides(), *encoder, *decoder) == []
    assert messages(Sides(), *encoder, IDS.flip(0)) == []
