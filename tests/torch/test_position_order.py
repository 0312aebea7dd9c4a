"""Position ids tell documents only where they start again at the lowest one."""

import pytest
import torch

from embnoise import neftune
from embnoise_torch import attach
from tests.torch.models import Embedder, batch
from tests.torch.test_call import lengths

ORDER = r"position_ids go up and down within a row.*pass cu_seq_lens_q or seq_idx.*segment_ids"

UNORDERED = {
    "reversed": list(range(11, -1, -1)),
    "reversed, from one": list(range(12, 0, -1)),
    "permuted": [3, 7, 0, 11, 5, 9, 1, 8, 2, 10, 4, 6],
    "zigzag": [0, 2, 1, 3, 4, 6, 5, 7, 8, 10, 9, 11],
    "a suffix in front": [6, 7, 8, 9, 10, 11, 0, 1, 2, 3, 4, 5],
    "a tree": [0, 1, 2, 3, 4, 5, 3, 4, 5, 3, 4, 5],
}


@pytest.mark.parametrize("positions", UNORDERED.values(), ids=UNORDERED)
@pytest.mark.parametrize("masked", [True, False])
def test_rows_out_of_order_count_as_one_document(positions, masked):
    call = {"position_ids": torch.tensor([positions, list(range(12))])}
    expected = [[12] * 12] * 2
    if masked:
        call["attention_mask"] = torch.tensor([[1] * 12, [1] * 9 + [0] * 3])
        expected = [[12] * 12, [9] * 9 + [0] * 3]
    with pytest.warns(RuntimeWarning, match=ORDER):
        assert lengths(batch(2, 12), **call) == expected


def test_padding_inside_of_a_row_out_of_order_has_no_part_in_it():
    positions = torch.tensor([[0, 0, 5, 4, 3, 2, 1, 0]])
    mask = torch.tensor([[0, 0, 1, 1, 1, 1, 1, 1]])
    with pytest.warns(RuntimeWarning, match=ORDER):
        found = lengths(batch(1, 8), position_ids=positions, attention_mask=mask)
    assert found == [[0, 0, 6, 6, 6, 6, 6, 6]]


@pytest.mark.parametrize(
    ("positions", "mask", "expected"),
    [
        ([9, 9, 0, 1, 2, 0, 1, 1], [0, 0, 1, 1, 1, 1, 1, 0], [0, 0, 3, 3, 3, 2, 2, 0]),
        ([0, 1, 2, 1, 1, 0, 1, 2], [1, 1, 1, 0, 0, 1, 1, 1], [3, 3, 3, 0, 0, 3, 3, 3]),
        ([0, 1, 2, 0, 0, 0, 1, 2], [1, 1, 1, 0, 0, 1, 1, 1], [3, 3, 3, 0, 0, 3, 3, 3]),
        ([2, 3, 4, 1, 2, 3, 1, 1], [1, 1, 1, 0, 1, 1, 0, 0], [3, 3, 3, 0, 2, 2, 0, 0]),
    ],
)
def test_positions_of_padding_are_not_out_of_order(positions, mask, expected):
    call = {"position_ids": torch.tensor([positions]), "attention_mask": torch.tensor([mask])}
    assert lengths(batch(1, 8), **call) == [expected]


def test_padding_at_a_position_of_its_own():
    """At 1, where RoBERTa has it, and where it often is if positions are counted from a mask."""
    ids = torch.tensor([[5, 6, 7, 8, 9, 1, 1]])
    padded = {"pad_token_id": 1, "bos_token_id": None, "eos_token_id": 2}
    for positions, expected in (
        ([2, 3, 4, 2, 3, 1, 1], [3, 3, 3, 2, 2, 0, 0]),
        ([2, 3, 4, 5, 6, 1, 1], [5, 5, 5, 5, 5, 0, 0]),
        ([0, 1, 2, 3, 4, 1, 1], [5, 5, 5, 5, 5, 0, 0]),
    ):
        assert lengths(ids, padded, position_ids=torch.tensor([positions])) == [expected]


@pytest.mark.parametrize(
    ("positions", "expected"),
    [
        ([6, 7, 8, 0, 1, 2, 0, 1], [3] * 6 + [2] * 2),
        ([6, 7, 8, 0, 1, 2, 3, 4], [3] * 3 + [5] * 5),
        ([6, 7, 8, 0, 1, 2, 0, 0], [3] * 6 + [1] * 2),
        ([4, 5, 6, 7, 8, 9, 10, 11], [8] * 8),
    ],
)
def test_a_row_that_begins_within_a_document(positions, expected):
    with pytest.warns(RuntimeWarning, match="rows begin in the middle of a document"):
        found = lengths(batch(1, 8), position_ids=torch.tensor([positions]))
    assert found == [expected]


def test_nothing_is_warned_of_where_l_does_not_depend_on_it():
    positions = torch.tensor([UNORDERED["reversed"]])
    for length in (12, "padded"):
        model = Embedder()
        with attach(model, neftune(length=length)) as handle:
            model(batch(1, 12), position_ids=positions)
            assert handle.lookups == 1
