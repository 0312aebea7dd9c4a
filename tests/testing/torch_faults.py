"""PyTorch layers for the kit, one for every fault that it must name.

Most are ``Uniform`` with one method as people have written it.
"""

from __future__ import annotations

import numpy as np
import torch
from torch import nn

from embnoise import linear
from embnoise.testing import Claims
from tests.testing.torch_branch_faults import FAULTY as ON_BRANCHES
from tests.testing.torch_claim_faults import FAULTY as OF_CLAIMS
from tests.testing.torch_half_faults import FAULTY as IN_16_BITS
from tests.testing.torch_large_faults import FAULTY as LARGE
from tests.testing.torch_layers import (
    DECAY,
    GAUSSIAN,
    VOCABULARY,
    Embedded,
    Follower,
    Normal,
    Stepped,
    Uniform,
    bad,
)
from tests.testing.torch_path_faults import FAULTY as ON_OTHER_PATHS
from tests.testing.torch_size_faults import FAULTY as AT_OTHER_SIZES
from tests.testing.torch_state_faults import FAULTY as OF_STATE
from tests.testing.transformation_faults import TORCH as UNDER_TRANSFORMATIONS


class Dropped(Uniform):
    def forward(self, x, mask):
        return nn.functional.dropout(super().forward(x, mask), 0.1, self.training)


class ReadInOrder(Follower):
    def forward(self, x, mask):
        return super().forward(torch.as_strided(x, x.shape, torch.empty(x.shape).stride()), mask)


class PerToken(Uniform):
    def magnitude(self, x, mask):
        return torch.full((len(x), 1, 1), self.alpha / x.shape[2] ** 0.5)


class BatchCounted(Uniform):
    """dolomite's."""

    def magnitude(self, x, mask):
        return self.alpha / torch.sqrt(mask.sum() * x.shape[2])


class FirstSizes(Uniform):
    """instructlab's: the sizes of [B, L] where those of [L, d] were meant."""

    def magnitude(self, x, mask):
        return torch.full((len(x), 1, 1), self.alpha / (x.shape[0] * x.shape[1]) ** 0.5)


class NoSize(Uniform):
    def magnitude(self, x, mask):
        return self.alpha / torch.sqrt(self.length(x, mask))


class NoRoot(Uniform):
    def magnitude(self, x, mask):
        return self.alpha / (self.length(x, mask) * x.shape[2])


class NoScale(Uniform):
    def magnitude(self, x, mask):
        return torch.full((len(x), 1, 1), self.alpha)


class Fixed(Uniform):
    """fairseq's R3F: an epsilon, whatever alpha is."""

    def magnitude(self, x, mask):
        return torch.full((len(x), 1, 1), 1e-5)


class ZeroIsDefault(Uniform):
    def __init__(self, alpha, seed):
        super().__init__(alpha or 5.0, seed)


class SquaredAlpha(Uniform):
    def magnitude(self, x, mask):
        return self.alpha * super().magnitude(x, mask)


class Half(Uniform):
    def units(self, x, mask):
        return self.rand(x.shape) - 0.5


class StaysOn(Uniform):
    """Once switched on, it stays."""

    on = False

    def forward(self, x, mask):
        self.on = self.on or self.training
        return x + self.noise(x, mask).to(x.dtype) if self.on else x


class Drifting(Uniform):
    """Alpha decays, and nobody said so."""

    def magnitude(self, x, mask):
        magnitude = super().magnitude(x, mask)
        self.alpha *= 0.95
        return magnitude


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


class Laplace(Uniform):
    def units(self, x, mask):
        units = super().units(x, mask)
        return -units.sign() * torch.log1p(-units.abs()) / 2**0.5


class MeanOfTwo(Uniform):
    def units(self, x, mask):
        return (super().units(x, mask) + super().units(x, mask)) / 2


class OneSided(Uniform):
    def units(self, x, mask):
        return self.rand(x.shape)


class DividedByDeviation(Uniform):
    def magnitude(self, x, mask):
        return super().magnitude(x, mask) / 3**0.5


class MagnitudeAsDeviation(Uniform):
    def magnitude(self, x, mask):
        return super().magnitude(x, mask) * 3**0.5


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


