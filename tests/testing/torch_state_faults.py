"""PyTorch layers that are wrong in real training alone.

Where a gradient is tracked, around an evaluation without gradients, in packed 16-bit batches, on
other ranks than the first.
"""

from __future__ import annotations

import hashlib

import numpy as np
import torch
from torch import distributed

from embnoise.testing import Claims
from tests.testing.torch_layers import Follower, Packs, Uniform, bad


def hashed(*numbers):
    """A seed from numbers."""
    return int.from_bytes(hashlib.sha256(repr(numbers).encode()).digest()[:6], "little")


# Where a gradient is tracked.


class OneDrawIfTracked(Uniform):
    """Keeps its noise, for a forward pass that is recomputed."""

    def noise(self, x, mask):
        if not x.requires_grad:
            return super().noise(x, mask)
        if getattr(self, "kept", None) is None or self.kept.shape != x.shape:
            self.kept = super().noise(x, mask)
        return self.kept


class PaddingIfTracked(Uniform):
    def forward(self, x, mask):
        return super().forward(x, torch.ones_like(mask) if x.requires_grad else mask)


class InPlaceIfTracked(Uniform):
    def forward(self, x, mask):
        if not self.training or not x.requires_grad or x.is_leaf:
            return super().forward(x, mask)
        return x.add_(self.noise(x, mask).to(x.dtype))


# Evaluation without gradients.


class OffAfterEvaluation(Uniform):
    on = True

    def forward(self, x, mask):
        self.on &= self.training or torch.is_grad_enabled()
        return super().forward(x, mask) if self.on else x


class SeededInEvaluation(Uniform):
    def forward(self, x, mask):
        if not (self.training or torch.is_grad_enabled()):
            self.generator.manual_seed(self.seed)
        return super().forward(x, mask)


class ReferencePasses(Uniform):
    """No noise without gradients; ``after`` says what such a pass leaves behind."""

    on = True

    def forward(self, x, mask):
        if self.training and not torch.is_grad_enabled():
            self.after()
            return x
        return super().forward(x, mask) if self.on else x


class OffAfterReference(ReferencePasses):
    def after(self):
        self.on = False


class SeededByReference(ReferencePasses):
    def after(self):
        self.generator.manual_seed(self.seed)


# Modes.


class StaysInEvaluation(Uniform):
    def forward(self, x, mask):
        noisy = super().forward(x, mask)
        self.eval()
        return noisy


class StaysInTraining(Uniform):
    def forward(self, x, mask):
        noisy = super().forward(x, mask)
        self.train()
        return noisy


# Padded and packed batches.


class WideIfPadded(Uniform):
    def forward(self, x, mask):
        if not self.training or mask.all():
            return super().forward(x, mask)
        return x + self.noise(x, mask)


class WideIfPacked(Packs):
    def forward(self, x, mask, segment_ids=None):
        if segment_ids is None or not self.training:
            return super().forward(x, mask, segment_ids)
        return x + self.packed(x, segment_ids)


class SegmentsEdited(Packs):
    def forward(self, x, mask, segment_ids=None):
        noisy = super().forward(x, mask, segment_ids)
        if segment_ids is not None:
            segment_ids.sub_(1)
        return noisy


class InPlaceIfPacked(Packs):
    def forward(self, x, mask, segment_ids=None):
        if segment_ids is None or not self.training:
            return super().forward(x, mask, segment_ids)
        return x.add_(self.packed(x, segment_ids).to(x.dtype))


# Global state, though the layer may draw from that of PyTorch.


class SeedsInEvaluation(Follower):
    def forward(self, x, mask):
        if not self.training:
            torch.manual_seed(0)
        return super().forward(x, mask)


class DrawsInEvaluation(Follower):
    def forward(self, x, mask):
        noisy = x + self.noise(x, mask).to(x.dtype)
        return noisy if self.training else x


class SeedsNumPy(Follower):
    def forward(self, x, mask):
        np.random.seed(0)  # noqa: NPY002, the fault
        return super().forward(x, mask)


# Memory.


class History(Uniform):
    """Keeps its noise, to plot it later."""

    def __init__(self, alpha, seed):
        super().__init__(alpha, seed)
        self.history = []

    def noise(self, x, mask):
        self.history.append(super().noise(x, mask))
        return self.history[-1]


class HooksInForward(Uniform):
    def forward(self, x, mask):
        self.register_forward_hook(lambda *_: None)
        return super().forward(x, mask)


# Ranks.


