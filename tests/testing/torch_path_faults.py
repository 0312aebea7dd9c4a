"""PyTorch layers that are right in a full float32 batch of odd sizes, and wrong on another path.

With padding, in packed rows, at the sizes of models, in batches that grow, in 16 bits.
"""

from __future__ import annotations

import math

import torch

from embnoise.testing import Claims
from tests.testing.torch_layers import Follower, Packs, Uniform, bad

# Padded batches.


class Padded(Uniform):
    """``rest`` says what becomes of the units if there is padding."""

    def units(self, x, mask):
        units = super().units(x, mask)
        return units if mask.all() else self.rest(units, x, mask)


class OneSidedIfPadded(Padded):
    def rest(self, units, x, mask):
        return units.abs()


class OneRowIfPadded(Padded):
    def rest(self, units, x, mask):
        return units[:1].expand_as(units)


class SeededIfPadded(Padded):
    def rest(self, units, x, mask):
        generator = torch.Generator().manual_seed(self.seed)
        return 2 * torch.rand(x.shape, generator=generator) - 1


class NarrowIfPadded(Padded):
    def rest(self, units, x, mask):
        return units**3


class NeighborsIfPadded(Padded):
    def rest(self, units, x, mask):
        return torch.where(self.rand(x.shape) < 0.5, units, units.roll(1, 2))


class OneDrawPerLength(Padded):
    def rest(self, units, x, mask):
        lengths = mask.sum(dim=1)
        return units[[int((lengths == each).nonzero()[0]) for each in lengths]]


class NoneIfARowIsEmpty(Uniform):
    def noise(self, x, mask):
        noise = super().noise(x, mask)
        return noise if mask.any(dim=1).all() else 0 * noise


class ScaledByRowsWithTokens(Uniform):
    def noise(self, x, mask):
        return super().noise(x, mask) * mask.any(dim=1).float().mean().nan_to_num(1.0)


class BytesIgnored(Uniform):
    def forward(self, x, mask):
        return super().forward(x, torch.ones_like(mask) if mask.dtype == torch.uint8 else mask)


class SignedBytesIgnored(Uniform):
    def forward(self, x, mask):
        return super().forward(x, torch.ones_like(mask) if mask.dtype == torch.int8 else mask)


# Packed rows.


class PositionsRestart(Packs):
    def units(self, x, mask):
        self.drawn = super().units(x, mask)
        return self.drawn

    def packed(self, x, segments):
        places = torch.tril(segments[:, :, None] == segments[:, None, :]).sum(dim=-1) - 1
        noise = super().packed(x, segments)
        moved = torch.gather(self.drawn, 1, places[..., None].expand_as(noise))
        return noise.abs() / self.drawn.abs().clamp(min=1e-9) * moved


class PaddingBehindDocuments(Packs):
    def packed(self, x, segments):
        magnitude = self.alpha / torch.sqrt(self.lengths(segments) * x.shape[2])
        return self.units(x, segments > 0) * magnitude[..., None]


class FourDocuments(Packs):
    def lengths(self, segments):
        return super().lengths(segments.clamp(max=4))


class Documents32(Packs):
    """A table of the lengths of 32 documents; further ones are counted as one token."""

    def lengths(self, segments):
        return torch.where(segments < 32, super().lengths(segments), 1)


class GapsCounted(Packs):
    """Padding counts with the document before it."""

    def lengths(self, segments):
        last = (segments > 0).flip(1).cumsum(1).flip(1) > 0
        return super().lengths(torch.where(last, segments.cummax(1)[0], segments))


class OneDocument(Packs):
    """No noise where all rows are one document."""

    def packed(self, x, segments):
        return super().packed(x, segments) * (segments > 1).any()


class PackedSteps(Packs):
    def packed(self, x, segments):
        self.generator.manual_seed(self.seed)
        return super().packed(x, segments)


class PackedAlways(Packs):
    def forward(self, x, mask, segment_ids=None):
        if segment_ids is None:
            return super().forward(x, mask)
        return x + self.packed(x, segment_ids).to(x.dtype)


class PackedDetached(Packs):
    def forward(self, x, mask, segment_ids=None):
        return super().forward(x if segment_ids is None else x.detach(), mask, segment_ids)