class Twice(Uniform):
    """Two hooks, one left behind by a run that failed."""

    def noise(self, x, mask):
        return super().noise(x, mask) + super().noise(x, mask)


class AlwaysOn(Uniform):
    def forward(self, x, mask):
        return x + self.noise(x, mask).to(x.dtype)


class NeverAgain(Uniform):
    """The hook is removed by eval(), and train() does not bring it back."""

    def __init__(self, alpha, seed):
        super().__init__(alpha, seed)
        self.on = True

    def train(self, mode=True):
        self.on = self.on and mode
        return super().train(mode)

    def noise(self, x, mask):
        return super().noise(x, mask) * self.on


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


class Reseeded(Uniform):
    def rand(self, shape):
        torch.manual_seed(self.seed)
        return torch.rand(shape)


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


class OnPadding(Uniform):
    def noise(self, x, mask):
        return self.units(x, mask) * self.magnitude(x, mask)


class PaddedLength(Uniform):
    def length(self, x, mask):
        return torch.full((len(x), 1, 1), x.shape[1])


class LongestRow(Uniform):
    def length(self, x, mask):
        return mask.sum(dim=1).amax().clamp(min=1).reshape(1, 1, 1)


class Normalized(Uniform):
    """With the normalization of BERT's embeddings."""

    def forward(self, x, mask):
        return nn.functional.layer_norm(super().forward(x, mask), x.shape[-1:])


class NormalizedTable(Embedded):
    def __init__(self, dim, noise):
        super().__init__(dim, noise)
        self.norm = nn.LayerNorm(dim)

    def forward(self, ids, mask):
        return self.norm(super().forward(ids, mask).float())


class Guessing(Uniform):
    """Takes embeddings of 0 for padding."""

    def forward(self, x):
        return super().forward(x, (x != 0).any(dim=2))


class Absolute(Uniform):
    """Its scale should follow the RMS of the embeddings."""

    def size(self, x, mask):
        return torch.ones(1)

    def forward(self, x, mask):
        if not self.training:
            return x
        noise = self.units(x, mask) * self.alpha * self.size(x.float(), mask) * mask[..., None]
        return x + noise.to(x.dtype)


class OfTheBatch(Absolute):
    def size(self, x, mask):
        return x[mask].square().mean().sqrt()


class OfThePaddedBatch(Absolute):
    def size(self, x, mask):
        return x.square().mean().sqrt()


class OfThePaddedRow(Absolute):
    def size(self, x, mask):
        return x.square().mean((1, 2), keepdim=True).sqrt()


class OfTheLargest(Absolute):
    def size(self, x, mask):
        return (x.abs() * mask[..., None]).amax((1, 2), keepdim=True)


class OfTheNorm(Absolute):
    def size(self, x, mask):
        return (x.square() * mask[..., None]).sum((1, 2), keepdim=True).sqrt()


class OfTheToken(Absolute):
    def size(self, x, mask):
        return x.square().mean(2, keepdim=True).sqrt()


class PaddingZeroed(Uniform):
    def forward(self, x, mask):
        noisy = super().forward(x, mask)
        return noisy * mask[..., None] if self.training else noisy


class Rounded(Uniform):
    def forward(self, x, mask):
        return super().forward(x, mask).bfloat16().to(x.dtype)


class Positions(Uniform):
    def forward(self, x, mask):
        places = torch.arange(x.shape[1], dtype=x.dtype)
        return super().forward(x, mask) + places.sin()[:, None]


class Inverted(Uniform):
    def forward(self, x, mask):
        return super().forward(x, ~mask)


class EditedTable(Embedded):
    """Keeps the row of padding at 0, in evaluation too."""

    def forward(self, ids, mask):
        with torch.no_grad():
            self.table.weight[0].zero_()
        return super().forward(ids, mask)


class NoRowIsEmpty(Uniform):
    """The authors' code: an all-padding row divides by 0."""

    def length(self, x, mask):
        return mask.sum(dim=1)[:, None, None]


class NothingWithoutMask(Uniform):
    """Noise under a mask alone."""

    def forward(self, x, mask=None):
        return x if mask is None else super().forward(x, mask)


