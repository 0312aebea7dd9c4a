"""A mask that is not [B, L], beside positions that tell only one document in each row."""

import pytest
import torch

from tests.torch.models import batch
from tests.torch.test_call import lengths

UNREAD = r"attention_mask must be of shape \[B, L\].*position_ids that start again.*tokens="
SEVERAL = {"pad_token_id": 2, "bos_token_id": 1, "eos_token_id": 2}  # padding ends texts as well
ALONE = {"pad_token_id": 2, "bos_token_id": 1, "eos_token_id": 3}


def four_dimensional(mask):
    causal = torch.ones(mask.shape[1], mask.shape[1], dtype=torch.bool).tril()
    return mask.bool()[:, None, None] & causal


def padded(side):
    ids, mask = batch(2, 8).clamp(min=4), torch.ones(2, 8, dtype=torch.long)
    mask[0, 5:] = 0
    mask = mask if side == "right" else mask.flip(1)
    return ids.where(mask != 0, 2), mask


@pytest.mark.parametrize("config", [SEVERAL, ALONE])
@pytest.mark.parametrize("side", ["left", "right"])
def test_ids_that_may_be_padding_are_refused(side, config):
    ids, mask = padded(side)
    call = {"attention_mask": four_dimensional(mask), "position_ids": torch.arange(8)[None]}
    with pytest.raises(ValueError, match=UNREAD):
        lengths(ids, config, **call)


@pytest.mark.parametrize("config", [SEVERAL, ALONE])
def test_rows_that_neither_begin_nor_end_with_its_id_are_full(config):
    mask = four_dimensional(torch.ones(2, 8))
    ids = batch(2, 8).clamp(min=4)
    ids[0, 3] = 2
    call = {"attention_mask": mask, "position_ids": torch.arange(8)[None]}
    assert lengths(ids, config, **call) == [[8] * 8] * 2


def test_without_a_known_id_of_padding():
    mask, ids = four_dimensional(torch.ones(2, 8)), batch(2, 8)
    with pytest.raises(ValueError, match=UNREAD):
        lengths(ids, attention_mask=mask, position_ids=torch.arange(8)[None])
    positions = torch.tensor([[0, 1, 2, 3, 4, 0, 1, 2]])
    found = lengths(ids, attention_mask=mask, position_ids=positions)
    assert found == [[5] * 5 + [3] * 3] * 2


def test_positions_that_are_counted_from_a_mask_tell_it():
    """On the left, they stand still until the first token."""
    ids, mask = padded("left")
    for positions in (
        (mask.cumsum(1) - 1).clamp(min=0),
        (mask.cumsum(1) - 1).masked_fill(mask == 0, 1),
    ):
        call = {"attention_mask": four_dimensional(mask), "position_ids": positions}
        assert lengths(ids, SEVERAL, **call) == [[0] * 3 + [5] * 5, [8] * 8]
