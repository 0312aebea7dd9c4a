"""Correct Keras layers for the kit, on whichever backend Keras runs."""

import dataclasses

import keras
from keras import ops, random

from embnoise import Noise as Recipe
from embnoise import linear, neftune, symnoise
from embnoise.testing import Claims
from embnoise_keras import EmbeddingNoise, attach
from tests.testing.zoo import Correct

COMPILES = keras.backend.backend() != "torch"
WITH_JAX = keras.backend.backend() == "jax"

ABSOLUTE = Claims(distribution="gaussian", scale="absolute", length=None)
"""Of GaussianNoise, which leaves nothing out."""

SEEDED_BY_KERAS = (
    {"EN45": "with PyTorch, Keras draws from the sum of a SeedGenerator's seed and its count"}
    if keras.backend.backend() == "torch"
    else {}
)
"""What layers with a SeedGenerator cannot keep."""


# Ours.


def attached(model):
    """Noise on a model; its calls keep the handle."""

    def make(*, dim, alpha, seed):
        made = model(dim)
        attach(made, neftune(alpha, seed=seed))
        return made

    return make


def sequential(dim):
    return keras.Sequential([keras.layers.Embedding(8, dim, mask_zero=True)])


def functional(dim):
    ids = keras.Input((None,), dtype="int32")
    return keras.Model(ids, keras.layers.Embedding(8, dim, mask_zero=True)(ids))


def by_its_count(layer, x, *, training, mask, segment_ids):
    return layer(x, training=training, mask=mask, segment_ids=segment_ids)


OURS = Claims(saved_names=("count",), validates_alpha=True)


# By hand.


class Noise(keras.layers.Layer):
    """What all layers below have."""

    def __init__(self, alpha, seed, **options):
        super().__init__(**options)
        self.alpha = alpha
        self.seed_generator = random.SeedGenerator(seed)
        self.supports_masking = True


class Neftune(Noise):
    def call(self, x, mask=None, training=None):
        if not training:
            return x
        shape = ops.shape(x)
        mask = ops.ones(shape[:2]) if mask is None else ops.cast(mask, "float32")
        length = ops.maximum(ops.sum(mask, axis=1, keepdims=True), 1.0)
        magnitude = self.alpha * mask / ops.sqrt(length * shape[2])
        noise = random.uniform(shape, -1.0, 1.0, dtype="float32", seed=self.seed_generator)
        return x + ops.cast(noise * ops.expand_dims(magnitude, -1), x.dtype)


class Padded(Noise):
    """As the reference implementation has it: no mask, and drawn in the compute dtype."""

    def call(self, x, training=False):
        if training:
            _, length, dim = x.shape
            magnitude = self.alpha / (length * dim) ** 0.5
            x = x + random.uniform(
                ops.shape(x), -magnitude, magnitude, dtype=x.dtype, seed=self.seed_generator
            )
        return x


class NoisyEmbedding(keras.layers.Embedding):
    """An embedding that noises what it looks up, at alpha / sqrt(d)."""

    def __init__(self, dim, alpha, seed):
        super().__init__(8, dim)
        self.noise = Gaussian(alpha, seed)

    def call(self, ids, training=None):
        return self.noise(super().call(ids), training=training)


class FollowsKeras(Noise):
    def call(self, x, training=None):
        if not training:
            return x
        magnitude = self.alpha / (x.shape[1] * x.shape[2]) ** 0.5
        return x + random.uniform(ops.shape(x), -magnitude, magnitude, dtype=x.dtype)


class Gaussian(Noise):
    def call(self, x, training=None):
        if not training:
            return x
        stddev = self.alpha / ops.shape(x)[-1] ** 0.5
        noise = random.normal(ops.shape(x), stddev=stddev, seed=self.seed_generator)
        return x + ops.cast(noise, x.dtype)


class NoisyModel(keras.Model):
    """A subclassed model, whose layers hear of ``training`` from Keras."""

    def __init__(self, dim, alpha, seed):
        super().__init__()
        self.embed = keras.layers.Embedding(8, dim, mask_zero=True)
        self.noise = Neftune(alpha, seed)

    def call(self, ids, training=None):
        return self.noise(self.embed(ids))


