"""``add_noise`` under JAX's transformations: the same noise, and no compilation for new values."""

from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import embnoise
from embnoise import Noise, cosine, exponential, linear, neftune, symnoise
from embnoise_jax import add_noise, step_of
from tests.jax import models
from tests.jax.models import same
from tests.strategies import embeddings

SHAPE = (3, 5, 20)
X = jnp.asarray(embeddings(SHAPE))
reference = partial(models.reference, X)
MASK = jnp.array([[1, 1, 1, 0, 0], [1, 1, 1, 1, 1], [0, 1, 1, 1, 0]])


def test_values_that_change_compile_nothing_anew():
    traced = 0

    @jax.jit
    def noisy(x, step, alpha, mask, ids, key):
        nonlocal traced
        traced += 1
        return add_noise(x, Noise(alpha, seed=key), step=step, mask=mask, sample_ids=ids)

    for step, alpha, mask in [(0, 5.0, MASK), (7, 2.0, 1 - MASK), (2**31 - 1, 0.0, MASK)]:
        ids = jnp.arange(3) + step % 100
        seen = noisy(X, step, alpha, mask, ids, jax.random.key(step % 1000))
        expected = reference(neftune(alpha, seed=step % 1000), step=step, mask=mask, sample_ids=ids)
        assert same(seen, expected)
    assert traced == 1


def test_outside_jit_values_that_change_compile_nothing_anew(caplog):
    def noisy(step):
        noise = Noise(1.0 + step, seed=step, stream=str(step))
        return add_noise(X, noise, step=step, mask=(MASK + step) % 2)

    noisy(0)
    with jax.log_compiles(), caplog.at_level("WARNING"):
        for step in range(1, 4):
            noisy(step)
    assert "_add_planned" not in caplog.text
    with jax.log_compiles(), caplog.at_level("WARNING"):
        add_noise(X[:, :4], neftune(), step=0)
    assert "_add_planned" in caplog.text


@pytest.mark.parametrize("schedule", [linear(5, 1, 10), cosine(5, 1, 4).then(linear(1, 2, 3))])
def test_a_traced_step_follows_the_schedule(schedule):
    noisy = jax.jit(lambda x, step: add_noise(x, neftune(schedule), step=step))
    for step in (0, 2, 5, 99):
        # The schedule runs in float32 here, and in float64 there.
        expected = reference(neftune(schedule), step=step)
        np.testing.assert_allclose(noisy(X, step), expected, rtol=0, atol=1e-6)


def test_a_known_step_has_the_reference_s_alpha_inside_jit():
    # With a traced step the schedule would run in float32, and be off in a bit here and there.
    noise = Noise(exponential(9.0, 0.7, 10), scale="absolute", distribution="rademacher")
    steps = range(1, 10)
    noisy = jax.jit(lambda x: [add_noise(x, noise, step=step) for step in steps])
    zeros = np.zeros((1, 1, 8), np.float32)
    for step, seen in zip(steps, noisy(jnp.asarray(zeros)), strict=True):
        assert same(seen, embnoise.add_noise(zeros, noise, step=step))


def test_optax_schedules_and_states():
    import optax  # noqa: PLC0415

    schedule = optax.linear_schedule(5.0, 1.0, 4)
    expected = reference(neftune(alpha=3.0), step=2)
    assert same(add_noise(X, neftune(schedule), step=2), expected)
    assert same(jax.jit(lambda x: add_noise(x, neftune(schedule), step=2))(X), expected)
    optimizer = optax.chain(optax.clip(1.0), optax.adam(optax.constant_schedule(0.1)))
    weights = jnp.zeros(2)

    @jax.jit
    def update(state):
        noisy = add_noise(X, neftune(schedule), step=step_of(state))
        return noisy, optimizer.update(weights, state, weights)[1]

    state = optimizer.init(weights)
    for step in range(3):
        noisy, state = update(state)
        alpha = 5.0 - step
        np.testing.assert_allclose(noisy, reference(neftune(alpha), step=step), atol=1e-6)
    assert int(step_of(state)) == 3


