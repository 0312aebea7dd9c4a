"""The size of the noise: its scale, its alpha and its schedule.

Faults of PyTorch layers; most are ``Uniform`` with one method as people have written it.
"""

from __future__ import annotations

import torch

from embnoise import linear
from embnoise.testing import Claims
from tests.testing.torch_layers import DECAY, Embedded, Normal, Stepped, Uniform, bad


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


class SquaredAlpha(Uniform):
    def magnitude(self, x, mask):
        return self.alpha * super().magnitude(x, mask)


class Half(Uniform):
    def units(self, x, mask):
        return self.rand(x.shape) - 0.5


class Drifting(Uniform):
    """Alpha decays, and nobody said so."""

    def magnitude(self, x, mask):
        magnitude = super().magnitude(x, mask)
        self.alpha *= 0.95
        return magnitude


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


class Twice(Uniform):
    """Two hooks, one left behind by a run that failed."""

    def noise(self, x, mask):
        return super().noise(x, mask) + super().noise(x, mask)


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


class PerTokenWithoutMask(Uniform):
    def forward(self, x, mask=None):
        if mask is not None or not self.training:
            return super().forward(x, mask)
        return x + (self.units(x, mask) * self.alpha / x.shape[2] ** 0.5).to(x.dtype)


class MeanIfOneIsEmpty(Uniform):
    """The mean length of the batch, if a row has no token."""

    def length(self, x, mask):
        length = super().length(x, mask)
        return length if mask.any(dim=1).all() else (length.float() * 0 + mask.sum() / len(x))


class HalfOverflow(Uniform):
    """NeMo's: L * d in the embeddings' own dtype."""

    def magnitude(self, x, mask):
        size = self.length(x, mask).to(x.dtype) * torch.tensor(x.shape[2], dtype=x.dtype)
        return (self.alpha / torch.sqrt(size.float())).float()


class Early(Stepped):
    """The counter is advanced before it is read."""

    def share(self, step):
        return super().share(step + 1)


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


class AnyAlpha(Uniform):
    """It trains on NaN."""


class MultipliedAfter(Embedded):
    """Gemma's: embeddings times sqrt(d), with the noise already in them."""

    def forward(self, ids, mask):
        return super().forward(ids, mask) * self.table.embedding_dim**0.5


class TokensCounted(Uniform):
    """Right, with another claim: that L is the width of the row."""


RELATIVE = Claims(scale="relative", compilable=False)


FAULTY = [
    bad(PerToken, "EN10", r"sqrt\(d\) instead of sqrt\(L\*d\)", "sqrt(d) for sqrt(L*d)"),
    bad(BatchCounted, "EN08", "the batch is counted", "sqrt(B*L*d) for sqrt(L*d)"),
    bad(FirstSizes, "EN10", r"sqrt\(B\*L\) instead", "sqrt(B*L) for sqrt(L*d)"),
    bad(NoSize, "EN10", "the embedding size is missing", "sqrt(L) for sqrt(L*d)"),
    bad(NoRoot, "EN08", "square root is missing", "alpha/(L*d)"),
    bad(NoScale, "EN10", "alpha itself", "alpha, not scaled"),
    bad(Fixed, "EN11", "alpha is not used", "a fixed epsilon for alpha"),
    bad(SquaredAlpha, "EN11", "alpha enters twice", "alpha squared"),
    bad(Half, "EN08", "half the amplitude", "half the amplitude"),
    bad(OneSided, "EN08", "one-sided", "noise on one side of 0"),
    bad(DividedByDeviation, "EN08", "standard deviation instead of the range",
        "divided by sqrt(3): the deviation for the range"),
    bad(MagnitudeAsDeviation, "EN10", r"times sqrt\(3\)",
        "times sqrt(3): the range for the deviation"),
    bad(Normal, "EN10", "gaussian rather than uniform", "a Gaussian claimed as uniform"),
    bad(Laplace, "EN10", "heavier tails than a Gaussian", "a Laplace claimed as uniform"),
    bad(MeanOfTwo, "EN08", "mean of two uniform draws", "the mean of two draws"),
    bad(MeanIfOneIsEmpty, "EN10", r"\(B, L, d = \(4, 7", "the mean length, if a row is empty"),
    bad(Twice, "EN10", "added twice", "noise added twice (two hooks)"),
    bad(Drifting, "EN21", "alpha changes from call to call", "alpha drifts, not claimed"),
    bad(TokensCounted, "EN10", "L is the real tokens", "real tokens, claimed as the padded length",
        Claims(length="padded")),
    bad(Absolute, "EN62", "does not depend on the embeddings", "a relative scale without RMS",
        RELATIVE),
    bad(OfTheBatch, "EN62", "that of the whole batch", "the RMS of the batch", RELATIVE),
    bad(OfThePaddedBatch, "EN62", "batch, padding included", "the RMS of the padded batch",
        RELATIVE),
    bad(OfThePaddedRow, "EN62", "counts its padding", "padding in the RMS of a row", RELATIVE),
    bad(OfTheLargest, "EN62", "largest value of a row", "the largest value for the RMS", RELATIVE),
    bad(OfTheNorm, "EN62", "norm of a row", "the norm for the RMS", RELATIVE),
    bad(OfTheToken, "EN62", "another size", "the RMS of each token", RELATIVE),
    bad(PerTokenWithoutMask, "EN10", r"sqrt\(d\) instead", "the length left out without a mask"),
    bad(HalfOverflow, "EN08", "overflows in float16", "L*d overflows in float16: no noise"),
    bad(Early, "EN21", "one step ahead", "alpha's schedule one step ahead", DECAY),
    bad(Late, "EN21", "one step behind", "alpha's schedule one step behind", DECAY),
    bad(Backwards, "EN21", "backwards", "alpha's schedule reversed", DECAY),
    bad(Ignored, "EN21", "ignored", "alpha's schedule ignored", DECAY),
    bad(NeverHalved, "EN21", "ignored", "alpha not halved at step 100",
        Claims(schedule=lambda step: 1.0 if step < 100 else 0.5)),
    bad(EpochLate, "EN21", r"at step 100 \(claimed 0\.9\)", "alpha's epochs are one late",
        Claims(schedule=lambda step: max(1 - step // 100 / 10, 0.0))),
    bad(StopsAtHalf, "EN21", r"0\.5 at step 999", "alpha stops at half of it after 500 calls",
        Claims(schedule=linear(1, 0, 1000))),
    bad(AnyAlpha, "EN39", "alpha is not validated", "any alpha accepted",
        Claims(validates_alpha=True)),
    bad(MultipliedAfter, "EN10", r"multiplied by sqrt\(d\) after", "embeddings multiplied after",
        None, "ids"),
]  # fmt: skip