class InHalf(keras.layers.Layer):
    """A table in float32, and embeddings in float16: Keras's mixed precision."""

    def __init__(self, dim, alpha, seed):
        super().__init__(dtype="mixed_float16")
        self.embed = keras.layers.Embedding(8, dim, mask_zero=True, dtype="mixed_float16")
        self.noise = Neftune(alpha, seed, dtype="mixed_float16")

    def call(self, ids, mask=None, training=None):
        return self.noise(self.embed(ids), mask=mask, training=training)


def of(layer, **fixed):
    """A ``make_layer`` for a class with the arguments alpha and seed."""
    return lambda *, dim, alpha, seed: layer(alpha, seed, **fixed)


CORRECT = [
    Correct(
        "EmbeddingNoise",
        lambda *, dim, alpha, seed: EmbeddingNoise(neftune(alpha, seed=seed)),
        "keras",
        claims=OURS,
    ),
    Correct(
        "EmbeddingNoise_by_its_count",
        lambda *, dim, alpha, seed: EmbeddingNoise(neftune(alpha, seed=seed)),
        "keras",
        call=by_its_count,
        claims=OURS,
    ),
    Correct(
        "EmbeddingNoise_gaussian",
        lambda *, dim, alpha, seed: EmbeddingNoise(
            Recipe(alpha, "gaussian", scale="absolute", seed=seed)
        ),
        "keras",
        claims=Claims(
            distribution="gaussian", scale="absolute", length="tokens", saved_names=("count",)
        ),
    ),
    Correct(
        "EmbeddingNoise_symnoise",
        lambda *, dim, alpha, seed: EmbeddingNoise(symnoise(alpha, seed=seed)),
        "keras",
        claims=Claims(distribution="rademacher", antithetic=True, saved_names=("count",)),
    ),
    Correct(
        "EmbeddingNoise_linear",
        lambda *, dim, alpha, seed: EmbeddingNoise(neftune(linear(alpha, 0, 8), seed=seed)),
        "keras",
        call=by_its_count,
        claims=Claims(schedule=linear(1, 0, 8), saved_names=("count",)),
    ),
    Correct("attach_sequential", attached(sequential), "keras", inputs="ids"),
    Correct("attach_functional", attached(functional), "keras", inputs="ids"),
    Correct(
        "GaussianNoise",
        lambda *, dim, alpha, seed: keras.layers.GaussianNoise(alpha, seed=seed),
        "keras",
        claims=ABSOLUTE,
        expected_failures=SEEDED_BY_KERAS,
    ),
    Correct(
        "GaussianNoise_without_seed",
        lambda *, dim, alpha, seed: keras.layers.GaussianNoise(alpha),
        "keras",
        claims=dataclasses.replace(ABSOLUTE, seeded="global"),
    ),
    Correct("keras_neftune", of(Neftune), "keras", expected_failures=SEEDED_BY_KERAS),
    Correct(
        "keras_padded",
        of(Padded),
        "keras",
        claims=Claims(length="padded"),
        expected_failures=SEEDED_BY_KERAS,
    ),
    Correct(
        "keras_without_seed",
        of(FollowsKeras),
        "keras",
        # With JAX, Keras refuses to draw from its global generator in compiled code.
        claims=Claims(length="padded", seeded="global", compilable=not WITH_JAX),
    ),
    Correct(
        "keras_embedding",
        lambda *, dim, alpha, seed: NoisyEmbedding(dim, alpha, seed),
        "keras",
        inputs="ids",
        claims=Claims(distribution="gaussian", scale="per_token", length=None),
        expected_failures=SEEDED_BY_KERAS,
    ),
    Correct(
        "keras_model",
        lambda *, dim, alpha, seed: NoisyModel(dim, alpha, seed),
        "keras",
        inputs="ids",
        expected_failures=SEEDED_BY_KERAS,
    ),
    Correct(
        "keras_mixed_precision",
        lambda *, dim, alpha, seed: InHalf(dim, alpha, seed),
        "keras",
        inputs="ids",
        expected_failures=SEEDED_BY_KERAS,
    ),
]