class RelativeOfPacked(Packs):
    """Its scale follows the RMS of a sequence; ``totals`` says what the sum over a document is."""

    def noise(self, x, mask):
        count = mask.sum(dim=1)[:, None, None] * x.shape[2]
        squares = (x.detach().float().square() * mask[..., None]).sum((1, 2), keepdim=True)
        rms = (squares / count.clamp(min=1)).sqrt()
        return self.units(x, mask) * self.alpha * rms * mask[..., None]

    def packed(self, x, segments):
        squares = x.detach().float().square().sum(dim=2) * (segments > 0)
        count = self.lengths(segments) * x.shape[2]
        rms = (self.totals(squares, segments) / count).sqrt() * (segments > 0)
        return self.units(x, segments > 0) * self.alpha * rms[..., None]


class RmsOfTheRow(RelativeOfPacked):
    def lengths(self, segments):
        return (segments > 0).sum(dim=1, keepdim=True)

    def totals(self, squares, segments):
        return squares.sum(dim=1, keepdim=True)


class DifferencesOfSums(RelativeOfPacked):
    def totals(self, squares, segments):
        until = squares.cumsum(dim=1)
        same = segments[:, :, None] == segments[:, None, :]
        last = (until[:, None, :] * same).amax(dim=2)
        before = torch.where(same, (until - squares)[:, None, :], torch.inf).amin(dim=2)
        return (last - before).clamp(min=0)


# Sizes.


class HalfAtMultiplesOf64(Uniform):
    def noise(self, x, mask):
        return super().noise(x, mask) * (0.5 if x.shape[2] % 64 == 0 else 1.0)


class NoneAtPowersOf2(Uniform):
    def noise(self, x, mask):
        length = x.shape[1]
        return super().noise(x, mask) * (0 if length > 16 and length & (length - 1) == 0 else 1)


class LastOfOddChannels(Uniform):
    def noise(self, x, mask):
        noise = super().noise(x, mask)
        if x.shape[2] % 2 and x.shape[2] > 1:
            noise[..., -1] = 0
        return noise


class LastOfOddRows(Uniform):
    def units(self, x, mask):
        units = super().units(x, mask)
        return torch.cat([units[:-1], units[-2:-1]]) if len(x) > 2 and len(x) % 2 else units


class RunsOut(Uniform):
    def units(self, x, mask):
        units = super().units(x, mask)
        units.view(-1)[2**18 :] = 0
        return units


class StartsAgain(Uniform):
    def units(self, x, mask):
        units = super().units(x, mask).flatten()
        return units[torch.arange(units.numel()) % 2**18].reshape(x.shape)


class LongEvaluation(Uniform):
    def forward(self, x, mask):
        return x + self.noise(x, mask).to(x.dtype) if x.shape[1] > 512 else super().forward(x, mask)


# Calls.


class FirstShape(Uniform):
    """Noise for as many rows and tokens as the first batch had."""

    shape = None

    def noise(self, x, mask):
        self.shape = self.shape or x.shape[:2]
        kept = torch.zeros(x.shape)
        kept[: self.shape[0], : self.shape[1]] = 1
        return super().noise(x, mask) * kept


class FirstShapeAgain(Uniform):
    def units(self, x, mask):
        self.width = getattr(self, "width", x.shape[1])
        return super().units(x, mask)[:, torch.arange(x.shape[1]) % self.width]


class FirstWidth(Uniform):
    def noise(self, x, mask):
        self.width = getattr(self, "width", x.shape[1])
        return self.units(x, mask) * self.alpha / math.sqrt(self.width * x.shape[2])


class OneRowSeeded(Uniform):
    def units(self, x, mask):
        if len(x) == 1:
            self.generator.manual_seed(self.seed)
        return super().units(x, mask)


class BackInTime(Uniform):
    """A step that is not above the last one gets no noise."""

    last = -1

    def forward(self, x, mask, step):
        self.generator.manual_seed(self.seed + 1_000_003 * step)
        if self.training and step <= self.last:
            return x
        self.last = step if self.training else self.last
        return super().forward(x, mask)


class SeedAndRow(Uniform):
    def __init__(self, alpha, seed):
        super().__init__(alpha, seed)
        self.calls = 0

    def rand(self, shape):
        self.calls += 1
        rows = [
            torch.rand(
                shape[1:],
                generator=torch.Generator().manual_seed((self.seed + row) * 100_003 + self.calls),
            )
            for row in range(shape[0])
        ]
        return torch.stack(rows) if rows else torch.zeros(shape)


# The global generator.


