"""The function and all layers under all transformations: same bits, and right derivatives."""

from functools import partial

import equinox as eqx
import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx
from jax.test_util import check_grads

import embnoise
import embnoise_jax.equinox
import embnoise_jax.linen
import embnoise_jax.nnx
from embnoise import neftune
from embnoise_jax import add_noise
from tests.jax.models import DIM, IDS, VOCABULARY, same
from tests.jax.variants import VARIANTS, over_rows

TABLE = jnp.asarray(np.random.default_rng(0).standard_normal((VOCABULARY, DIM)), jnp.float32)
STEP, SAMPLE_IDS = 3, jnp.array([7, 4])

# Each is a pure function (table, ids, step, sample_ids, noise) -> noisy embeddings.


def by_function(table, ids, step, sample_ids, noise):
    return add_noise(table[ids], noise, step=step, sample_ids=sample_ids, mask=ids != 0)


def equinox_layer(table, ids, step, sample_ids, noise):
    layer = embnoise_jax.equinox.EmbeddingNoise(noise)
    return layer(table[ids], step=step, sample_ids=sample_ids, mask=ids != 0)


def equinox_attached(table, ids, step, sample_ids, noise):
    def lookup(ids, sample_ids):
        arguments = {"step": step, "sample_ids": sample_ids, "mask": ids != 0}
        model = [eqx.nn.Embedding(weight=table)]
        return embnoise_jax.equinox.attach(model, noise, **arguments)[0]

    if len(ids) == 1:  # inside a jax.vmap over rows
        return jax.vmap(lookup(ids[0], sample_ids[0]))(ids[0])[None]
    return jax.vmap(jax.vmap(lookup(ids, sample_ids)))(ids)


def linen_layer(table, ids, step, sample_ids, noise):
    layer = embnoise_jax.linen.EmbeddingNoise(noise, deterministic=False)
    return layer.apply({}, table[ids], step=step, sample_ids=sample_ids, mask=ids != 0)


def linen_counting_layer(table, ids, step, sample_ids, noise):
    layer = embnoise_jax.linen.EmbeddingNoise(noise, deterministic=False)
    variables = {"noise": {"count": jnp.array([step, 0, 0, 0], jnp.int32)}}
    arguments = {"sample_ids": sample_ids, "mask": ids != 0}
    return layer.apply(variables, table[ids], **arguments, mutable=["noise"])[0]


def linen_attached(table, ids, step, sample_ids, noise):
    model = nn.Embed(VOCABULARY, DIM)
    with embnoise_jax.linen.attach(model, noise, step=step, sample_ids=sample_ids, mask=ids != 0):
        return model.apply({"params": {"embedding": table}}, ids)


def nnx_layer(table, ids, step, sample_ids, noise):
    layer = embnoise_jax.nnx.EmbeddingNoise(noise)
    return layer(table[ids], step=step, sample_ids=sample_ids, mask=ids != 0)


def nnx_attached(table, ids, step, sample_ids, noise):
    model = nnx.Embed(VOCABULARY, DIM, rngs=nnx.Rngs(0))
    model.embedding[...] = table
    tokens = {"sample_ids": sample_ids, "mask": ids != 0}
    embnoise_jax.nnx.attach(model, noise, tokens=lambda: tokens)
    model.embedding_noise.count[...] = jnp.array([step, 0, 0, 0], jnp.int32)
    return model(ids)


LAYERS = [
    by_function,
    equinox_attached,
    *(
        pytest.param(layer, marks=pytest.mark.sweep)
        for layer in (
            equinox_layer,
            linen_layer,
            linen_counting_layer,
            linen_attached,
            nnx_layer,
            nnx_attached,
        )
    ),
]


def noisy(layer):
    return lambda *arguments: layer(*arguments, neftune())


@pytest.mark.parametrize("variant", VARIANTS)
@pytest.mark.parametrize("layer", LAYERS)
def test_a_transformation_keeps_the_bits(layer, variant):
    seen = variant(noisy(layer), TABLE, IDS, STEP, SAMPLE_IDS)
    expected = embnoise.add_noise(
        np.asarray(TABLE[IDS]),
        neftune(),
        step=STEP,
        sample_ids=np.asarray(SAMPLE_IDS),
        mask=np.asarray(IDS != 0),
    )
    assert same(seen, expected)


@pytest.mark.sweep
@pytest.mark.parametrize("layer", LAYERS)
def test_the_derivatives_by_the_table_and_by_alpha(layer):
    weights = jnp.asarray(np.random.default_rng(1).standard_normal((*IDS.shape, DIM)), jnp.float32)

    def loss(table, alpha):
        table = jnp.asarray(table)  # check_grads passes NumPy's arrays
        return (layer(table, IDS, STEP, SAMPLE_IDS, neftune(alpha)) * weights).sum()

    loss = jax.jit(loss)
    check_grads(loss, (TABLE, 5.0), order=2, modes=("fwd", "rev"), atol=0.02, rtol=0.02)
    by_table, by_alpha = jax.jit(jax.grad(loss, (0, 1)))(TABLE, 5.0)
    lookups = jnp.zeros_like(TABLE).at[IDS].add(weights)
    assert np.allclose(by_table, lookups, atol=1e-6)
    noise = loss(0 * TABLE, 5.0)
    assert np.allclose(by_alpha, noise / 5.0, rtol=1e-5)


@pytest.mark.sweep
@pytest.mark.parametrize("layer", LAYERS)
def test_the_gradient_is_recomputed_with_the_same_noise(layer):
    def squares(table):
        return (layer(table, IDS, STEP, SAMPLE_IDS, neftune()) ** 2).sum()

    kept, recomputed = (
        jax.jit(jax.grad(function))(TABLE) for function in (squares, jax.checkpoint(squares))
    )
    assert np.allclose(kept, recomputed, atol=1e-6)


def test_the_derivative_by_alpha_under_vmap_and_for_other_scales():
    def loss(alpha, ids, sample, **settings):
        noise = neftune(alpha, **settings)
        return by_function(TABLE, ids[None], STEP, sample[None], noise).sum()

    alphas = jnp.array([1.0, 2.0])
    for settings in ({"scale": "relative"}, {"distribution": "gaussian", "match": "rms"}):
        slope = jax.grad(partial(loss, **settings))
        slopes = jax.jit(jax.vmap(slope))(alphas, IDS, SAMPLE_IDS)
        for row in range(2):
            ends = [loss(alpha, IDS[row], SAMPLE_IDS[row], **settings) for alpha in (1.0, 2.0)]
            assert np.allclose(slopes[row], ends[1] - ends[0], atol=1e-4)


def test_the_variants_would_notice_a_layer_that_draws_for_its_row_in_the_batch():
    def layer(table, ids, step, sample_ids):
        return add_noise(table[ids], neftune(), step=step, mask=ids != 0)

    expected = layer(TABLE, IDS, STEP, SAMPLE_IDS)
    assert not same(over_rows(layer, TABLE, IDS, STEP, SAMPLE_IDS), expected)
