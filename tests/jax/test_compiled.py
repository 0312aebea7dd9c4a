"""What XLA makes of the noise: no large buffers, few operations, no results of 64 bits."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from embnoise import Noise, constant, cosine, linear, neftune
from embnoise_jax import add_noise
from tests.jax.models import reference, same
from tests.strategies import embeddings

SHAPE = BATCH, LENGTH, DIM = 4, 128, 512
MASK = jnp.arange(LENGTH) < 32 * (1 + jnp.arange(BATCH)[:, None])
BATCHES = [{}, {"mask": MASK}, {"segment_ids": jnp.where(MASK, 1 + jnp.arange(LENGTH) // 16, 0)}]


def compiled(noise, dtype, about):
    def noisy(x, step, about):
        return add_noise(x, noise, step=step, **about)

    x = jax.ShapeDtypeStruct(SHAPE, dtype)
    return jax.jit(noisy).lower(x, jnp.int32(3), about).compile()


@pytest.mark.parametrize("dtype", ["float32", "bfloat16", "float16"])
@pytest.mark.parametrize("about", BATCHES, ids="-".join)
def test_the_output_is_the_only_large_buffer(about, dtype):
    memory = compiled(neftune(scale="relative"), dtype, about).memory_analysis()
    # The others are [B, L]: eight of them add up the squares of 16-bit embeddings.
    assert memory.temp_size_in_bytes < 0.1 * memory.output_size_in_bytes


def test_a_product_of_two_words_is_one_multiplication():
    """Of 16-bit limbs it took seven operations more; all in all, 271 for an element."""
    operations = compiled(neftune(), "float32", {}).cost_analysis()["flops"]
    assert operations < 150 * np.prod(SHAPE)


@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
def test_nothing_of_64_bits_gets_out(dtype):
    x = jnp.asarray(embeddings((3, 5, 20), dtype))

    def noisy(x, step, alpha):
        return add_noise(x, neftune(alpha), step=step)

    for function in (noisy, jax.jit(noisy), jax.vmap(noisy, (0, None, None))):
        program = jax.make_jaxpr(function)(x, 3, 5.0)
        assert [(out.dtype, out.weak_type) for out in program.out_avals] == [(x.dtype, False)]
        seen = function(x, 3, 5.0)
        assert (seen.dtype, seen.weak_type) == (x.dtype, False)
    slopes = jax.jit(jax.grad(lambda *each: noisy(*each).sum(), (0, 2)))(x, 3, 5.0)
    assert [slope.dtype for slope in slopes] == [x.dtype, jnp.float32]
    assert jnp.arange(3).dtype == jnp.int32


@pytest.mark.parametrize("dtype", ["float32", "float64"])
def test_callers_in_64_bit_mode_get_the_same_bits(dtype):
    x = embeddings((3, 5, 20), dtype)
    expected = reference(x, neftune(), step=7)
    with jax.enable_x64(True):
        arguments = jnp.asarray(x), jnp.asarray(7)
        assert arguments[1].dtype == jnp.int64
        for transformed in (jax.jit, jax.checkpoint, lambda function: function):
            noisy = transformed(lambda x, step: add_noise(x, neftune(), step=step))(*arguments)
            assert noisy.dtype == dtype
            assert same(noisy, expected)


def test_a_function_traced_in_one_mode_runs_in_the_other():
    noisy = jax.jit(lambda x: add_noise(x, Noise(5.0), step=3))
    x = embeddings((2, 3, 8))
    expected = reference(x, Noise(5.0), step=3)
    with jax.enable_x64(True):
        program = noisy.lower(jnp.asarray(x))
        assert same(noisy(jnp.asarray(x)), expected)
    assert same(program.compile()(x), expected)
    assert same(noisy(jnp.asarray(x)), expected)


@pytest.mark.parametrize(
    "schedule",
    [linear(5, 1, 2**32), cosine(5, 1, 2**40), constant(3, 2**33).then(linear(5, 1, 2**32))],
)
def test_schedules_of_more_steps_than_an_integer_of_jax_holds(schedule):
    noise = neftune(schedule)
    x = jnp.ones((2, 3, 8))
    noisy = jax.jit(lambda x, step: add_noise(x, noise, step=step))(x, 7)
    np.testing.assert_allclose(noisy, reference(x, noise, step=7), rtol=1e-6)