class PerTokenWithoutMask(Uniform):
    def forward(self, x, mask=None):
        if mask is not None or not self.training:
            return super().forward(x, mask)
        return x + (self.units(x, mask) * self.alpha / x.shape[2] ** 0.5).to(x.dtype)


class LastLeftOut(Uniform):
    def noise(self, x, mask):
        noise = super().noise(x, mask)
        last = mask.sum(dim=1).clamp(min=1) - 1
        noise[torch.arange(len(x)), last] = 0
        return noise


class HalfOfTheChannels(Uniform):
    def noise(self, x, mask):
        noise = super().noise(x, mask)
        noise[..., x.shape[2] // 2 :] = 0
        return noise


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


class LengthInAByte(Uniform):
    def length(self, x, mask):
        return mask.sum(dim=1, dtype=torch.uint8).long().clamp(min=1)[:, None, None]


class LengthInBlocks(Uniform):
    """Lengths above 64 are rounded up to a multiple of it."""

    def length(self, x, mask):
        length = super().length(x, mask)
        return torch.where(length > 64, -(-length // 64) * 64, length)


class OneRowIsFull(Uniform):
    """A batch of one row is taken to have no padding."""

    def forward(self, x, mask):
        return super().forward(x, mask if len(mask) > 1 else torch.ones_like(mask))


class EqualRowsAreFull(Uniform):
    """Rows of one length are taken to have no padding."""

    def forward(self, x, mask):
        count = mask.sum(dim=1)
        return super().forward(x, torch.ones_like(mask) if (count == count[0]).all() else mask)


class SecondAfterEvaluation(Uniform):
    """The second training call after evaluation has no noise."""

    since = 9

    def forward(self, x, mask):
        self.since = self.since + 1 if self.training else 0
        return x if self.since == 2 else super().forward(x, mask)


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


class MeanIfOneIsEmpty(Uniform):
    """The mean length of the batch, if a row has no token."""

    def length(self, x, mask):
        length = super().length(x, mask)
        return length if mask.any(dim=1).all() else (length.float() * 0 + mask.sum() / len(x))


class NoneOnLarge(Uniform):
    """Large embeddings get no noise."""

    def noise(self, x, mask):
        return super().noise(x, mask) * (x.abs() <= 10)


class DetachedOneToken(Uniform):
    def forward(self, x, mask):
        return super().forward(x.detach() if x.shape[1] == 1 else x, mask)


class HalfOverflow(Uniform):
    """NeMo's: L * d in the embeddings' own dtype."""

    def magnitude(self, x, mask):
        size = self.length(x, mask).to(x.dtype) * torch.tensor(x.shape[2], dtype=x.dtype)
        return (self.alpha / torch.sqrt(size.float())).float()


class Multiplied(Uniform):
    def forward(self, x, mask):
        return x * (1 + self.noise(x, mask).to(x.dtype)) if self.training else x


class OwnScale(Uniform):
    """Magnitudes from the spread of the embeddings, where none was promised."""

    def magnitude(self, x, mask):
        return super().magnitude(x, mask) * (1 + x.float().abs().mean())


class InPlace(Uniform):
    def forward(self, x, mask):
        return x.add_(self.noise(x, mask).to(x.dtype)) if self.training else x


class Detached(Uniform):
    def forward(self, x, mask):
        return super().forward(x, mask).detach() if self.training else x


class Rescaled(Uniform):
    """Twice the embeddings less a constant copy of them: the values are right."""

    def forward(self, x, mask):
        return super().forward(2 * x - x.detach(), mask) if self.training else x


class Promoted(Uniform):
    def forward(self, x, mask):
        return x + self.noise(x, mask) if self.training else x


class SavedNoise(Uniform):
    def __init__(self, alpha, seed):
        super().__init__(alpha, seed)
        self.register_buffer("step", torch.zeros((), dtype=torch.int64))

    def forward(self, x, mask):
        self.step += self.training
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


class Squeezed(Uniform):
    """A sequence of one token loses its axis."""

    def units(self, x, mask):
        return 2 * self.rand(x.squeeze(1).shape) - 1


class Early(Stepped):
    """The counter is advanced before it is read."""

    def share(self, step):
        return super().share(step + 1)


class CountsEvaluation(Uniform):
    """Its calls are its steps, those in evaluation mode too."""

    def __init__(self, alpha, seed):
        super().__init__(alpha, seed)
        self.calls = 0

    def forward(self, x, mask):
        self.calls += 1
        share = max(1 - (self.calls - 1) / 10, 0)
        return x + (self.noise(x, mask) * share).to(x.dtype) if self.training else x


class Late(Stepped):
    def share(self, step):
        return super().share(max(step - 1, 0))


class Backwards(Stepped):
    def share(self, step):
        return super().share(max(10 - step, 0))


class Ignored(Stepped):
    def share(self, step):
        return 1.0


class NeverHalved(Ignored):
    """It should be halved at step 100."""


class EpochLate(Stepped):
    """Alpha goes down after epochs of 100 steps, and the first lasts for two."""

    def share(self, step):
        return 1 - max(step // 100 - 1, 0) / 10 if step < 1100 else 0.0


class StopsAtHalf(Uniform):
    """Its calls are its steps, of which the last ones should have less than half of alpha."""

    def __init__(self, alpha, seed):
        super().__init__(alpha, seed)
        self.calls = 0

    def magnitude(self, x, mask):
        self.calls += 1
        return super().magnitude(x, mask) * max(1 - (self.calls - 1) / 1000, 0.5)


class StepUnused(Stepped):
    def forward(self, x, mask, step):
        noise = super().forward(torch.zeros_like(x), mask, 0)
        return x + noise * self.share(step)


class Frozen(Uniform):
    """A draw that the compiler takes for a constant."""

    def rand(self, shape):
        return _drawn_while_tracing(self.generator, tuple(shape))


@torch.compiler.assume_constant_result
def _drawn_while_tracing(generator, shape):
    return torch.rand(shape, generator=generator)


class Packed(Uniform):
    """It knows documents, and counts the row."""

    def forward(self, x, mask, segment_ids):
        return super().forward(x, mask)


class SameOnRanks(Uniform):
    """Right on one process."""


class InGenerate(Uniform):
    """It looks at its mode alone."""


class AnyAlpha(Uniform):
    """It trains on NaN."""


class UnlikePairs(Uniform):
    def units(self, x, mask):
        return super().units(x, mask).sign()


# Layers that embed ids themselves.


class FollowsNumPy(Follower):
    """It claims to follow PyTorch's seed."""

    def rand(self, shape):
        return torch.from_numpy(np.random.random_sample(tuple(shape))).float()  # noqa: NPY002


class FromLengths(Uniform):
    """Padding is on the right, it believes."""

    def forward(self, x, mask):
        places = torch.arange(x.shape[1])
        return super().forward(x, places < mask.sum(dim=1, keepdim=True))


class NormalIfPaddedLeft(Uniform):
    def units(self, x, mask):
        if mask[:, 0].all():
            return super().units(x, mask)
        return torch.randn(x.shape, generator=self.generator).div(4).clamp(-1, 1)


class OnTheTable(Embedded):
    def forward(self, ids, mask):
        if self.training:
            noise = self.noise(torch.zeros_like(self.table(ids)), mask)
            self.table.weight.data[ids] += noise
        return self.table(ids)


class NoiseInTable(Embedded):
    """The lookup is noised, and the table a little."""

    def forward(self, ids, mask):
        if self.training:
            self.table.weight.data[7] += 1e-3
        return super().forward(ids, mask)


class Renormalized(Embedded):
    """The lookup scales the rows of its table down."""

    def __init__(self, dim, noise):
        super().__init__(dim, noise)
        self.table.max_norm = 1.0


class NeverCalled(Embedded):
    """The hook sits on a module that forward does not call, as in T5 and BART."""

    def __init__(self, dim, noise):
        super().__init__(dim, noise)
        self.shared = nn.Embedding(VOCABULARY, dim)
        self.shared.weight = self.table.weight
        self.shared.register_forward_hook(lambda module, ids, output: self.noise(output))

    def forward(self, ids, mask):
        return self.table(ids)


class MultipliedAfter(Embedded):
    """Gemma's: embeddings times sqrt(d), with the noise already in them."""

    def forward(self, ids, mask):
        return super().forward(ids, mask) * self.table.embedding_dim**0.5


class FrozenTable(Embedded):
    def forward(self, ids, mask):
        with torch.no_grad():
            return super().forward(ids, mask)


class TokensCounted(Uniform):
    """Right, with another claim: that L is the width of the row."""


class TokensCountedNormal(Normal):
    """Likewise."""


class ImagesCounted(Embedded):
    """Image positions get no noise, and count in L."""

    def forward(self, ids, mask):
        x = self.table(ids)
        return (
            x
            + self.noise.alpha
            / (x.shape[1] * x.shape[2]) ** 0.5
            * (self.noise.units(x, mask) * mask[..., None]).to(x.dtype)
            * self.training
        )


GLOBAL = Claims(seeded="global")
RELATIVE = Claims(scale="relative", compilable=False)


FAULTY = [
    bad(Dropped, "EN03", "dropout acts on the embeddings", "dropout after the noise"),
    bad(ReadInOrder, "EN56", "read in order", "memory read in order, with the global seed", GLOBAL),
    bad(PerToken, "EN10", r"sqrt\(d\) instead of sqrt\(L\*d\)", "sqrt(d) for sqrt(L*d)"),
    bad(BatchCounted, "EN08", "the batch is counted", "sqrt(B*L*d) for sqrt(L*d)"),
    bad(FirstSizes, "EN10", r"sqrt\(B\*L\) instead", "sqrt(B*L) for sqrt(L*d)"),
    bad(NoSize, "EN10", "the embedding size is missing", "sqrt(L) for sqrt(L*d)"),
    bad(NoRoot, "EN08", "square root is missing", "alpha/(L*d)"),
    bad(NoScale, "EN10", "alpha itself", "alpha, not scaled"),
    bad(Fixed, "EN11", "alpha is not used", "a fixed epsilon for alpha"),
    bad(ZeroIsDefault, "EN03", "'not given'", "alpha 0 taken for the default"),
    bad(SquaredAlpha, "EN11", "alpha enters twice", "alpha squared"),
    bad(Half, "EN08", "half the amplitude", "half the amplitude"),
    bad(OneSided, "EN08", "one-sided", "noise on one side of 0"),
    bad(DividedByDeviation, "EN08", "standard deviation instead of the range",
        "divided by sqrt(3): the deviation for the range"),
    bad(MagnitudeAsDeviation, "EN10", r"times sqrt\(3\)",
        "times sqrt(3): the range for the deviation"),
    bad(Normal, "EN10", "gaussian rather than uniform", "a Gaussian claimed as uniform"),
    bad(Clipped, "EN30", "clipped", "a clipped Gaussian claimed as uniform"),
    bad(Coarse, "EN28", "255 distinct", "a draw of 8 bits"),
    bad(Shifted, "EN29", "not centered", "a draw that is not centered", GAUSSIAN),
    bad(Rare, "EN30", "smaller than the others", "half of the draws too small"),
    bad(Laplace, "EN10", "heavier tails than a Gaussian", "a Laplace claimed as uniform"),
    bad(MeanOfTwo, "EN08", "mean of two uniform draws", "the mean of two draws"),
    bad(StepsOverlap, "EN43", "counters or seeds overlap", "a step with too few counters"),
    bad(RowsOverlap, "EN50", "the draw is for fewer tokens", "rows with too few counters"),
    bad(RowsAreNumberedAnew, "EN50", "the draw is for fewer rows", "rows from 16 on repeat"),
    bad(FirstRowsOnly, "EN50", "only some rows", "no noise in rows from 32 on"),
    bad(LengthInAByte, "EN19", "too few bits", "a length in 8 bits"),
    bad(LengthInBlocks, "EN19", "or rounded", "a length in blocks of 64"),
    bad(OneRowIsFull, "EN09", "real lengths \\[3\\]", "the mask of a batch of one row ignored"),
    bad(EqualRowsAreFull, "EN09", "real lengths \\[3", "the mask ignored if rows are equally long"),
    bad(SecondAfterEvaluation, "EN55", "after evaluation calls, training call 3",
        "the second call after evaluation without noise"),
    bad(EqualRowsInHalf, "EN25", "rows_differ\\[bfloat16\\]", "equal rows in bfloat16 alone"),
    bad(OneDrawInHalf, "EN06", "steps_differ\\[bfloat16\\]", "equal steps in bfloat16 alone"),
    bad(SeedTimesStep, "EN45", "are multiplied", "the product of seed and step as a seed"),
    bad(MeanIfOneIsEmpty, "EN10", r"\(B, L, d = \(4, 7", "the mean length, if a row is empty"),
    bad(NoneOnLarge, "EN12", "large embeddings get no noise", "no noise on large embeddings"),
    bad(DetachedOneToken, "EN59", "is detached", "the gradient of one token detached"),
    bad(Twice, "EN10", "added twice", "noise added twice (two hooks)"),
    bad(AlwaysOn, "EN02", "in evaluation mode too", "noise in evaluation"),
    bad(NeverAgain, "EN15", r"train\(\) again there is no noise", "none after train() again"),
    bad(StaysOn, "EN15", "stays on in eval", "noise in evaluation, after training"),
    bad(Drifting, "EN21", "alpha changes from call to call", "alpha drifts, not claimed"),
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
    bad(FromLengths, "EN09", "padded on the left.*made again from the lengths",
        "a mask made again from the lengths"),
    bad(NormalIfPaddedLeft, "EN47", "in batches such as this one, the noise is gaussian",
        "another distribution if padding is on the left"),
    bad(Follower, "EN05", "global generator", "the global generator, claimed as its own seed"),
    bad(DrawsAnyway, "EN14", "changes the global random state of the framework",
        "global random state moved"),
    bad(DrawsNumPy, "EN14", "NumPy", "NumPy's global state reseeded"),
    bad(OnPadding, "EN09", "padding gets noise", "padding noised"),
    bad(PaddedLength, "EN19", "row's width, padding included", "padded length used"),
    bad(LongestRow, "EN19", "longest row", "the longest row's length used"),
    bad(TokensCounted, "EN10", "L is the real tokens", "real tokens, claimed as the padded length",
        Claims(length="padded")),
    bad(TokensCountedNormal, "EN19", "L is the real tokens",
        "real tokens, claimed as the padded length", Claims("gaussian", length="padded")),
    bad(ImagesCounted, "EN19", "row's width", "image positions count in L", None, "ids"),
    bad(Packed, "EN20", "whole packed row", "packed length used"),
    bad(Normalized, "EN02", "normalizes the embeddings", "LayerNorm inside the layer"),
    bad(NormalizedTable, "EN05", "normalizes the embeddings", "LayerNorm after noise on a table",
        None, "ids"),
    bad(Guessing, "EN12", "embeddings that are 0", "padding guessed, without a mask"),
    bad(Absolute, "EN62", "does not depend on the embeddings", "a relative scale without RMS",
        RELATIVE),
    bad(OfTheBatch, "EN62", "that of the whole batch", "the RMS of the batch", RELATIVE),
    bad(OfThePaddedBatch, "EN62", "batch, padding included", "the RMS of the padded batch",
        RELATIVE),
    bad(OfThePaddedRow, "EN62", "counts its padding", "padding in the RMS of a row", RELATIVE),
    bad(OfTheLargest, "EN62", "largest value of a row", "the largest value for the RMS", RELATIVE),
    bad(OfTheNorm, "EN62", "norm of a row", "the norm for the RMS", RELATIVE),
    bad(OfTheToken, "EN62", "another size", "the RMS of each token", RELATIVE),
    bad(PaddingZeroed, "EN03", "padding are set to 0", "padding set to 0 in training"),
    bad(Rounded, "EN02", "are rounded", "embeddings rounded to bfloat16"),
    bad(Positions, "EN02", "also without noise, by positions", "positions added"),
    bad(Inverted, "EN09", "true for padding", "the mask taken for key_padding_mask"),
    bad(EditedTable, "EN17", "a call changes", "the table edited in every call", None, "ids"),
    bad(NoRowIsEmpty, "EN09", "NaN.*all padding", "an all-padding row divides by 0"),
    bad(NothingWithoutMask, "EN24", "no token gets noise", "no noise where no mask is given"),
    bad(PerTokenWithoutMask, "EN10", r"sqrt\(d\) instead", "the length left out without a mask"),
    bad(LastLeftOut, "EN24", "last token of every row gets no noise", "the last token left out"),
    bad(HalfOfTheChannels, "EN24", "fewer channels", "half of the channels left out"),
    bad(HalfOverflow, "EN08", "overflows in float16", "L*d overflows in float16: no noise"),
    bad(Multiplied, "EN12", "multiplied with the embeddings", "noise multiplied in"),
    bad(OwnScale, "EN12", "scale is taken from them", "scale taken from the embeddings"),
    bad(InPlace, "EN16", "in place", "input changed in place"),
    bad(Detached, "EN13", "detached", "gradient blocked"),
    bad(Rescaled, "EN13", "gradient is scaled", "gradient scaled"),
    bad(Promoted, "EN04", "promoted", "dtype promoted"),
    bad(SavedNoise, "EN18", "'step'", "extra entries in the saved state"),
    bad(Smoothed, "EN33", "neighboring tokens", "correlation between tokens"),
    bad(SmoothedChannels, "EN34", "neighboring channels", "correlation between channels"),
    bad(OppositeRows, "EN32", "neighboring rows", "opposite rows, not claimed"),
    bad(Sticky, "EN35", "neighboring steps", "noise kept in part from step to step"),
    bad(Squeezed, "EN23", r"\(4, 1, 1\).*\(4, 4, 1\)", "sizes of 1 squeezed away"),
    bad(Early, "EN21", "one step ahead", "alpha's schedule one step ahead", DECAY),
    bad(CountsEvaluation, "EN55", "advances its count", "evaluation calls advance the schedule",
        DECAY),
    bad(Late, "EN21", "one step behind", "alpha's schedule one step behind", DECAY),
    bad(Backwards, "EN21", "backwards", "alpha's schedule reversed", DECAY),
    bad(Ignored, "EN21", "ignored", "alpha's schedule ignored", DECAY),
    bad(NeverHalved, "EN21", "ignored", "alpha not halved at step 100",
        Claims(schedule=lambda step: 1.0 if step < 100 else 0.5)),
    bad(EpochLate, "EN21", r"at step 100 \(claimed 0\.9\)", "alpha's epochs are one late",
        Claims(schedule=lambda step: max(1 - step // 100 / 10, 0.0))),
    bad(StopsAtHalf, "EN21", r"0\.5 at step 999", "alpha stops at half of it after 500 calls",
        Claims(schedule=linear(1, 0, 1000))),
    bad(Frozen, "EN22", "drawn while tracing", "noise frozen while tracing"),
    bad(SameOnRanks, "EN38", "same noise", "the same noise on every rank",
        Claims(distinct_ranks=True)),
    bad(UnlikePairs, "EN36", "its own draw", "pairs that do not cancel",
        Claims(distribution="rademacher", antithetic=True)),
    bad(InGenerate, "EN37", "generate", "noise in generate() and reference passes",
        Claims(clean_without_grad=True)),
    bad(AnyAlpha, "EN39", "alpha is not validated", "any alpha accepted",
        Claims(validates_alpha=True)),
    bad(OnTheTable, "EN17", "added to the table", "noise written into the table", None, "ids"),
    bad(NoiseInTable, "EN17", "added to the table", "the table itself changed", None, "ids"),
    bad(Renormalized, "EN17", "evaluation, which has no noise, changes it too",
        "a lookup that renormalizes its table", None, "ids"),
    bad(NeverCalled, "EN24", "forward never calls", "a hook on a module that is never called",
        None, "ids"),
    bad(MultipliedAfter, "EN10", r"multiplied by sqrt\(d\) after", "embeddings multiplied after",
        None, "ids"),
    bad(FrozenTable, "EN13", "detached", "the table does not train", None, "ids"),
    *OF_CLAIMS,
    *ON_OTHER_PATHS,
    *ON_BRANCHES,
    *OF_STATE,
    *AT_OTHER_SIZES,
    *IN_16_BITS,
    *LARGE,
    *UNDER_TRANSFORMATIONS,
]  # fmt: skip
