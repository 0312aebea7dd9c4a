"""PyTorch layers that keep what they claim in the usual batch, and not elsewhere.

Pairs of rows, the RMS of the embeddings, ranks, gradients that are turned off, alphas, checkpoints.
"""

from __future__ import annotations

import os

import torch

from embnoise.testing import Claims
from tests.testing.torch_layers import Embedded, Uniform, bad
from tests.testing.torch_state_faults import RANKS, REFERENCE, Ranked, ReferencePasses


class Pairs(Uniform):
    """Rows 2i and 2i + 1 have opposite noise; ``paired`` says where."""

    def paired(self, x, mask):
        return True

    def units(self, x, mask):
        units = super().units(x, mask)
        if self.paired(x, mask):
            units[1::2] = -units[: 2 * (len(units) // 2) : 2]
        return units


class UnpairedIfPadded(Pairs):
    def paired(self, x, mask):
        return mask.all()


class UnpairedAbove16Rows(Pairs):
    def paired(self, x, mask):
        return len(x) <= 16


class OddRowSilent(Pairs):
    def units(self, x, mask):
        units = super().units(x, mask)
        units[2 * (len(x) // 2) :] = 0
        return units


class Relative(Uniform):
    """The magnitude is alpha times the RMS of a row."""

    def rms(self, x, mask):
        squares = (x.float().square() * mask[..., None]).sum((1, 2), keepdim=True)
        return (squares / (self.length(x, mask) * x.shape[2])).sqrt()

    def magnitude(self, x, mask):
        return self.alpha * self.rms(x, mask).detach()


class LeastRms(Relative):
    def rms(self, x, mask):
        return super().rms(x, mask).clamp(min=0.5)


class RunningRms(Relative):
    kept = None

    def rms(self, x, mask):
        rms = super().rms(x, mask)
        if self.kept is not None and self.kept.shape == rms.shape:
            rms = 0.9 * self.kept + 0.1 * rms
        self.kept = rms
        return rms


class MeanRmsOfTokens(Relative):
    def rms(self, x, mask):
        tokens = x.float().square().mean(2).sqrt() * mask
        return tokens.sum(1)[:, None, None] / self.length(x, mask)


class RankInItsNode(Ranked):
    def rank(self):
        return int(os.environ.get("LOCAL_RANK", "0"))


class NoisyReferenceIfPadded(ReferencePasses):
    def forward(self, x, mask):
        return super().forward(x, mask) if mask.all() else Uniform.forward(self, x, mask)

    def after(self):
        pass


class NoisyReferenceInFloat16(NoisyReferenceIfPadded):
    def forward(self, x, mask):
        if x.dtype == torch.float16:
            return Uniform.forward(self, x, mask)
        return ReferencePasses.forward(self, x, mask)


class SmallNegativesAccepted(Uniform):
    def __init__(self, alpha, seed):
        if not -1 < alpha < float("inf"):
            raise ValueError(f"alpha must not be negative, got {alpha}")
        super().__init__(alpha, seed)


class MinusInfinityAccepted(Uniform):
    def __init__(self, alpha, seed):
        if not alpha < float("inf") or -1e9 < alpha < 0:
            raise ValueError(f"alpha must be a positive number, got {alpha}")
        super().__init__(alpha, seed)


class OffAfterSaving(Uniform):
    on = True

    def state_dict(self, *arguments, **keywords):
        self.on = False
        return super().state_dict(*arguments, **keywords)

    def forward(self, x, mask):
        return super().forward(x, mask) if self.on else x


class SeededBySaving(Uniform):
    def state_dict(self, *arguments, **keywords):
        self.generator.manual_seed(self.seed)
        return super().state_dict(*arguments, **keywords)


class TrainReturnsNothing(Uniform):
    def train(self, mode=True):
        super().train(mode)


class AlphaAmongTheTables(Embedded):
    """Alpha is a buffer with an entry for each channel."""

    def __init__(self, dim, noise):
        super().__init__(dim, noise)
        self.register_buffer("amplitude", torch.full((dim,), noise.alpha))


class SeedAmongTheTables(Embedded):
    def __init__(self, dim, noise):
        super().__init__(dim, noise)
        self.register_buffer("seed", torch.tensor([noise.seed]))


PAIRED = Claims(antithetic=True)
RELATIVE = Claims(scale="relative", compilable=False)
VALIDATES = Claims(validates_alpha=True)

FAULTY = [
    bad(UnpairedIfPadded, "EN36", "where there is padding", "pairs in full batches alone", PAIRED),
    bad(UnpairedAbove16Rows, "EN36", "in large batches", "pairs in up to 16 rows alone", PAIRED),
    bad(OddRowSilent, "EN36", "odd number of rows", "no noise on a row that has no pair", PAIRED),
    bad(LeastRms, "EN62", "floor", "a least RMS, above that of small embeddings", RELATIVE),
    bad(RunningRms, "EN62", "earlier batch", "a running mean of the RMS", RELATIVE),
    bad(MeanRmsOfTokens, "EN62", "mean of the tokens' RMS", "the mean of the tokens' RMS",
        RELATIVE),
    bad(RankInItsNode, "EN38", "rank within a node", "the rank within a node for the rank", RANKS),
    bad(NoisyReferenceIfPadded, "EN37", "generate", "noise without gradients, if there is padding",
        REFERENCE),
    bad(NoisyReferenceInFloat16, "EN37", r"\[float16\].*generate",
        "float16: noise without gradients", REFERENCE),
    bad(SmallNegativesAccepted, "EN39", r"alpha=-0\.3", "alphas above -1 accepted", VALIDATES),
    bad(MinusInfinityAccepted, "EN39", "alpha=-inf", "an alpha of -inf accepted", VALIDATES),
    bad(OffAfterSaving, "EN18", "turns the noise off", "saving a checkpoint turns the noise off"),
    bad(SeededBySaving, "EN18", "seeds the generator", "saving a checkpoint seeds the generator"),
    bad(TrainReturnsNothing, "EN01", "`return self` is missing", "`train()` returns `None`"),
    bad(AlphaAmongTheTables, "EN18", "amplitude", "alpha saved beside the table", None, "ids"),
    bad(SeedAmongTheTables, "EN18", "'seed'", "the seed saved beside the table", None, "ids"),
]  # fmt: skip
