"""Correct JAX layers for the kit."""

from __future__ import annotations

import contextlib
import functools

import equinox as eqx
import jax
import jax.numpy as jnp
from flax import linen, nnx

import embnoise_jax.equinox
import embnoise_jax.linen
import embnoise_jax.nnx
from embnoise import Noise, linear, neftune, symnoise
from embnoise.testing import Claims
from embnoise_jax import add_noise
from embnoise_jax.testing import driver
from tests.testing.zoo import Correct

VOCABULARY = 8


# Our own, in all their forms.


def function(make_noise=neftune):
    def make(*, dim, alpha, seed):
        noise = make_noise(alpha, seed=seed)

        def layer(x, *, training, mask, step, segment_ids):
            about = {"mask": mask, "segment_ids": segment_ids}
            return add_noise(x, noise, training=training, step=step, **about)

        return layer

    return make


def module(layer):
    return lambda *, dim, alpha, seed: layer(neftune(alpha, seed=seed))


def counting(layer, x, *, training, mask):
    """Called without a step, a layer counts its training calls."""
    return driver.call(layer, x, training=training, mask=mask)


def with_its_own_seed(layer, x, *, training, mask, step, segment_ids):
    """Called without a key, Equinox's layer has the noise of its seed."""
    layer = eqx.nn.inference_mode(layer, not training)
    return layer(x, step=step, mask=mask, segment_ids=segment_ids)


def attached_nnx(*, dim, alpha, seed):
    model = nnx.Sequential(nnx.Embed(VOCABULARY, dim, rngs=nnx.Rngs(0)))
    embnoise_jax.nnx.attach(model, neftune(alpha, seed=seed), tokens=lambda ids: {"mask": ids != 0})
    return model


class LinenModel(linen.Module):
    dim: int
    noise: Noise

    @linen.compact
    def __call__(self, ids):
        return linen.Embed(VOCABULARY, self.dim)(ids)


def under_attach(model, ids, *, training, mask, step):
    """The way of Linen: noise from outside, in every call."""
    noisy = embnoise_jax.linen.attach(model, model.noise, step=step, mask=mask)
    with noisy if training else contextlib.nullcontext():
        return driver.call(model, ids, training=training)


class EquinoxModel(eqx.Module):
    embed: eqx.nn.Embedding
    noise: Noise = eqx.field(static=True)

    def __call__(self, ids, *, training, mask, step):
        model = self
        if training:
            model = embnoise_jax.equinox.attach(self, self.noise, step=step, mask=mask)
        return jax.vmap(jax.vmap(model.embed))(ids)


# By hand, right.


def magnitude(alpha, x, mask):
    """That of every token; 0 for padding."""
    length = mask.sum(axis=1, keepdims=True).clip(1)
    return (alpha / jnp.sqrt(length * x.shape[2]) * mask)[..., None]


class Uniform(nnx.Module):
    """NEFTune in NNX: true lengths, keys of its own, no noise on padding."""

    def __init__(self, alpha, seed):
        self.alpha = alpha
        self.rngs = nnx.Rngs(noise=seed)
        self.deterministic = False

    def key(self):
        return self.rngs.noise()

    def units(self, x):
        return jax.random.uniform(self.key(), x.shape, minval=-1, maxval=1)

    def magnitude(self, x, mask):
        return magnitude(self.alpha, x, mask)

    def noise(self, x, mask):
        return (self.units(x) * self.magnitude(x, mask)).astype(x.dtype)

    def __call__(self, x, mask):
        return x if self.deterministic else x + self.noise(x, mask)


class LinenUniform(linen.Module):
    """In Linen, with a stream of its own, drawn in the embeddings' dtype."""

    alpha: float

    @linen.compact
    def __call__(self, x, mask, deterministic):
        if deterministic:
            return x
        units = jax.random.uniform(self.make_rng("noise"), x.shape, x.dtype, -1, 1)
        return x + (units * magnitude(self.alpha, x, mask)).astype(x.dtype)


class EquinoxUniform(eqx.Module):
    """In Equinox, with the key that it is given."""

    alpha: float
    inference: bool = False

    def __call__(self, x, mask, *, key=None):
        if self.inference:
            return x
        units = jax.random.uniform(key, x.shape, minval=-1, maxval=1)
        return x + (units * magnitude(self.alpha, x, mask)).astype(x.dtype)


class Folded:
    """Without a library: a key from seed and step. Alpha goes down to 0 in 10 steps."""

    def __init__(self, alpha, seed):
        self.alpha, self.seed = alpha, seed

    def share(self, step):
        return jnp.maximum(1 - step / 10, 0)

    def __call__(self, x, *, training, mask, step):
        if not training:
            return x
        key = jax.random.fold_in(jax.random.key(self.seed), step)
        units = jax.random.uniform(key, x.shape, minval=-1, maxval=1)
        return x + (units * magnitude(self.alpha * self.share(step), x, mask)).astype(x.dtype)