class FromTheInitialSeed(Follower):
    def rand(self, shape):
        return torch.rand(shape, generator=torch.Generator().manual_seed(torch.initial_seed()))


class PutsBack(Follower):
    def rand(self, shape):
        with torch.random.fork_rng([]):
            return super().rand(shape)


class SeedsAfterwards(Follower):
    def rand(self, shape):
        drawn = super().rand(shape)
        torch.manual_seed(1234)
        return drawn


# Gradients.


class Hooked(Uniform):
    """``passed`` says what becomes of the gradient."""

    def forward(self, x, mask):
        x = x * 1.0
        if x.requires_grad:
            x.register_hook(self.passed)
        return super().forward(x, mask)


class NegativeDropped(Hooked):
    def passed(self, gradient):
        return gradient.clamp(min=0)


class ClippedGradient(Hooked):
    def passed(self, gradient):
        return gradient.clamp(-10, 10)


class SmallDropped(Hooked):
    def passed(self, gradient):
        return gradient * (gradient.abs() > 1e-3)


class RoundedGradient(Hooked):
    def passed(self, gradient):
        return gradient.bfloat16().to(gradient.dtype)


class DetachedInEvaluation(Uniform):
    def forward(self, x, mask):
        return super().forward(x if self.training else x.detach(), mask)


class InNoGrad(Uniform):
    """It asks for the gradient, and not for the mode."""

    def forward(self, x, mask):
        if torch.is_grad_enabled():
            return super().forward(x, mask)
        return x + self.noise(x, mask).to(x.dtype)


class WhereTracked(Uniform):
    def forward(self, x, mask):
        if not x.requires_grad:
            return super().forward(x, mask)
        return x + self.noise(x, mask).to(x.dtype)


# Compiled calls.


class Compiled(Follower):
    """Its generator is the global one; ``other`` says what the compiler makes of the units."""

    def units(self, x, mask):
        units = super().units(x, mask)
        return self.other(units) if torch.compiler.is_compiling() else units


class TripledByTheCompiler(Compiled):
    def other(self, units):
        return 3 * units


class OneRowByTheCompiler(Compiled):
    def other(self, units):
        return units[:1].expand_as(units)


class DetachedByTheCompiler(Follower):
    def forward(self, x, mask):
        return super().forward(x.detach() if torch.compiler.is_compiling() else x, mask)


class UnmaskedByTheCompiler(Follower):
    def forward(self, x, mask):
        return super().forward(x, torch.ones_like(mask) if torch.compiler.is_compiling() else mask)


# 16 bits.


class InPlaceIn16Bits(Uniform):
    def forward(self, x, mask):
        if x.dtype != torch.bfloat16 or not self.training:
            return super().forward(x, mask)
        with torch.no_grad():
            return x.add_(self.noise(x, mask).to(x.dtype))


class DetachedIn16Bits(Uniform):
    def forward(self, x, mask):
        return super().forward(x.detach() if x.dtype == torch.bfloat16 else x, mask)


class GlobalIn16Bits(Uniform):
    def forward(self, x, mask):
        self.half = x.dtype == torch.bfloat16
        return super().forward(x, mask)

    def rand(self, shape):
        return torch.rand(shape) if self.half else super().rand(shape)


GLOBAL, PADDED = Claims(seeded="global"), Claims(length="padded")
RELATIVE = Claims(scale="relative", compilable=False)

