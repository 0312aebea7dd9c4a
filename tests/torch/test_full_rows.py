"""The short way for batches without padding: it says nothing that the long way would deny."""

import itertools

import pytest
import torch
from torch import nn

from embnoise.backend import TokenArrays
from embnoise_torch.model.call_stack import Caller, call_tokens, tell_full_rows
from embnoise_torch.model.lookup_tokens import resolve_tokens
from embnoise_torch.model.special_ids import SpecialIds

IDS = torch.tensor([[3, 4, 5], [3, 4, 5]])
ONES = torch.ones_like(IDS)
PADDED = torch.tensor([[1, 1, 1], [0, 1, 1]])
POSITIONS = torch.tensor([[0, 1, 2]])

PLAIN = [
    {"input_ids": IDS},
    {"input_ids": IDS, "labels": IDS, "position_ids": None, "attention_mask": None},
    {"input_ids": IDS, "attention_mask": ONES},
    {"input_ids": IDS, "attention_mask": ONES.bool()},
    {"input_ids": IDS, "attention_mask": ONES.to(torch.uint8)},
]
OTHERS = [
    {},
    {"input_ids": IDS.clone()},
    {"input_ids": IDS[:, 1:], "attention_mask": ONES[:, 1:]},
    {"attention_mask": ONES},
    {"input_ids": IDS, "attention_mask": PADDED},
    {"input_ids": IDS, "attention_mask": PADDED.bool()},
    {"input_ids": IDS, "attention_mask": 2 * ONES},
    {"input_ids": IDS, "attention_mask": torch.tensor([[1, 1, 2], [1, 2, 3]])},
    {"input_ids": IDS, "attention_mask": -ONES},
    {"input_ids": IDS, "attention_mask": ONES.float()},
    {"input_ids": IDS, "attention_mask": ONES[:1]},
    {"input_ids": IDS, "attention_mask": torch.ones(2, 5, dtype=torch.long)},
    {"input_ids": IDS, "attention_mask": torch.ones(2, 1, 3, 3, dtype=torch.long)},
    {"input_ids": IDS, "attention_mask": {"full_attention": ONES}},
    {"input_ids": IDS, "attention_mask": ONES, "position_ids": POSITIONS},
    {"input_ids": IDS, "position_ids": torch.tensor([[0, 1, 0]])},
    {"input_ids": IDS, "seq_idx": ONES},
    {"input_ids": IDS, "cu_seq_lens_q": torch.tensor([0, 2, 6])},
    {"input_ids": IDS, "cu_seq_lens": torch.tensor([0, 2, 6])},
]


def active(*calls, has_decoder=False):
    """Calls with these arguments, the outermost first."""
    module = nn.Identity()
    return tuple(
        (Caller(module, number + 1, list(call), has_decoder, {}, True, False), call)
        for number, call in enumerate(calls)
    )


@pytest.mark.parametrize("call", PLAIN)
def test_a_batch_without_padding_is_known(call):
    assert tell_full_rows(active(call), IDS, (2, 3), 1)
    assert tell_full_rows(active({"input_ids": IDS}, call), IDS, (2, 3), 1)


@pytest.mark.parametrize("call", OTHERS)
def test_any_other_batch_takes_the_long_way(call):
    assert not tell_full_rows(active(call), IDS, (2, 3), 1)
    assert not tell_full_rows(active(call, {"input_ids": IDS}), IDS, (2, 3), 1)


def test_what_is_not_the_lookup_of_one_side_takes_the_long_way():
    call = {"input_ids": IDS, "attention_mask": ONES}
    assert not tell_full_rows(active(call, has_decoder=True), IDS, (2, 3), 1)
    assert not tell_full_rows(active(call), IDS, (2, 5), 1)  # an embedding that lengthens its rows
    on_meta = {name: array.to("meta") for name, array in call.items()}
    assert not tell_full_rows(active(on_meta), on_meta["input_ids"], (2, 3), 1)


def test_the_long_way_finds_the_same():
    agreed = 0
    for calls in itertools.product(PLAIN + OTHERS, repeat=2):
        stack = active(*calls)
        if tell_full_rows(stack, IDS, (2, 3), 1):
            tokens, transposed = resolve_tokens(IDS, (2, 3), call_tokens(stack, 0), SpecialIds())
            assert tokens.mask is None or bool(tokens.mask.all())
            assert tokens._replace(mask=None) == TokenArrays()
            assert not transposed
            agreed += 1
    assert agreed > 25