def test_the_gradient_is_exactly_1():
    noise = neftune(scale="relative")
    upstream = jnp.asarray(embeddings(SHAPE, seed=1)).at[0, 0, 0].set(-0.0)
    for function in (add_noise, jax.jit(add_noise, static_argnums=1)):
        _, pullback = jax.vjp(lambda x, call=function: call(x, noise, step=0), X)
        assert same(pullback(upstream)[0], upstream)
    _, tangent = jax.jvp(lambda x: add_noise(x, noise, step=0, mask=MASK), (X,), (upstream,))
    assert same(tangent, upstream)
    assert not jax.hessian(lambda x: add_noise(x, noise, step=0).sum())(X[:1, :2, :3]).any()


def test_vmap_is_a_loop():
    def one(x, mask, sample):
        return add_noise(x, neftune(), step=0, mask=mask, sample_ids=sample[None])

    ids = jnp.array([4, 2, 9])
    mapped = jax.vmap(one)(X, MASK, ids)
    assert same(mapped, reference(neftune(), mask=MASK, sample_ids=ids))
    alone = jax.vmap(lambda x: add_noise(x, neftune(), step=0))(X)
    noises = np.asarray(alone - X)
    np.testing.assert_allclose(noises[0], noises[1], atol=1e-6)


def test_vmap_over_keys():
    keys = jax.random.split(jax.random.key(0), 3)
    mapped = jax.vmap(lambda x, key: add_noise(x, Noise(5.0, seed=key), step=0))(X, keys)
    for row, x, key in zip(mapped, X, keys, strict=True):
        assert same(row, add_noise(x, Noise(5.0, seed=key), step=0))


def test_scan_over_steps():
    def body(carry, step):
        return carry, add_noise(X, neftune(), step=step, mask=MASK)

    _, stacked = jax.jit(lambda: jax.lax.scan(body, 0, jnp.arange(3)))()
    for step in range(3):
        assert same(stacked[step], reference(neftune(), step=step, mask=MASK))


@pytest.mark.parametrize("implementation", ["threefry2x32", "rbg"])
def test_a_key_is_the_seed_that_it_was_made_of(implementation):
    key = jax.random.key(2**31 + 7, impl=implementation)
    noise = Noise(5.0, seed=key, stream="image")
    assert same(add_noise(X, noise, step=0), reference(neftune(seed=2**31 + 7, stream="image")))
    first, second = (add_noise(X, Noise(5.0, seed=each), step=0) for each in jax.random.split(key))
    assert not (first == second).any()


def test_a_key_belongs_to_jax_alone():
    noise = Noise(5.0, seed=jax.random.key(0))
    with pytest.raises(TypeError, match=r"seed must be an integer, got .*key<fry>"):
        embnoise.add_noise(np.zeros((1, 2, 8), np.float32), noise, step=0)
    with pytest.raises(TypeError, match="seed must be an integer"):
        noise.to_dict()
    with pytest.raises(ValueError, match="seed must be one key"):
        Noise(5.0, seed=jax.random.split(jax.random.key(0)))


def test_noises_with_keys_are_compared_and_hashed():
    key = jax.random.key(3)
    same = neftune(seed=key), neftune(seed=jax.random.key(3))
    others = (
        neftune(seed=jax.random.key(4)), neftune(seed=3), neftune(), neftune(6.0, seed=key),
        neftune(seed=jax.random.key(3, impl="rbg")),
    )  # fmt: skip
    assert same[0] == same[1]
    assert hash(same[0]) == hash(same[1])
    assert all(same[0] != other and other != same[0] for other in others)
    assert jax.jit(lambda key: neftune(seed=key) == neftune(seed=key))(key)
    assert not jax.jit(lambda key: neftune(seed=key) == neftune(seed=jax.random.key(3)))(key)


def test_a_raw_key_is_refused_with_what_to_pass():
    raw = jax.random.PRNGKey(3)
    message = r"seed must be an integer or a jax\.random\.key, .* jax\.random\.wrap_key_data"
    for make in (lambda: Noise(5.0, seed=raw), lambda: jax.jit(lambda key: neftune(seed=key))(raw)):
        with pytest.raises(TypeError, match=message):
            make()
    wrapped = Noise(5.0, seed=jax.random.wrap_key_data(raw))
    assert same(add_noise(X, wrapped, step=0), reference(neftune(seed=3)))


