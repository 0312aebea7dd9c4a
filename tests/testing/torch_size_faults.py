"""PyTorch layers that are wrong in batches of some sizes only, where sizes change, or in detail."""

from __future__ import annotations

import math
from dataclasses import replace

import numpy as np
import torch

from embnoise.testing import Claims
from tests.testing.torch_layers import (
    GAUSSIAN,
    Embedded,
    Normal,
    Packs,
    Stepped,
    Uniform,
    bad,
)
from tests.testing.torch_path_faults import RELATIVE, RelativeOfPacked


def mixed(numbers):
    """Integers as if at random, one for each (splitmix64)."""
    numbers = numbers * np.uint64(0x9E3779B97F4A7C15) + np.uint64(0x9E3779B97F4A7C15)
    numbers = (numbers ^ (numbers >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
    numbers = (numbers ^ (numbers >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
    return numbers ^ (numbers >> np.uint64(31))


class Hashed(Uniform):
    """A value is a hash of the seed and of three counters; ``counted`` makes them of the step."""

    def forward(self, x, mask, step):
        self.step = step
        return super().forward(x, mask)

    def rand(self, shape):
        counters = self.counted(*np.indices(shape, np.int64))
        values = mixed(np.full(1, self.seed, np.uint64))
        for counter in counters:
            values = mixed(values + counter.astype(np.uint64))
        return torch.from_numpy((values >> np.uint64(40)).astype(np.float32) * 2.0**-24)


class Tokens128(Hashed):
    def counted(self, row, place, channel):
        return row, self.step * 128 + place, channel


class Tokens2048(Hashed):
    def counted(self, row, place, channel):
        return row, self.step * 2048 + place, channel


class Rows512(Hashed):
    def counted(self, row, place, channel):
        return self.step * 512 + row, place, channel


class Channels1024(Hashed):
    def counted(self, row, place, channel):
        return row, place, self.step * 1024 + channel


class TokensOfTheBatch(Hashed):
    def counted(self, row, place, channel):
        return row, self.step * place.shape[1] + place, channel


class SeededAgain(Uniform):
    """``size`` of a batch, whose largest so far decides whether the generator is seeded again."""

    largest = 0

    def units(self, x, mask):
        if self.size(x) > self.largest:
            self.largest = self.size(x)
            self.generator.manual_seed(self.seed)
        return super().units(x, mask)


class SeededIfWider(SeededAgain):
    def size(self, x):
        return x.shape[1]


class SeededIfHigher(SeededAgain):
    def size(self, x):
        return x.shape[0]


class OneGeneratorPerShape(Uniform):
    def units(self, x, mask):
        generators = self.__dict__.setdefault("generators", {})
        new = torch.Generator().manual_seed(self.seed)
        self.generator = generators.setdefault(tuple(x.shape), new)
        return super().units(x, mask)


# Documents.


class NumbersUpToL(Packs):
    """It counts documents with a table of L + 1 numbers."""

    def lengths(self, segments):
        return super().lengths(segments.clamp(max=segments.shape[1]))


class NumbersInOrder(Packs):
    """A document begins where the number rises."""

    def lengths(self, segments):
        highest = segments.cummax(dim=1).values
        return super().lengths(torch.where(segments > 0, highest, 0))


class NumbersInFloat32(Packs):
    def lengths(self, segments):
        return super().lengths(segments.float())


# Ids.


class PaddingById(Embedded):
    def forward(self, ids, mask):
        return self.noise(self.table(ids), mask & (ids != 0))


class CountedById(Embedded):
    def forward(self, ids, mask):
        clean = self.table(ids)
        counted = (mask & (ids != 0)).sum(1).clamp(min=1)
        noise = self.noise(clean, mask) - clean
        return clean + noise * (mask.sum(1) / counted).sqrt()[:, None, None]


# Large batches.


class UnmaskedAbove16Rows(Uniform):
    def forward(self, x, mask):
        return super().forward(x, torch.ones_like(mask) if len(x) > 16 else mask)


class PaddingNoisedAbove64(Uniform):
    def noise(self, x, mask):
        noise = self.units(x, mask) * self.magnitude(x, mask)
        return noise if x.shape[1] > 64 else noise * mask[..., None]


class WidthIfLeft(Uniform):
    def length(self, x, mask):
        if x.shape[1] >= 64 and not mask[:, 0].all():
            return torch.full((len(x), 1, 1), x.shape[1])
        return super().length(x, mask)


class NoneForRowsInEights(Uniform):
    def noise(self, x, mask):
        return super().noise(x, mask) * (len(x) <= 16 or len(x) % 8 != 0)


class DetachedAbove512(Uniform):
    def forward(self, x, mask):
        return super().forward(x.detach() if x.shape[1] > 512 else x, mask)


class DetachedAbove256Channels(Uniform):
    def forward(self, x, mask):
        return super().forward(x.detach() if x.shape[2] > 256 else x, mask)


# Details.


class SumsBytes(Uniform):
    """Above 255 tokens the sum of a mask of bytes is another one."""

    def length(self, x, mask):
        length = super().length(x, mask)
        return (length % 256).clamp(min=1) if mask.dtype == torch.uint8 else length


class ShortIntegersIgnored(Uniform):
    def forward(self, x, mask):
        short = mask.dtype in (torch.int16, torch.int8, torch.float16)
        return super().forward(x, torch.ones_like(mask) if short else mask)


class SizesForSigns(Uniform):
    """Half of the channels are drawn, and the others made from their sizes."""

    def units(self, x, mask):
        units = super().units(x, mask)
        half = x.shape[2] // 2
        if half > 3:
            units[..., half : 2 * half] = 2 * units[..., :half].abs() - 1
        return units


class Centered(Normal):
    """The mean along some axes is subtracted, and the size kept."""

    def units(self, x, mask):
        units = super().units(x, mask)
        count = math.prod(x.shape[axis] for axis in self.axes)
        if count < 2:
            return units
        return (units - units.mean(dim=self.axes, keepdim=True)) * math.sqrt(count / (count - 1))


class CenteredTokens(Centered):
    axes = (2,)


class CenteredChannels(Centered):
    axes = (0, 1)


class HalfBelowZero(RelativeOfPacked):
    def noise(self, x, mask):
        return super().noise(x, mask) * torch.where(x < 0, 0.5, 1.0)

    def totals(self, squares, segments):
        return torch.einsum("bij,bj->bi", self.same(segments), squares)

    def same(self, segments):
        return (segments[:, :, None] == segments[:, None, :]).float()


class Joined(Stepped):
    """The digits of the seed and the step, as a seed."""

    def digits(self, step):
        return f"{self.seed}{step}"

    def forward(self, x, mask, step):
        one = np.random.SeedSequence(int(self.digits(step)))
        self.generator.manual_seed(int(one.generate_state(1)[0]))
        return x + self.noise(x, mask).to(x.dtype) if self.training else x


class JoinedInReverse(Joined):
    def digits(self, step):
        return f"{step}{self.seed}"


EAGER = Claims(compilable=False)
OVERLAP = "overlap, as if a step had fewer"

FAULTY = [
    bad(Tokens128, "EN43", OVERLAP, "steps of 128 tokens, which longer rows share", EAGER),
    bad(Tokens2048, "EN43", OVERLAP, "steps of 2,048 tokens, which longer rows share", EAGER),
    bad(Rows512, "EN43", OVERLAP, "steps of 512 rows, which larger batches share", EAGER),
    bad(Channels1024, "EN43", OVERLAP, "steps of 1,024 channels, which wider embeddings share",
        EAGER),
    bad(TokensOfTheBatch, "EN43", "with the size of the step",
        "step * L + position as a counter", EAGER),
    bad(SeededIfWider, "EN43", "seeded again when the size", "seeded again where rows get longer"),
    bad(SeededIfHigher, "EN43", "seeded again when the size", "seeded again where batches grow"),
    bad(OneGeneratorPerShape, "EN43", "seeded again when the size",
        "a generator for each shape, seeded alike", EAGER),
    bad(NumbersUpToL, "EN20", "numbered from 1", "documents numbered up to L"),
    bad(NumbersInOrder, "EN20", "in order", "documents numbered in order"),
    bad(NumbersInFloat32, "EN20", "numbered from 1", "documents numbered in float32"),
    bad(PaddingById, "EN47", "id of padding", "real tokens with the id of padding taken for it",
        None, "ids"),
    bad(CountedById, "EN47", "id of padding", "tokens with the id of padding not counted in L",
        None, "ids"),
    bad(UnmaskedAbove16Rows, "EN67", "padding gets noise", "the mask ignored above 16 rows"),
    bad(PaddingNoisedAbove64, "EN67", "padding gets noise", "padding noised above 64 tokens"),
    replace(
        bad(WidthIfLeft, "EN67", "padded on the left",
            "L is the width of rows of 64 tokens that are padded on the left"),
        profile="default",
    ),
    bad(NoneForRowsInEights, "EN67", "no noise", "no noise where 8 divides B"),
    bad(DetachedAbove512, "EN67", "detached.*at such sizes", "gradient blocked above 512 tokens"),
    bad(DetachedAbove256Channels, "EN67", "detached.*at such sizes",
        "gradient blocked above 256 channels"),
    bad(SumsBytes, "EN48", "uint8 is misread", "a mask of bytes summed in bytes"),
    bad(ShortIntegersIgnored, "EN48", "int16 is ignored", "a mask of 16-bit numbers ignored"),
    bad(SizesForSigns, "EN41", "signs and the sizes",
        "half of the channels made from the sizes of the others"),
    bad(CenteredTokens, "EN52", "each token is centered", "the mean of each token subtracted",
        GAUSSIAN),
    bad(CenteredChannels, "EN52", "each channel is centered",
        "the mean of each channel subtracted", GAUSSIAN),
    bad(HalfBelowZero, "EN62", "single values", "half of the noise on negative embeddings",
        RELATIVE),
    bad(Joined, "EN45", "joined", "the digits of seed and step joined"),
    bad(JoinedInReverse, "EN45", "joined", "the digits of step and seed joined"),
]  # fmt: skip
