"""PyTorch layers that are wrong in large padded or packed batches, compiled training, late calls.

And those whose cause the kit once took for another one.
"""

from __future__ import annotations

import hashlib
from dataclasses import replace

import torch

from embnoise.testing import Claims
from tests.testing.torch_layers import (
    GAUSSIAN,
    Follower,
    Normal,
    Packs,
    Uniform,
    bad,
)

# Padded batches.


class UnmaskedIfWide(Uniform):
    def forward(self, x, mask):
        return super().forward(x, torch.ones_like(mask) if x.shape[2] > 256 else mask)


class NoneInManyPaddedRows(Uniform):
    def noise(self, x, mask):
        return super().noise(x, mask) * (bool(mask.all()) or len(x) < 64)


class OneDrawInWidePadded(Uniform):
    def units(self, x, mask):
        units = super().units(x, mask)
        return units if mask.all() or x.shape[2] <= 128 else units[:1].expand_as(units)


class DetachedAbove48Rows(Uniform):
    def forward(self, x, mask):
        return super().forward(x.detach() if len(x) > 48 else x, mask)


class WidthIfOneRow(Uniform):
    def length(self, x, mask):
        return super().length(x, mask) if len(x) > 1 else torch.tensor(x.shape[1])


class PaddedCountsTwice(Uniform):
    """Its alpha goes down to 0 in 200 calls."""

    count = 0

    def magnitude(self, x, mask):
        share = max(1 - self.count / 200, 0.0)
        self.count += 1 if mask.all() else 2
        return super().magnitude(x, mask) * share


# Packed batches.


class PackedIf(Packs):
    """``other`` says which batches get the noise of ``wrong``."""

    def packed(self, x, segments):
        return self.wrong(x, segments) if self.other(x) else super().packed(x, segments)

    def wrong(self, x, segments):
        """L is that of the row."""
        magnitude = self.alpha / (x.shape[1] * x.shape[2]) ** 0.5
        return self.units(x, segments > 0) * magnitude * (segments > 0)[..., None]


class RowIfManyPackedRows(PackedIf):
    def other(self, x):
        return len(x) > 16


class RowIfWideAndPacked(PackedIf):
    def other(self, x):
        return x.shape[2] > 256


class RowIfPackedFloat16(PackedIf):
    def other(self, x):
        return x.dtype == torch.float16


class PackedPaddingNoised(PackedIf):
    def other(self, x):
        return x.shape[1] > 512

    def wrong(self, x, segments):
        magnitude = self.alpha / torch.sqrt(self.lengths(segments) * x.shape[2])
        return self.units(x, segments > 0) * magnitude[..., None]


class SeededIfWideAndPacked(PackedIf):
    def other(self, x):
        return x.shape[2] > 256

    def wrong(self, x, segments):
        self.generator.manual_seed(self.seed)
        return Packs.packed(self, x, segments)


class DetachedIfLongAndPacked(Packs):
    def forward(self, x, mask, segment_ids=None):
        long = segment_ids is not None and x.shape[1] > 64
        return super().forward(x.detach() if long else x, mask, segment_ids)


# Large batches.


class InPlaceIfLarge(Uniform):
    def forward(self, x, mask):
        if not self.training or x.requires_grad or x.numel() <= 2**15:
            return super().forward(x, mask)
        return x.add_(self.noise(x, mask).to(x.dtype))


class PromotedIfLarge(Uniform):
    def forward(self, x, mask):
        noisy = super().forward(x, mask)
        return noisy.float() if self.training and x.numel() > 2**15 else noisy


class NoneInAMillion(Uniform):
    def noise(self, x, mask):
        return super().noise(x, mask) * (x.numel() < 2**20)


class SumOfSix(Uniform):
    def units(self, x, mask):
        return (self.rand((6, *x.shape)).sum(dim=0) - 3) * 2**0.5


# Compiled.


class NoneIfCompiledAndTracked(Follower):
    def noise(self, x, mask):
        silent = torch.compiler.is_compiling() and x.requires_grad
        return super().noise(x, mask) * (not silent)


class NoneIfCompiledAndLong(Follower):
    def noise(self, x, mask):
        silent = torch.compiler.is_compiling() and x.shape[1] > 32
        return super().noise(x, mask) * (not silent)


# Many calls.


class EndsAfter400(Uniform):
    count = 0

    def noise(self, x, mask):
        self.count += 1
        return super().noise(x, mask) * (self.count <= 400)


class SeededEvery1000(Uniform):
    count = 0

    def units(self, x, mask):
        if self.count % 1000 == 0:
            self.generator.manual_seed(self.seed)
        self.count += 1
        return super().units(x, mask)


class ShortHash(Uniform):
    def forward(self, x, mask, step):
        digest = hashlib.sha256(f"{self.seed}/{step}".encode()).digest()
        self.generator.manual_seed(int.from_bytes(digest[:2], "little"))
        return super().forward(x, mask)


# Causes.


class OneTokenLess(Normal):
    def length(self, x, mask):
        return (super().length(x, mask) - 1).clamp(min=1)


