"""What a layer does besides adding noise: to embeddings, gradients, modes and saved state.

Faults of PyTorch layers; most are ``Uniform`` with one method as people have written it.
"""

from __future__ import annotations

import torch
from torch import nn

from embnoise.testing import Claims
from tests.testing.torch_layers import DECAY, Embedded, Follower, Uniform, bad


class Dropped(Uniform):
    def forward(self, x, mask):
        return nn.functional.dropout(super().forward(x, mask), 0.1, self.training)


class ReadInOrder(Follower):
    def forward(self, x, mask):
        return super().forward(torch.as_strided(x, x.shape, torch.empty(x.shape).stride()), mask)


class ZeroIsDefault(Uniform):
    def __init__(self, alpha, seed):
        super().__init__(alpha or 5.0, seed)


class StaysOn(Uniform):
    """Once switched on, it stays."""

    on = False

    def forward(self, x, mask):
        self.on = self.on or self.training
        return x + self.noise(x, mask).to(x.dtype) if self.on else x


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


class Normalized(Uniform):
    """With the normalization of BERT's embeddings."""

    def forward(self, x, mask):
        return nn.functional.layer_norm(super().forward(x, mask), x.shape[-1:])


class Guessing(Uniform):
    """Takes embeddings of 0 for padding."""

    def forward(self, x):
        return super().forward(x, (x != 0).any(dim=2))


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


class EditedTable(Embedded):
    """Keeps the row of padding at 0, in evaluation too."""

    def forward(self, ids, mask):
        with torch.no_grad():
            self.table.weight[0].zero_()
        return super().forward(ids, mask)


class SecondAfterEvaluation(Uniform):
    """The second training call after evaluation has no noise."""

    since = 9

    def forward(self, x, mask):
        self.since = self.since + 1 if self.training else 0
        return x if self.since == 2 else super().forward(x, mask)


class NoneOnLarge(Uniform):
    """Large embeddings get no noise."""

    def noise(self, x, mask):
        return super().noise(x, mask) * (x.abs() <= 10)


class DetachedOneToken(Uniform):
    def forward(self, x, mask):
        return super().forward(x.detach() if x.shape[1] == 1 else x, mask)


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


class CountsEvaluation(Uniform):
    """Its calls are its steps, those in evaluation mode too."""

    def __init__(self, alpha, seed):
        super().__init__(alpha, seed)
        self.calls = 0

    def forward(self, x, mask):
        self.calls += 1
        share = max(1 - (self.calls - 1) / 10, 0)
        return x + (self.noise(x, mask) * share).to(x.dtype) if self.training else x


class Frozen(Uniform):
    """A draw that the compiler takes for a constant."""

    def rand(self, shape):
        return _drawn_while_tracing(self.generator, tuple(shape))


@torch.compiler.assume_constant_result
def _drawn_while_tracing(generator, shape):
    return torch.rand(shape, generator=generator)


class InGenerate(Uniform):
    """It looks at its mode alone."""


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


class FrozenTable(Embedded):
    def forward(self, ids, mask):
        with torch.no_grad():
            return super().forward(ids, mask)


GLOBAL = Claims(seeded="global")


FAULTY = [
    bad(Dropped, "EN03", "dropout acts on the embeddings", "dropout after the noise"),
    bad(ReadInOrder, "EN56", "read in order", "memory read in order, with the global seed", GLOBAL),
    bad(ZeroIsDefault, "EN03", "'not given'", "alpha 0 taken for the default"),
    bad(SecondAfterEvaluation, "EN55", "after evaluation calls, training call 3",
        "the second call after evaluation without noise"),
    bad(NoneOnLarge, "EN12", "large embeddings get no noise", "no noise on large embeddings"),
    bad(DetachedOneToken, "EN59", "is detached", "the gradient of one token detached"),
    bad(AlwaysOn, "EN02", "in evaluation mode too", "noise in evaluation"),
    bad(NeverAgain, "EN15", r"train\(\) again there is no noise", "none after train() again"),
    bad(StaysOn, "EN15", "stays on in eval", "noise in evaluation, after training"),
    bad(Normalized, "EN02", "normalizes the embeddings", "LayerNorm inside the layer"),
    bad(Guessing, "EN12", "embeddings that are 0", "padding guessed, without a mask"),
    bad(PaddingZeroed, "EN03", "padding are set to 0", "padding set to 0 in training"),
    bad(Rounded, "EN02", "are rounded", "embeddings rounded to bfloat16"),
    bad(Positions, "EN02", "also without noise, by positions", "positions added"),
    bad(EditedTable, "EN17", "a call changes", "the table edited in every call", None, "ids"),
    bad(Multiplied, "EN12", "multiplied with the embeddings", "noise multiplied in"),
    bad(OwnScale, "EN12", "scale is taken from them", "scale taken from the embeddings"),
    bad(InPlace, "EN16", "in place", "input changed in place"),
    bad(Detached, "EN13", "detached", "gradient blocked"),
    bad(Rescaled, "EN13", "gradient is scaled", "gradient scaled"),
    bad(Promoted, "EN04", "promoted", "dtype promoted"),
    bad(SavedNoise, "EN18", "'step'", "extra entries in the saved state"),
    bad(CountsEvaluation, "EN55", "advances its count", "evaluation calls advance the schedule",
        DECAY),
    bad(Frozen, "EN22", "drawn while tracing", "noise frozen while tracing"),
    bad(InGenerate, "EN37", "generate", "noise in generate() and reference passes",
        Claims(clean_without_grad=True)),
    bad(OnTheTable, "EN17", "added to the table", "noise written into the table", None, "ids"),
    bad(NoiseInTable, "EN17", "added to the table", "the table itself changed", None, "ids"),
    bad(Renormalized, "EN17", "evaluation, which has no noise, changes it too",
        "a lookup that renormalizes its table", None, "ids"),
    bad(FrozenTable, "EN13", "detached", "the table does not train", None, "ids"),
]  # fmt: skip
