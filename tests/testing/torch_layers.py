"""Correct PyTorch layers for the kit."""

from __future__ import annotations

import functools
import math

import numpy as np
import torch
from torch import nn

from embnoise import Noise, cosine, linear, neftune, symnoise
from embnoise.testing import Claims
from embnoise_torch import EmbeddingNoise, add_noise, attach
from tests.testing.zoo import Correct, Faulty

VOCABULARY = 8


class Uniform(nn.Module):
    """NEFTune by hand, right: true lengths, a generator of its own, no noise on padding."""

    def __init__(self, alpha, seed):
        super().__init__()
        self.alpha, self.seed = alpha, seed
        self.generator = torch.Generator().manual_seed(seed)

    def rand(self, shape):
        return torch.rand(shape, generator=self.generator)

    def units(self, x, mask):
        return 2 * self.rand(x.shape) - 1

    def length(self, x, mask):
        return mask.sum(dim=1).clamp(min=1)[:, None, None]

    def magnitude(self, x, mask):
        return self.alpha / torch.sqrt(self.length(x, mask) * x.shape[2])

    def noise(self, x, mask):
        return self.units(x, mask) * self.magnitude(x, mask) * mask[..., None]

    def forward(self, x, mask):
        return x + self.noise(x, mask).to(x.dtype) if self.training else x


class Follower(Uniform):
    """Right, with the global generator."""

    def rand(self, shape):
        return torch.rand(shape)


class Alike(Follower):
    """Right, with draws that lie in memory as the embeddings do."""

    def units(self, x, mask):
        return 2 * torch.rand_like(x) - 1


class NormalAlike(Follower):
    def units(self, x, mask):
        return torch.randn_like(x)


class Normal(Uniform):
    def units(self, x, mask):
        return torch.randn(x.shape, generator=self.generator)


class Packs(Uniform):
    """Right, for packed rows too: the length of each document."""

    def forward(self, x, mask, segment_ids=None):
        if segment_ids is None:
            return super().forward(x, mask)
        return x + self.packed(x, segment_ids).to(x.dtype) if self.training else x

    def lengths(self, segments):
        return (segments[:, :, None] == segments[:, None, :]).sum(dim=-1)

    def packed(self, x, segments):
        magnitude = self.alpha / torch.sqrt(self.lengths(segments) * x.shape[2])
        return self.units(x, segments > 0) * (magnitude * (segments > 0))[..., None]


class Stepped(Uniform):
    """Right, as a function of the step that it is given; alpha goes down to 0 in 10 steps."""

    def share(self, step):
        return max(1 - step / 10, 0.0)

    def forward(self, x, mask, step):
        pair = np.random.SeedSequence([self.seed, step])
        self.generator.manual_seed(int(pair.generate_state(1)[0]))
        noise = self.noise(x, mask) * self.share(step)
        return x + noise.to(x.dtype) if self.training else x


DECAY = Claims(schedule=lambda step: max(1 - step / 10, 0.0))


class AnotherTable(nn.Module):
    """Right: each layer that is made has a table of its own, whatever its seed is."""

    def __init__(self, dim, noise):
        super().__init__()
        table = np.random.default_rng().standard_normal((VOCABULARY, dim))
        self.table = nn.Embedding.from_pretrained(torch.tensor(table).float(), freeze=False)
        self.noise = noise

    def forward(self, ids, mask):
        return self.noise(self.table(ids), mask)


class Embedded(nn.Module):
    """An embedding, and a layer that noises it."""

    def __init__(self, dim, noise):
        super().__init__()
        self.table = nn.Embedding(VOCABULARY, dim)
        self.noise = noise

    def forward(self, ids, mask):
        return self.noise(self.table(ids), mask)


class InHalf(Embedded):
    """A table in float32, and embeddings in bfloat16."""

    def forward(self, ids, mask):
        return self.noise(self.table(ids).bfloat16(), mask)


class Factorized(nn.Module):
    """As ALBERT: a narrow table, weights of other shapes, few positions; its gradient is sparse."""

    def __init__(self, dim, noise):
        super().__init__()
        self.table = nn.Embedding(VOCABULARY, 24, sparse=True)
        self.wide = nn.utils.parametrizations.weight_norm(nn.Linear(24, dim))
        self.near = nn.Conv1d(dim, dim, 3, padding=1)
        self.places = nn.Embedding(512, dim)
        self.noise = noise

    def forward(self, ids, mask):
        wide = self.wide(self.table(ids)) + self.places(torch.arange(ids.shape[1]))
        return self.noise(self.near(wide.mT).mT, mask)


