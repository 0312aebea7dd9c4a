"""What a mask leaves open: documents under other names, and whether it is the right way around."""

import pytest
import torch

from embnoise import neftune
from embnoise_torch import attach
from tests.frameworks import EAGER_OR_COMPILED
from tests.torch.test_masks_beside_arguments import model
from tests.torch.test_packing import PADDING, lengths
from tests.torch.test_untold_padding import IDS, MASK, WARNED, messages

ONES = torch.ones(3, 6, dtype=torch.long)
DOCUMENTS = torch.tensor([[1, 1, 2, 2, 2, 3]] * 3)
POSITIONS = torch.tensor([[0, 1, 0, 1, 2, 0]] * 3)


@pytest.mark.parametrize("compiled", EAGER_OR_COMPILED)
@pytest.mark.parametrize("mask", [ONES, MASK])
@pytest.mark.parametrize(
    ("name", "value"), [("segment_ids", DOCUMENTS), ("doc_ids", DOCUMENTS), ("pos", POSITIONS)]
)
def test_a_mask_of_ones_and_zeros_tells_no_documents(name, value, mask, compiled):
    packed = model(f"input_ids, attention_mask, {name}", "input_ids")
    (message,) = messages(packed, IDS, mask, value, compiled=compiled)
    assert WARNED in message


@pytest.mark.parametrize(
    ("parameters", "args"),
    [
        ("attention_mask, segment_ids", (DOCUMENTS, DOCUMENTS)),
        ("position_ids, attention_mask, segment_ids", (POSITIONS, ONES, DOCUMENTS)),
        ("seq_idx, attention_mask, segment_ids", (DOCUMENTS - 1, ONES, DOCUMENTS)),
        ("attention_mask, token_type_ids", (ONES, 1 * ~MASK)),
        ("attention_mask, segment_ids", (ONES, ONES.cumsum(1) // 4)),
        ("attention_mask, lengths", (MASK, MASK.sum(1))),
        ("attention_mask, spans", (ONES, MASK)),
    ],
)
def test_what_tells_no_more_than_the_mask(parameters, args):
    assert messages(model(f"input_ids, {parameters}", "input_ids"), IDS, *args) == []


def test_a_mask_that_is_true_for_padding_is_refused():
    ids = IDS * MASK
    padded = model("input_ids, attention_mask", "input_ids", padding_idx=0)
    with attach(padded, neftune(5.0)), pytest.raises(ValueError, match="where 0 is, the id of pad"):
        padded(ids, ~MASK)
    assert messages(padded, ids, MASK) == []
    assert messages(padded, IDS, MASK) == []
    assert messages(padded, torch.zeros_like(ids), ONES) == []


@pytest.mark.parametrize("padding", [0, 1])
def test_a_document_of_one_token_behind_padding_on_the_left(padding):
    ids = torch.tensor([[0, 0, 0, 5, 6, 7]])
    positions = torch.tensor([[padding] * 3 + [0, 0, 1]])
    assert lengths(ids, PADDING, position_ids=positions) == [[0, 0, 0, 1, 2, 2]]