FAULTY = [
    bad(OneSidedIfPadded, "EN63", r"\[0, 1\]", "noise on one side of 0, if there is padding"),
    bad(OneRowIfPadded, "EN63", "one draw", "one draw for all rows, if there is padding"),
    bad(SeededIfPadded, "EN63", "one draw", "the same noise at every step, if there is padding"),
    bad(NarrowIfPadded, "EN63", "another path", "another distribution, if there is padding"),
    bad(NeighborsIfPadded, "EN63", "1 channel apart", "channels repeated, if there is padding"),
    bad(OneDrawPerLength, "EN63", "one draw", "one draw for all rows of a length"),
    bad(NoneIfARowIsEmpty, "EN63", "all padding", "no noise if one row is all padding"),
    bad(ScaledByRowsWithTokens, "EN63", "all padding", "scaled by the share of empty rows"),
    bad(BytesIgnored, "EN48", "uint8 is ignored", "a mask of bytes ignored"),
    bad(SignedBytesIgnored, "EN48", "int8 is ignored", "a mask of signed bytes ignored"),
    bad(PositionsRestart, "EN64", "one draw", "documents of a row with equal noise"),
    bad(PaddingBehindDocuments, "EN64", "segment_ids == 0", "padding behind documents noised"),
    bad(FourDocuments, "EN20", "document 5|document 4",
        "all documents from the fourth one counted as one"),
    bad(Documents32, "EN20", "document 32: 2 real.*some bound",
        "documents from the 32nd one counted as one token"),
    bad(GapsCounted, "EN20", "between them", "padding between documents counted"),
    bad(OneDocument, "EN64", "even where it says nothing",
        "no noise where segment_ids tell one document"),
    bad(PackedSteps, "EN64", "one draw", "packed rows: the same noise at every step"),
    bad(PackedAlways, "EN02", "in packed batches, .*in evaluation mode too",
        "packed rows: noise in evaluation mode"),
    bad(PackedDetached, "EN59", "detached", "packed rows: gradient blocked"),
    bad(RmsOfTheRow, "EN66", "that of the whole row", "packed rows: the RMS of the row", RELATIVE),
    bad(DifferencesOfSums, "EN66", "float32 is too short",
        "packed rows: the RMS by a difference of float32 sums", RELATIVE),
    bad(HalfAtMultiplesOf64, "EN65", "powers of two", "half the noise where 64 divides d"),
    bad(NoneAtPowersOf2, "EN65", "powers of two", "no noise where L is a power of two"),
    bad(LastOfOddChannels, "EN65", r"channels \[64\]",
        "the last of an odd number of channels left out"),
    bad(LastOfOddRows, "EN65", "repeated", "the last of an odd number of rows repeated"),
    bad(RunsOut, "EN65", "get no noise", "no noise from the 2^18th value on"),
    bad(StartsAgain, "EN65", "repeated", "noise repeated from the 2^18th value on"),
    bad(LongEvaluation, "EN50", "evaluation mode", "noise in evaluation mode above 512 tokens"),
    bad(FirstShape, "EN51", "earlier call", "noise for as many tokens as in the first batch"),
    bad(FirstShapeAgain, "EN51", "earlier batch", "draw of the first batch's width, repeated"),
    bad(FirstWidth, "EN51", "earlier call", "the width of the first batch kept", PADDED),
    bad(OneRowSeeded, "EN23", "one row", "a batch of one row: the same noise at every step"),
    bad(BackInTime, "EN05", "given again", "no noise at a step that is given again"),
    bad(SeedAndRow, "EN45", "number of the row", "seed + row as a seed"),
    bad(FromTheInitialSeed, "EN06", "does not move",
        "a generator made of the global seed at every call", GLOBAL),
    bad(PutsBack, "EN06", "put back", "the global state put back after each draw", GLOBAL),
    bad(SeedsAfterwards, "EN06", "number of its own",
        "the global generator seeded after each draw", GLOBAL),
    bad(NegativeDropped, "EN13", "sets a part of it to 0", "negative gradients dropped"),
    bad(ClippedGradient, "EN13", "clips the gradient", "gradient clipped"),
    bad(SmallDropped, "EN59", "sets a part of it to 0|detached", "small gradients dropped"),
    bad(RoundedGradient, "EN13", "is rounded", "gradient rounded to bfloat16"),
    bad(DetachedInEvaluation, "EN13", "in evaluation mode the gradient",
        "gradient blocked in evaluation mode"),
    bad(InNoGrad, "EN02", "look at the mode alone", "noise in evaluation, under no_grad"),
    bad(WhereTracked, "EN13", "where a gradient is tracked",
        "noise in evaluation, for inputs that need a gradient"),
    bad(TripledByTheCompiler, "EN22", "whether it is compiled",
        "compiled: three times the noise", GLOBAL),
    bad(OneRowByTheCompiler, "EN22", "one draw", "compiled: one draw for all rows", GLOBAL),
    bad(DetachedByTheCompiler, "EN22", "in compiled calls alone", "compiled: gradient blocked",
        GLOBAL),
    bad(UnmaskedByTheCompiler, "EN22", "padding gets noise", "compiled: padding noised", GLOBAL),
    bad(InPlaceIn16Bits, "EN16", "in place", "bfloat16: input changed in place"),
    bad(DetachedIn16Bits, "EN13", "detached", "bfloat16: gradient blocked"),
    bad(GlobalIn16Bits, "EN05", "global generator", "bfloat16: drawn from the global generator"),
]  # fmt: skip
