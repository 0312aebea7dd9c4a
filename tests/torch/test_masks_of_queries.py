"""Masks with more axes than two, and documents, under names that are not known."""

import pytest
import torch

from tests.frameworks import EAGER_OR_COMPILED
from tests.torch.test_untold_arguments import told
from tests.torch.test_untold_padding import MASK, WARNED

CAUSAL = torch.ones(6, 6, dtype=torch.bool).tril()
ADDITIVE = torch.zeros(3, 1, 1, 6).masked_fill(~MASK[:, None, None], -torch.inf)
STARTS_AGAIN = torch.tensor([[0, 1, 2, 3, 0, 1], [0, 1, 2, 0, 1, 2], [0, 1, 2, 3, 4, 5]])


@pytest.mark.parametrize("compiled", EAGER_OR_COMPILED)
@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("src_mask", MASK[:, None]),
        ("src_mask", ~MASK[:, None, None]),
        ("src_mask", MASK[:, None] & CAUSAL),
        ("src_mask", ~(MASK[:, None, None] & CAUSAL)),
        ("src_mask", (MASK[:, None] & CAUSAL).repeat_interleave(4, dim=0)),
        ("src_mask", ADDITIVE),
        ("src_mask", ADDITIVE.expand(3, 4, 6, 6) + torch.zeros(6, 6).masked_fill(~CAUSAL, -1e9)),
        ("src_mask", MASK[:, :, None]),
        ("keep", MASK[:, None]),
        ("keep", ~(MASK[:, None] & CAUSAL)),
        *((name, STARTS_AGAIN) for name in ("input_pos", "positions", "pos", "pos_ids")),
        ("positions", torch.tensor([[0, 1, 0, 1, 2, 3]])),
        ("positions", torch.tensor([1, 2, 3, 1, 1, 2])),
        ("doc_ids", torch.tensor([[0, 0, 1, 1, 1, 1]] * 3)),
    ],
)
def test_what_is_warned_of(name, value, compiled):
    (message,) = told(name, value, compiled=compiled)
    assert WARNED in message


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("src_mask", CAUSAL.expand(3, 6, 6)),
        ("src_mask", ~CAUSAL.expand(3, 1, 6, 6)),
        ("src_mask", CAUSAL.triu(-2).expand(3, 6, 6)),
        ("src_mask", torch.zeros(3, 4, 6, 6).masked_fill(~CAUSAL, -torch.inf)),
        ("attn_mask", torch.randn(3, 4, 6, 6, generator=torch.Generator().manual_seed(0))),
        ("masks", torch.empty(3, 0, 6)),
        ("region_masks", torch.rand(3, 8, 5, 7) > 0.5),
        ("distances", (torch.arange(6) - torch.arange(6)[:, None]).abs().expand(3, 6, 6)),
        ("keep", torch.ones(3, 1, 1, 6, dtype=torch.bool)),
        ("positions", torch.arange(6).expand(3, 6)),
        ("positions", torch.arange(6)),
        ("positions", torch.tensor([[0, 0, 0, 1, 2, 3], [1, 1, 0, 1, 2, 3], [0, 1, 2, 3, 4, 5]])),
        ("pos", torch.tensor([[7, 3, 7, 1, 3, 2]] * 3)),  # parts of speech
        ("column", STARTS_AGAIN),
        ("word_positions", STARTS_AGAIN),
        ("segment_ids", torch.tensor([[0, 0, 1, 1, 1, 1]] * 3)),
        ("sequence_ids", torch.tensor([[0, 0, 1, 1, 1, 1]] * 3)),
    ],
)
def test_what_is_something_else(name, value):
    assert told(name, value) == []