class Ranked(Uniform):
    """The noise of a step and a rank, which ``seed_of`` makes a seed from."""

    steps = 0

    def rank(self):
        return distributed.get_rank() if distributed.is_initialized() else 0

    def world(self):
        return distributed.get_world_size() if distributed.is_initialized() else 1

    def noise(self, x, mask):
        self.generator.manual_seed(self.seed_of(self.steps, self.rank()))
        self.steps += 1
        return super().noise(x, mask)

    def seed_of(self, step, rank):
        return hashed(self.seed, step, rank)


class RankAsStep(Ranked):
    def seed_of(self, step, rank):
        return hashed(self.seed, step + rank)


class RankAsSeed(Ranked):
    def seed_of(self, step, rank):
        return hashed(self.seed + rank, step)


class FourRanks(Ranked):
    def seed_of(self, step, rank):
        return hashed(self.seed, step, rank % 4)


class FirstRank(Ranked):
    def noise(self, x, mask):
        return super().noise(x, mask) * (self.rank() == 0)


class LengthOfAllRanks(Ranked):
    def length(self, x, mask):
        return super().length(x, mask) * self.world()


class OppositeRanks(Ranked):
    def seed_of(self, step, rank):
        return hashed(self.seed, step, rank // 2)

    def units(self, x, mask):
        return super().units(x, mask) * (-1) ** self.rank()


class RolledRanks(Ranked):
    def seed_of(self, step, rank):
        return hashed(self.seed, step)

    def units(self, x, mask):
        return super().units(x, mask).roll(self.rank(), 0)


RANKS = Claims(distinct_ranks=True, compilable=False)
GLOBAL = Claims(seeded="global")
EAGER = Claims(compilable=False)
REFERENCE = Claims(clean_without_grad=True)

FAULTY = [
    bad(OneDrawIfTracked, "EN58", "kept from an earlier step",
        "one draw for all steps where a gradient is tracked"),
    bad(PaddingIfTracked, "EN58", "needs a gradient",
        "the mask is ignored where a gradient is tracked"),
    bad(InPlaceIfTracked, "EN16", "if that needs a gradient",
        "in place where a gradient is tracked"),
    bad(OffAfterEvaluation, "EN15", "there is no noise",
        "evaluation without gradients turns the noise off"),
    bad(SeededInEvaluation, "EN55", "starts over",
        "evaluation without gradients seeds the generator"),
    bad(OffAfterReference, "EN37", "for good",
        "a pass without gradients turns the noise off", REFERENCE),
    bad(SeededByReference, "EN37", "seeds the generator",
        "a pass without gradients seeds the generator", REFERENCE),
    bad(StaysInEvaluation, "EN57", "a call in training mode switches the mode of 'the layer'",
        "`forward` calls `eval()`", EAGER),
    bad(StaysInTraining, "EN57", "a call in evaluation mode switches the mode",
        "`forward` calls `train()`", EAGER),
    bad(WideIfPadded, "EN04", "float32 in training", "padded batches are promoted to float32"),
    bad(WideIfPacked, "EN04", "float32 in training", "packed batches are promoted to float32"),
    bad(SegmentsEdited, "EN57", "its segment_ids", "segment ids edited in place"),
    bad(InPlaceIfPacked, "EN16", "in place", "in place in packed batches"),
    bad(SeedsInEvaluation, "EN14", "a call in evaluation mode", "evaluation seeds PyTorch", GLOBAL),
    bad(DrawsInEvaluation, "EN14", "a call in evaluation mode",
        "evaluation draws from the global generator", GLOBAL),
    bad(SeedsNumPy, "EN14", "NumPy", "every call seeds NumPy", GLOBAL),
    bad(History, "EN46", "more objects", "the noise of every call is kept", EAGER),
    bad(HooksInForward, "EN46", "more objects", "every call registers a hook", EAGER),
    bad(RankAsStep, "EN38", "added to the seed or to the step",
        "the rank added to the step", RANKS),
    bad(RankAsSeed, "EN38", "added to the seed or to the step",
        "the rank added to the seed", RANKS),
    bad(FourRanks, "EN38", "seeds its generator alike", "the rank modulo 4", RANKS),
    bad(FirstRank, "EN38", "get no noise", "noise on rank 0 alone", RANKS),
    bad(LengthOfAllRanks, "EN38", "of another size", "L times the number of ranks", RANKS),
    bad(OppositeRanks, "EN38", "the same noise, or a part", "opposite noise on two ranks", RANKS),
    bad(RolledRanks, "EN38", "the same noise, or a part",
        "the rows of one draw moved from rank to rank", RANKS),
]  # fmt: skip
