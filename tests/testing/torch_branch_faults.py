"""PyTorch layers that are right in plain batches, and wrong where padding or documents meet more.

Where they meet gradients, strides, other dtypes, evaluation, saved state, ranks or the compiler.
"""

from __future__ import annotations

import torch

from embnoise.testing import Claims
from tests.testing.torch_layers import Packs, Uniform, bad
from tests.testing.torch_state_faults import RANKS, Ranked, hashed

CLEAN = Claims(clean_without_grad=True, compilable=False)

# Gradients.


class PackedIfUntracked(Packs):
    """No noise in packed rows where a gradient is tracked."""

    def packed(self, x, segments):
        return super().packed(x, segments) * (not x.requires_grad)


class PackedDetachedIn16Bits(Packs):
    def forward(self, x, mask, segment_ids=None):
        half = segment_ids is not None and x.dtype == torch.bfloat16
        return super().forward(x.detach() if half else x, mask, segment_ids)


class PackedWithoutGradients(Packs):
    """It asks for gradients where rows are not packed."""

    def forward(self, x, mask, segment_ids=None):
        if segment_ids is None and not torch.is_grad_enabled():
            return x
        return super().forward(x, mask, segment_ids)


class NoneInManyTrackedRows(Uniform):
    def noise(self, x, mask):
        return super().noise(x, mask) * (not x.requires_grad or len(x) < 32)


class PaddedInNoGrad(Uniform):
    """Noise in evaluation, of padded batches under no_grad."""

    def forward(self, x, mask):
        if mask.all() or torch.is_grad_enabled():
            return super().forward(x, mask)
        return x + self.noise(x, mask).to(x.dtype)


# Memory and dtypes.


class MaskOfStridedInput(Uniform):
    def forward(self, x, mask):
        return super().forward(x, mask if x.is_contiguous() else torch.ones_like(mask))


class MaskInOrderOfMemory(Uniform):
    def forward(self, x, mask):
        if not mask.is_contiguous():
            mask = torch.as_strided(mask, mask.shape, (mask.shape[1], 1))
        return super().forward(x, mask)


class IntegersInverted(Uniform):
    def forward(self, x, mask):
        output = super().forward(x, mask)
        if mask.dtype == torch.int64:
            mask.neg_().add_(1)
        return output


class HalfMaskIgnored(Uniform):
    def forward(self, x, mask):
        return super().forward(x, torch.ones_like(mask) if mask.dtype == torch.bfloat16 else mask)


# State and ranks.


class LengthsInABuffer(Uniform):
    def length(self, x, mask):
        length = super().length(x, mask)
        if not mask.all():
            self.register_buffer("last", length)
        return length


class KeepsPaddedLengths(Uniform):
    def __init__(self, alpha, seed):
        super().__init__(alpha, seed)
        self.kept = []

    def length(self, x, mask):
        length = super().length(x, mask)
        if not mask.all():
            self.kept.append(length)
        return length


class RankOfPlainBatches(Ranked):
    def forward(self, x, mask):
        self.plain = bool(mask.all())
        return super().forward(x, mask)

    def rank(self):
        return super().rank() if self.plain else 0

    def seed_of(self, step, rank):
        return hashed(self.seed, step, rank)


# Compiled calls.


class CompiledToTheRight(Uniform):
    """Compiled, the mask is made again from the lengths."""

    def forward(self, x, mask):
        if torch.compiler.is_compiling():
            mask = torch.arange(mask.shape[1]) < mask.sum(dim=1, keepdim=True)
        return super().forward(x, mask)


class CompiledWithAlpha5(Uniform):
    def magnitude(self, x, mask):
        magnitude = super().magnitude(x, mask)
        return magnitude * 5 / self.alpha if torch.compiler.is_compiling() else magnitude


FAULTY = [
    bad(PackedIfUntracked, "EN58", "in packed batches, .*not there",
        "packed rows: no noise where a gradient is tracked"),
    bad(PackedDetachedIn16Bits, "EN13", "in packed batches, .*detached",
        "packed rows: gradient blocked in bfloat16", profile="default"),
    bad(PackedWithoutGradients, "EN37", "in packed batches, .*without gradients",
        "packed rows: noise without gradients", CLEAN),
    bad(NoneInManyTrackedRows, "EN67", "requires_grad",
        "no noise in 32 rows or more where a gradient is tracked"),
    bad(PaddedInNoGrad, "EN02", "in padded batches, .*without gradients",
        "padded batches: noise in evaluation, under no_grad"),
    bad(MaskOfStridedInput, "EN56", "in padded batches, .*not contiguous",
        "the mask ignored for an input that is not contiguous"),
    bad(MaskInOrderOfMemory, "EN56", "in padded batches, .*its mask",
        "a mask that is not contiguous read in the order of memory"),
    bad(IntegersInverted, "EN57", "changes its mask", "an integer mask inverted in place"),
    bad(HalfMaskIgnored, "EN48", "bfloat16 is ignored", "a mask of bfloat16 ignored"),
    bad(LengthsInABuffer, "EN18", "entry 'last'", "padded batches: lengths in a persistent buffer"),
    bad(KeepsPaddedLengths, "EN46", "in padded batches, .*more objects",
        "padded batches: the lengths of every call kept"),
    bad(RankOfPlainBatches, "EN38", "in padded batches, ranks",
        "padded batches: one draw for all ranks", RANKS),
    bad(CompiledToTheRight, "EN22", "with a mask", "compiled: the mask made from the lengths"),
    bad(CompiledWithAlpha5, "EN22", "whether it is compiled", "compiled: a fixed alpha"),
]  # fmt: skip