def of(layer):
    """A factory for a class that takes alpha and a seed."""
    return lambda *, dim, alpha, seed: layer(alpha, seed)


def embedded(layer, around=Embedded):
    return lambda *, dim, alpha, seed: around(dim, layer(alpha, seed))


def bad(
    layer, code, says, fault, claims=None, inputs="embeddings", *, repeatable=True, profile="quick"
):
    """A class with one fault; with ``inputs="ids"``, one that embeds them around ``Uniform``."""
    make = of(layer) if inputs == "embeddings" else embedded(Uniform, layer)
    return Faulty(
        layer.__name__, make, "torch", inputs, None, claims or Claims(), code, says, fault,
        repeatable, profile,
    )  # fmt: skip


def ours(make_noise):
    return lambda *, dim, alpha, seed: EmbeddingNoise(make_noise(alpha, seed=seed))


def function(*, dim, alpha, seed):
    noise = neftune(alpha, seed=seed)
    return lambda x, training, mask, step: add_noise(
        x, noise, training=training, mask=mask, step=step
    )


def attached(*, dim, alpha, seed):
    model = nn.Sequential(nn.Embedding(VOCABULARY, dim))
    attach(model, neftune(alpha, seed=seed))
    return model


def hooked(*, dim, alpha, seed):
    """What transformers does."""
    from transformers.integrations.neftune import neftune_post_forward_hook  # noqa: PLC0415

    table = nn.Embedding(VOCABULARY, dim)
    table.neftune_noise_alpha = alpha
    table.register_forward_hook(neftune_post_forward_hook)
    return table


GAUSSIAN = Claims(distribution="gaussian")
ALL_OF_OURS = Claims(clean_without_grad=True, distinct_ranks=True, validates_alpha=True)


def one(name, make, claims=ALL_OF_OURS, inputs="embeddings", call=None):
    return Correct(name, make, "torch", inputs, call, claims)


CORRECT = [
    one("EmbeddingNoise", ours(neftune)),
    one("gaussian", ours(functools.partial(Noise, distribution="gaussian")), GAUSSIAN),
    one("symnoise", ours(symnoise), Claims(distribution="rademacher", antithetic=True)),
    one(
        "padded",
        ours(functools.partial(Noise, length="padded")),
        Claims(length="padded"),
    ),
    one("absolute", ours(functools.partial(Noise, scale="absolute")), Claims(scale="absolute")),
    one("relative", ours(functools.partial(Noise, scale="relative")), Claims(scale="relative")),
    one(
        "matched",
        ours(functools.partial(Noise, distribution="gaussian", match="rms")),
        Claims(
            distribution="gaussian",
            scale=lambda alpha, length, d: alpha / math.sqrt(3 * length * d),
        ),
    ),
    one(
        "annealed",
        ours(lambda alpha, seed: neftune(cosine(alpha, 0, 8), seed=seed)),
        Claims(schedule=cosine(1, 0, 8)),
    ),
    one(
        "warmed-up",
        ours(lambda alpha, seed: neftune(linear(0, alpha, 8), seed=seed)),
        Claims(schedule=linear(0, 1, 8)),
    ),
    one("add_noise", function, Claims(validates_alpha=True)),
    one("attach", attached, Claims(clean_without_grad=True, length="padded"), "ids"),
    one("Uniform", of(Uniform), Claims()),
    one("Follower", of(Follower), Claims(seeded="global")),
    one("Alike", of(Alike), Claims(seeded="global")),
    one("NormalAlike", of(NormalAlike), Claims(distribution="gaussian", seeded="global")),
    one("Normal", of(Normal), GAUSSIAN),
    one("Packs", of(Packs), Claims()),
    one("Stepped", of(Stepped), DECAY),
    one("Embedded", embedded(Uniform), Claims(), "ids"),
    one("InHalf", embedded(Uniform, InHalf), Claims(), "ids"),
    one("Factorized", embedded(Uniform, Factorized), Claims(), "ids"),
    one("AnotherTable", embedded(Uniform, AnotherTable), Claims(), "ids"),
    one("hook of transformers", hooked, Claims(seeded="global", length="padded"), "ids"),
]
