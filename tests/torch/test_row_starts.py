"""Rows whose position ids begin in the middle of a document: other ranks may hold the rest."""

import warnings

import pytest
import torch

from embnoise import neftune
from embnoise_torch import attach
from tests.torch.models import Embedder, batch, llama
from tests.torch.test_call import lengths

PART = r"position_ids, rows begin in the middle of a document.*attach\(\.\.\., mesh=\.\.\.\)"
SECOND_HALF = torch.arange(8, 16)[None]


@pytest.mark.parametrize("rows", [1, 2])
@pytest.mark.parametrize("masked", [True, False])
@pytest.mark.parametrize("length", ["tokens", "padded"])
def test_the_second_half_of_sequences_is_warned_of_once(rows, masked, length):
    model, ids = llama(), batch(2, 8)
    call = {"position_ids": SECOND_HALF.expand(rows, 8)}
    if masked:
        call["attention_mask"] = torch.tensor([[1] * 8, [1] * 5 + [0] * 3])
    with attach(model, neftune(length=length)) as handle:
        with pytest.warns(RuntimeWarning, match=PART):
            model(input_ids=ids, **call)
        model(input_ids=ids, **call)
        assert handle.lookups == 2


@pytest.mark.parametrize(
    "positions",
    [
        [[3, 4, 5, 0, 1, 2, 0, 1], [0, 1, 2, 3, 4, 5, 6, 7]],
        [[5, 6, 7, 8, 13, 14, 15, 16], [0, 1, 2, 3, 0, 1, 2, 3]],
        [SECOND_HALF[0].tolist()] * 3,
        [[[0] * 8] * 2, *[[SECOND_HALF[0].tolist()] * 2] * 3],
    ],
    ids=["packed", "two chunks", "Qwen2-VL, one row", "Qwen2-VL, with those of text"],
)
def test_other_parts(positions):
    positions = torch.tensor(positions)
    if len(positions) == 3:
        positions = positions[:, None].expand(3, 2, 8)
    if len(positions) == 4:
        positions = positions.roll(1, 0)
    with pytest.warns(RuntimeWarning, match=PART):
        lengths(batch(2, 8), position_ids=positions)


def test_padding_in_front_of_a_part_that_goes_on():
    """Rows padded on the left begin at 0 on the first rank only."""
    mask = torch.tensor([[0] * 8, [1] * 8])
    positions = torch.cat([torch.ones(1, 8, dtype=torch.long), SECOND_HALF - 5])
    with pytest.warns(RuntimeWarning, match=PART):
        lengths(batch(2, 8), attention_mask=mask, position_ids=positions)


@pytest.mark.parametrize(
    ("positions", "mask"),
    [
        ([0, 1, 2, 3, 4, 5, 6, 7], None),
        ([1, 2, 3, 4, 5, 6, 7, 8], None),
        ([2, 3, 4, 5, 6, 7, 1, 1], None),  # RoBERTa
        ([0, 1, 2, 3, 4, 5, 6, 7], [0, 0, 0, 0, 1, 1, 1, 1]),
        ([1, 1, 1, 1, 0, 1, 2, 3], [0, 0, 0, 0, 1, 1, 1, 1]),
        ([8, 9, 10, 0, 1, 2, 3, 4], [0, 0, 0, 1, 1, 1, 1, 1]),
        ([8, 9, 10, 11, 12, 13, 14, 15], [0] * 8),
        ([7, 7, 7, 7, 7, 7, 7, 7], None),
        ([3, 11, 17, 40, 41, 60, 62, 90], None),  # drawn at random, and sorted
    ],
)
def test_whole_rows_are_not_warned_of(positions, mask):
    call = {} if mask is None else {"attention_mask": torch.tensor([mask])}
    lengths(batch(1, 8), position_ids=torch.tensor([positions]), **call)


def test_nothing_is_warned_of_where_l_is_known():
    def nothing():
        return {}

    model, ids = Embedder(), batch(2, 8)
    for length, options in ((16, {}), ("tokens", {"tokens": nothing})):
        with attach(model, neftune(length=length), **options) as handle:
            model(ids, position_ids=SECOND_HALF)
            assert handle.lookups == 1
    with attach(model, neftune()) as handle, warnings.catch_warnings():
        warnings.filterwarnings("ignore", ".*with a cache of earlier tokens")
        model(ids, position_ids=SECOND_HALF, past_key_values=(torch.zeros(1),))
        assert handle.lookups == 1