class Embedded(nnx.Module):
    """An embedding, and a layer that noises it."""

    def __init__(self, dim, noise):
        self.embed = nnx.Embed(VOCABULARY, dim, rngs=nnx.Rngs(0))
        self.noise = noise
        self.deterministic = False

    def __call__(self, ids, mask):
        return self.noise(self.embed(ids), mask)


class Factorized(nnx.Module):
    """A narrow table; noise from the streams that it is given, as ``nnx.Dropout`` takes them."""

    def __init__(self, alpha, dim):
        self.alpha = alpha
        self.embed = nnx.Embed(VOCABULARY, 4, rngs=nnx.Rngs(0))
        self.wide = nnx.Linear(4, dim, rngs=nnx.Rngs(1))

    def __call__(self, ids, mask, *, deterministic=False, rngs=None):
        x = self.wide(self.embed(ids))
        if deterministic:
            return x
        units = jax.random.uniform(rngs.noise(), x.shape, minval=-1, maxval=1)
        return x + (units * magnitude(self.alpha, x, mask)).astype(x.dtype)


def of(layer):
    """A factory for a class that takes alpha and a seed."""
    return lambda *, dim, alpha, seed: layer(alpha, seed)


def keyed(layer):
    """A factory for a class whose randomness comes from outside."""
    return lambda *, dim, alpha, seed: layer(alpha)


def on(layer):
    """A factory for a class that embeds ids."""
    return lambda *, dim, alpha, seed: layer(dim, Uniform(alpha, seed))


GLOBAL = Claims(seeded="global")
GAUSSIAN = Claims(distribution="gaussian")
DECAY = Claims(schedule=lambda step: max(1 - step / 10, 0.0))
OURS = Claims(validates_alpha=True)
COUNTED = Claims(validates_alpha=True, saved_names=("count",))


def one(name, make, claims=OURS, inputs="embeddings", call=None):
    return Correct(name, make, "jax", inputs, call, claims)


CORRECT = [
    one("jax: add_noise", function()),
    one("jax: gaussian", function(functools.partial(Noise, distribution="gaussian")), GAUSSIAN),
    one("jax: symnoise", function(symnoise), Claims(distribution="rademacher", antithetic=True)),
    one(
        "jax: annealed",
        function(lambda alpha, seed: neftune(linear(alpha, 0, 8), seed=seed)),
        Claims(schedule=linear(1, 0, 8)),
    ),
    one(
        "jax: relative",
        function(functools.partial(Noise, scale="relative")),
        Claims(scale="relative", validates_alpha=True),
    ),
    one("nnx: EmbeddingNoise", module(embnoise_jax.nnx.EmbeddingNoise), COUNTED),
    one("nnx: counting", module(embnoise_jax.nnx.EmbeddingNoise), COUNTED, call=counting),
    one("nnx: attach", attached_nnx, COUNTED, "ids"),
    one("linen: EmbeddingNoise", module(embnoise_jax.linen.EmbeddingNoise)),
    one("linen: counting", module(embnoise_jax.linen.EmbeddingNoise), COUNTED, call=counting),
    one(
        "linen: attach",
        lambda *, dim, alpha, seed: LinenModel(dim, neftune(alpha, seed=seed)),
        OURS,
        "ids",
        under_attach,
    ),
    one(
        "equinox: EmbeddingNoise",
        module(embnoise_jax.equinox.EmbeddingNoise),
        Claims(seeded="global", validates_alpha=True),
    ),
    one(
        "equinox: own seed",
        module(embnoise_jax.equinox.EmbeddingNoise),
        call=with_its_own_seed,
    ),
    one(
        "equinox: attach",
        lambda *, dim, alpha, seed: EquinoxModel(
            eqx.nn.Embedding(VOCABULARY, dim, key=jax.random.key(0)), neftune(alpha, seed=seed)
        ),
        OURS,
        "ids",
    ),
    one("jax: Folded", of(Folded), DECAY),
    one("nnx: Uniform", of(Uniform), Claims()),
    one("linen: Uniform", keyed(LinenUniform), GLOBAL),
    one("equinox: Uniform", keyed(EquinoxUniform), GLOBAL),
    one("nnx: Embedded", on(Embedded), Claims(), "ids"),
    one("nnx: Factorized", lambda *, dim, alpha, seed: Factorized(alpha, dim), GLOBAL, "ids"),
]