def test_arrays_of_numpy_and_of_8_bits_are_refused_with_what_to_do():
    with pytest.raises(TypeError, match=r"pass jnp\.asarray\(x\), or call embnoise\.add_noise"):
        add_noise(np.zeros((2, 3), np.float32), neftune(), step=0)
    with pytest.raises(TypeError, match=r"pass jnp\.asarray\(x\)$"):
        add_noise([[0.0, 1.0]], neftune(), step=0)
    with pytest.raises(TypeError, match=r"got float8_e4m3fn: add the noise in one of these"):
        add_noise(jnp.zeros((2, 3), jnp.float8_e4m3fn), neftune(), step=0)


@pytest.mark.parametrize("distribution", ["uniform", "gaussian", "rademacher"])
def test_channels_are_parts_of_the_embeddings(distribution):
    noise = neftune(distribution=distribution)
    whole = add_noise(X, noise, step=3, mask=MASK)
    noisy = jax.jit(lambda x, at: add_noise(x, noise, step=3, mask=MASK, channels=(at, 20)))
    for first, width in [(0, 8), (8, 9), (17, 3), (0, 20)]:
        part = (..., slice(first, first + width))
        assert same(noisy(X[part], first), whole[part])
        eager = add_noise(X[part], noise, step=3, mask=MASK, channels=(first, 20))
        assert same(eager, whole[part])


@pytest.mark.parametrize(
    ("channels", "noise", "kind", "message"),
    [
        (3, neftune(), TypeError, r"channels must be \(offset, total\).* got 3"),
        ((0, 20.0), neftune(), TypeError, r"the total of channels must be an integer, got 20\.0"),
        ((0.5, 40), neftune(), TypeError, r"the offset of channels must be an integer, got 0\.5"),
        ((0, 19), neftune(), ValueError, "the total of channels must be at least 20, got 19"),
        ((21, 40), neftune(), ValueError, r"with offset \+ 20 <= total.* got \(21, 40\)"),
        ((-1, 40), neftune(), ValueError, "the offset of channels must be at least 0, got -1"),
        ((0, 40), neftune(scale="relative"), ValueError, "None with scale='relative'"),
    ],
)
def test_wrong_channels(channels, noise, kind, message):
    with pytest.raises(kind, match=message):
        add_noise(X, noise, step=0, channels=channels)


@pytest.mark.parametrize("noise", [neftune, symnoise, partial(neftune, scale="relative")])
@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
def test_derivatives_without_promotion(noise, dtype):
    def loss(x, alpha):
        noisy = add_noise(x, noise(alpha), step=jnp.int32(3), mask=MASK, segment_ids=1 + MASK)
        return noisy.astype(jnp.float32).sum()

    x = jnp.asarray(X, dtype)
    expected = jax.grad(loss, (0, 1))(x, 5.0)
    with jax.numpy_dtype_promotion("strict"), jax.numpy_rank_promotion("raise"):
        for function in (loss, jax.jit(loss)):
            by_x, by_alpha = jax.grad(function, (0, 1))(x, 5.0)
            assert same(by_x, expected[0])
            assert np.allclose(by_alpha, expected[1], rtol=1e-3)


def test_a_step_may_be_an_array_of_one_element():
    noise = neftune(linear(5, 1, 4))
    expected = add_noise(X, noise, step=2)
    for step in (np.int64(2), np.array([2]), jnp.array([[2]], jnp.uint32)):
        assert same(add_noise(X, noise, step=step), expected)
    traced = jax.jit(lambda step: add_noise(X, noise, step=step))(jnp.array([2]))
    np.testing.assert_allclose(traced, expected, rtol=0, atol=1e-6)


def test_a_step_is_required():
    with pytest.raises(TypeError, match="missing 1 required keyword-only argument: 'step'"):
        add_noise(X, neftune())


def test_the_mean_squares_of_half_precision_are_taken_in_float32():
    x = jnp.full((1, 4, 8), 300.0, jnp.float16)
    noise = Noise(0.5, scale="relative", distribution="rademacher")
    noisy = add_noise(x, noise, step=0)
    assert (abs(noisy - x) == 150).all()
