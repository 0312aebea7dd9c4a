"""What is drawn, and how often: distributions, seeds, steps, rows, tokens and channels.

Faults of PyTorch layers; most are ``Uniform`` with one method as people have written it.
"""

from __future__ import annotations

import numpy as np
import torch
from torch import nn

from embnoise.testing import Claims
from tests.testing.torch_layers import (
    DECAY,
    GAUSSIAN,
    Embedded,
    Follower,
    Normal,
    Stepped,
    Uniform,
    bad,
)


class OneGenerator(Uniform):
    """One for all layers, seeded by each that is made."""

    shared = torch.Generator()

    def __init__(self, alpha, seed):
        super().__init__(alpha, seed)
        self.shared.manual_seed(seed)

    def rand(self, shape):
        return torch.rand(shape, generator=self.shared)


class ByteStep(Stepped):
    """The step as a byte."""

    def forward(self, x, mask, step):
        return super().forward(x, mask, step % 256)

    def share(self, step):
        return 1.0


class Rolled(Uniform):
    """Every other row is the one before it, a token further."""

    def units(self, x, mask):
        units = super().units(x, mask)
        units[1::2] = units[: len(x) // 2 * 2 : 2].roll(1, 1)
        return units


class Clipped(Normal):
    def units(self, x, mask):
        return super().units(x, mask).clamp(-1, 1)


class Coarse(Uniform):
    def units(self, x, mask):
        return torch.randint(-127, 128, x.shape, generator=self.generator).to(torch.float32) / 127


class Shifted(Normal):
    def units(self, x, mask):
        return super().units(x, mask) + 0.1


class Rare(Uniform):
    """Full range, too seldom: half of the draws are a tenth as large."""

    def units(self, x, mask):
        small = self.rand(x.shape) < 0.5
        return super().units(x, mask) * torch.where(small, 0.1, 1.0)


class OneRow(Uniform):
    def rand(self, shape):
        return super().rand((1, *shape[1:])).expand(shape)


class OneToken(Uniform):
    def rand(self, shape):
        return super().rand((shape[0], 1, shape[2])).expand(shape)


class OneChannel(Uniform):
    def rand(self, shape):
        return super().rand((*shape[:2], 1)).expand(shape)


class Cached(Uniform):
    """One draw for each shape, kept."""

    def rand(self, shape):
        self.kept = getattr(self, "kept", {})
        if shape not in self.kept:
            self.kept[shape] = super().rand(shape)
        return self.kept[shape]


class Periodic(Stepped):
    """Eight draws, over and over."""

    def forward(self, x, mask, step):
        return super().forward(x, mask, step % 8)

    def share(self, step):
        return 1.0


class SeedDropped(Uniform):
    def __init__(self, alpha, seed):
        super().__init__(alpha, 0)


class Clock(Uniform):
    """Seeded by the operating system."""

    def __init__(self, alpha, seed):
        super().__init__(alpha, seed)
        self.generator.seed()


class DrawsAnyway(Uniform):
    """It draws from the global generator, also for alpha 0, and hides it by its seed."""

    def rand(self, shape):
        torch.rand(1)
        return super().rand(shape)


class DrawsNumPy(Uniform):
    def rand(self, shape):
        np.random.seed(self.seed + torch.randint(2**20, (), generator=self.generator).item())  # noqa: NPY002
        return torch.from_numpy(np.random.rand(*shape)).float()  # noqa: NPY002


class NormalizedTable(Embedded):
    def __init__(self, dim, noise):
        super().__init__(dim, noise)
        self.norm = nn.LayerNorm(dim)

    def forward(self, ids, mask):
        return self.norm(super().forward(ids, mask).float())


class Counted(Uniform):
    """A value for each counter, of which a part is given to each step, row or token."""

    stride, row = 2**40, 2**20

    def __init__(self, alpha, seed):
        super().__init__(alpha, seed)
        self.step = 0

    def units(self, x, mask):
        batch, width, dim = x.shape
        rows, tokens = torch.arange(batch)[:, None, None], torch.arange(width)[:, None]
        number = self.step * self.stride + rows * self.row + tokens * dim + torch.arange(dim)
        self.step += 1
        number = (number + self.seed * 0x5851F42D4C957F2D % 2**63) * 0x2545F4914F6CDD1D
        for shift in (31, 27, 33):
            number = (number ^ ((number >> shift) & (2 ** (64 - shift) - 1))) * 0x319642B2D24D8EC3
        return ((number >> 40) & 0xFFFFFF) / 2**23 - 1


class StepsOverlap(Counted):
    """A step has fewer counters than a large batch has values."""

    stride, row = 2**18, 2**16


class RowsOverlap(Counted):
    """A row has fewer counters than a long one has values."""

    row = 2**13


class RowsAreNumberedAnew(Uniform):
    """Rows from 16 on have the noise of the first ones."""

    def units(self, x, mask):
        return super().units(x, mask)[torch.arange(len(x)) % 16]


class FirstRowsOnly(Uniform):
    def noise(self, x, mask):
        return super().noise(x, mask) * (torch.arange(len(x)) < 32)[:, None, None]


class EqualRowsInHalf(Uniform):
    def units(self, x, mask):
        units = super().units(x, mask)
        return units[:1].expand_as(units) if x.dtype == torch.bfloat16 else units


class OneDrawInHalf(Uniform):
    def forward(self, x, mask):
        if x.dtype == torch.bfloat16:
            self.generator.manual_seed(self.seed)
        return super().forward(x, mask)


class SeedTimesStep(Uniform):
    step = 0

    def forward(self, x, mask):
        self.step += self.training
        self.generator.manual_seed(self.seed * self.step % 2**63)
        return super().forward(x, mask)


class Smoothed(Uniform):
    """Averaged with the token before, and scaled back to full range."""

    axis = 1

    def units(self, x, mask):
        units = super().units(x, mask)
        before = units.roll(1, self.axis)
        return torch.where(torch.rand(x.shape, generator=self.generator) < 0.5, units, before)


class SmoothedChannels(Smoothed):
    axis = 2


class OppositeRows(Uniform):
    """SymNoise's pairs, not claimed."""

    def units(self, x, mask):
        units = super().units(x, mask)
        units[1::2] = -units[: len(x) // 2 * 2 : 2]
        return units


class Sticky(Uniform):
    """Half of the elements keep the noise of the call before."""

    def units(self, x, mask):
        units, kept = super().units(x, mask), getattr(self, "kept", None)
        if kept is not None and kept.shape == units.shape:
            units = torch.where(self.rand(x.shape) < 0.5, units, kept)
        self.kept = units
        return units


class StepUnused(Stepped):
    def forward(self, x, mask, step):
        noise = super().forward(torch.zeros_like(x), mask, 0)
        return x + noise * self.share(step)


class SameOnRanks(Uniform):
    """Right on one process."""


class UnlikePairs(Uniform):
    def units(self, x, mask):
        return super().units(x, mask).sign()


class FollowsNumPy(Follower):
    """It claims to follow PyTorch's seed."""

    def rand(self, shape):
        return torch.from_numpy(np.random.random_sample(tuple(shape))).float()  # noqa: NPY002


GLOBAL = Claims(seeded="global")


FAULTY = [
    bad(Clipped, "EN30", "clipped", "a clipped Gaussian claimed as uniform"),
    bad(Coarse, "EN28", "255 distinct", "a draw of 8 bits"),
    bad(Shifted, "EN29", "not centered", "a draw that is not centered", GAUSSIAN),
    bad(Rare, "EN30", "smaller than the others", "half of the draws too small"),
    bad(StepsOverlap, "EN43", "counters or seeds overlap", "a step with too few counters"),
    bad(RowsOverlap, "EN50", "the draw is for fewer tokens", "rows with too few counters"),
    bad(RowsAreNumberedAnew, "EN50", "the draw is for fewer rows", "rows from 16 on repeat"),
    bad(FirstRowsOnly, "EN50", "only some rows", "no noise in rows from 32 on"),
    bad(EqualRowsInHalf, "EN25", "rows_differ\\[bfloat16\\]", "equal rows in bfloat16 alone"),
    bad(OneDrawInHalf, "EN06", "steps_differ\\[bfloat16\\]", "equal steps in bfloat16 alone"),
    bad(SeedTimesStep, "EN45", "are multiplied", "the product of seed and step as a seed"),
    bad(OneGenerator, "EN05", "share one generator", "one generator for all layers"),
    bad(ByteStep, "EN06", "the same noise", "the step kept in a byte"),
    bad(Rolled, "EN40", "rolled, shifted", "a row that is another one, rolled"),
    bad(OneRow, "EN25", "shared by rows", "one draw for all rows"),
    bad(OneToken, "EN26", "shared by tokens", "one draw for all tokens"),
    bad(OneChannel, "EN27", "shared by channels", "one draw for all channels"),
    bad(Cached, "EN06", "drawn once and kept", "the same noise at every step"),
    bad(StepUnused, "EN06", "the step is not used", "the step is not used", DECAY),
    bad(Periodic, "EN06", "repeats after some steps", "noise that repeats after some steps"),
    bad(SeedDropped, "EN07", "seed is not used", "the seed is dropped"),
    bad(Clock, "EN05", "seeded by the clock", "seeded by the clock", repeatable=False),
    bad(FollowsNumPy, "EN05", "NumPy's or Python's global generator",
        "NumPy's generator, claimed as the framework's", GLOBAL, repeatable=False),
    bad(Follower, "EN05", "global generator", "the global generator, claimed as its own seed"),
    bad(DrawsAnyway, "EN14", "changes the global random state of the framework",
        "global random state moved"),
    bad(DrawsNumPy, "EN14", "NumPy", "NumPy's global state reseeded"),
    bad(NormalizedTable, "EN05", "normalizes the embeddings", "LayerNorm after noise on a table",
        None, "ids"),
    bad(Smoothed, "EN33", "neighboring tokens", "correlation between tokens"),
    bad(SmoothedChannels, "EN34", "neighboring channels", "correlation between channels"),
    bad(OppositeRows, "EN32", "neighboring rows", "opposite rows, not claimed"),
    bad(Sticky, "EN35", "neighboring steps", "noise kept in part from step to step"),
    bad(SameOnRanks, "EN38", "same noise", "the same noise on every rank",
        Claims(distinct_ranks=True)),
    bad(UnlikePairs, "EN36", "its own draw", "pairs that do not cancel",
        Claims(distribution="rademacher", antithetic=True)),
]  # fmt: skip
