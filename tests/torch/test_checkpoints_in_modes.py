"""Checkpoints that recompute a lookup under a dispatch mode, where the calls have returned."""

from contextlib import nullcontext
from functools import partial

import pytest
import torch
from torch import nn
from torch.utils.checkpoint import (
    CheckpointPolicy,
    checkpoint,
    create_selective_checkpoint_contexts,
)
from torch.utils.flop_counter import FlopCounterMode

from embnoise import neftune
from embnoise_torch import attach
from tests.torch.models import batch

MASK = torch.tensor([[1, 1, 1, 1, 1, 0, 0, 0], [1] * 8])


def recompute_all(*_, **__):
    return CheckpointPolicy.PREFER_RECOMPUTE


def save_noise(_, operator, *__, **___):
    ours = "embnoise" in str(operator)
    return CheckpointPolicy.MUST_SAVE if ours else CheckpointPolicy.PREFER_RECOMPUTE


class Checkpointed(nn.Module):
    def __init__(self, wrap):
        super().__init__()
        torch.manual_seed(0)
        self.embed, self.wrap = nn.Embedding(50, 8), wrap
        self.embed.padding_idx = 0

    def block(self, ids):
        return self.embed(ids).tanh()

    def forward(self, input_ids, attention_mask=None, labels=None):
        return self.wrap(self.block, input_ids)


def selective(policy):
    contexts = partial(create_selective_checkpoint_contexts, policy)
    return partial(checkpoint, use_reentrant=False, context_fn=contexts)


WRAPS = {
    "plain": partial(checkpoint, use_reentrant=False),
    "selective": selective(recompute_all),
    "selective, noise saved": selective(save_noise),
}


def gradient(wrap, mode, **functions):
    """That of the table, of two batches."""
    model = Checkpointed(wrap)
    with attach(model, neftune(20.0, seed=1), **functions) as handle, mode:
        for ids in (batch(), batch(seed=1)):
            ids[0, 5:] = 0
            labels = torch.where(MASK != 0, ids, -100)
            model(ids, MASK, labels).square().sum().backward()
        assert handle.lookups == 2
    return model.embed.weight.grad


@pytest.mark.parametrize("counted", [False, True])
@pytest.mark.parametrize("wrap", WRAPS)
@pytest.mark.parametrize(
    "functions",
    [
        {},
        {"tokens": lambda attention_mask: {"mask": attention_mask}},
        {"where": "completion"},
    ],
    ids=["none", "tokens", "where"],
)
def test_a_recomputed_lookup_asks_nobody(wrap, functions, counted):
    expected = gradient(lambda block, ids: block(ids), nullcontext(), **functions)
    mode = FlopCounterMode(display=False) if counted else nullcontext()
    torch.testing.assert_close(gradient(WRAPS[wrap], mode, **functions), expected)