class ClippedOutput(Uniform):
    def forward(self, x, mask):
        noisy = super().forward(x, mask)
        return noisy.clamp(-10, 10) if self.training else noisy


class OneSizePerToken(Uniform):
    """The signs are drawn for each channel."""

    def units(self, x, mask):
        signs = torch.where(self.rand(x.shape) < 0.5, 1.0, -1.0)
        return signs * self.rand((*x.shape[:2], 1))


class ProductInAByte(Uniform):
    """It overflows, and the root of a negative number is NaN."""

    def magnitude(self, x, mask):
        product = (self.length(x, mask) * x.shape[2]).to(torch.int8)
        return self.alpha / torch.sqrt(product.float())


class AtLeast1(Uniform):
    def __init__(self, alpha, seed):
        super().__init__(alpha, max(seed, 1))


class PairedHalves(Uniform):
    def units(self, x, mask):
        half = -(-len(x) // 2)
        units = super().units(x[:half], mask)
        return torch.cat([units, -units])[: len(x)]


class CounterOfTheClass(Uniform):
    count = 0

    def units(self, x, mask):
        CounterOfTheClass.count += 1
        self.generator.manual_seed((self.seed + 7919 * self.count) % 2**63)
        return super().units(x, mask)


class LengthsInBytes(Uniform):
    def forward(self, x, mask):
        lengths = mask.sum(dim=1, keepdim=True).to(torch.uint8)
        return super().forward(x, torch.arange(x.shape[1]) < lengths)


GLOBAL = Claims(seeded="global")
PATH = "take another path"

FAULTY = [
    bad(UnmaskedIfWide, "EN67", "padding gets noise", "the mask ignored above 256 channels"),
    bad(NoneInManyPaddedRows, "EN67", "get no noise", "no noise in 64 padded rows"),
    bad(OneDrawInWidePadded, "EN67", "one draw for several rows",
        "one draw for all padded rows of more than 128 channels"),
    bad(DetachedAbove48Rows, "EN67", "detached.*at such sizes", "gradient blocked above 48 rows"),
    bad(WidthIfOneRow, "EN51", "real tokens", "L is the width of a single row"),
    bad(PaddedCountsTwice, "EN51", "count as other steps",
        "padded batches count as two steps of the schedule",
        Claims(schedule=lambda step: max(1 - step / 200, 0.0), compilable=False)),
    bad(RowIfManyPackedRows, "EN68", PATH, "L is the packed row above 16 rows"),
    bad(PackedPaddingNoised, "EN68", "padding gets noise",
        "padding behind documents noised above 512 tokens"),
    bad(DetachedIfLongAndPacked, "EN68", "detached.*at such sizes",
        "gradient of packed rows blocked above 64 tokens"),
    bad(NoneIfCompiledAndTracked, "EN22", "whether a gradient is tracked",
        "no noise where compiled code tracks a gradient", GLOBAL),
    bad(OneTokenLess, "EN10", r"one less \(L - 1\)", "L - 1 for L, Gaussian", GAUSSIAN),
    bad(ClippedOutput, "EN12", r"clipped to \+-10", "the output clipped"),
    bad(OneSizePerToken, "EN34", "sizes.*neighboring channels", "one size for each token"),
    bad(ProductInAByte, "EN04", "integers have 8 bits", "L*d in 8 bits: NaN"),
    bad(AtLeast1, "EN44", "not given", "a seed of 0 taken for 1"),
    bad(PairedHalves, "EN36", "pairs are other rows", "the halves of a batch as pairs",
        Claims(antithetic=True)),
    bad(CounterOfTheClass, "EN05", "all layers share", "a counter that all layers share",
        repeatable=False),
    bad(LengthsInBytes, "EN10", "509 modulo 256, 253", "the lengths of rows in 8 bits",
        Claims(padding="right")),
    *(
        replace(each, profile="default")
        for each in (
            bad(RowIfWideAndPacked, "EN68", PATH, "L is the packed row above 256 channels"),
            bad(SeededIfWideAndPacked, "EN68", "one draw for several",
                "the same steps in wide packed batches"),
            bad(RowIfPackedFloat16, "EN47", "documents of a packed row",
                "float16: L is the packed row"),
            bad(InPlaceIfLarge, "EN16", "its own input", "large inputs changed in place"),
            bad(PromotedIfLarge, "EN04", "promoted", "large batches promoted"),
            bad(NoneInAMillion, "EN65", "get no noise", "no noise from 2^20 values on"),
            bad(SumOfSix, "EN65", "almost as claimed", "the sum of six draws as a Gaussian",
                GAUSSIAN),
            bad(NoneIfCompiledAndLong, "EN22", "no noise",
                "no noise in compiled rows above 32 tokens", GLOBAL),
            bad(EndsAfter400, "EN46", "the noise ends", "noise for 400 calls"),
            bad(SeededEvery1000, "EN46", "modulo 1000", "seeded again after 1,000 calls"),
            bad(ShortHash, "EN46", "hash of 16 bits", "seed and step in a hash of 16 bits"),
        )
    ),
]  # fmt: skip
