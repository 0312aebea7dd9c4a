"""What the noise promises, drawn by Hypothesis, for every backend from one definition."""

import numpy as np
import pytest
from hypothesis import strategies as st

from embnoise import Noise, add_noise, neftune, symnoise
from embnoise._distributions import resolve_distribution
from tests.backends import DTYPES, over_backends, property_of_backends
from tests.strategies import (
    alphas,
    distributions,
    dtypes,
    embeddings,
    lengths_of,
    masks,
    noises,
    schedules,
    segment_ids,
    shapes,
    steps,
)


def same_bits(left, right):
    return left.dtype == right.dtype and left.tobytes() == right.tobytes()


def within_an_ulp(seen, expected, x):
    """Of the largest of x, the noise and their sum, in x's dtype: see docs/specification.md."""
    wide = [np.asarray(array, np.float64) for array in (x, expected)]
    largest = np.max([abs(wide[0]), abs(wide[1]), abs(wide[1] - wide[0])], axis=0)
    ulp = np.spacing(largest.astype(x.dtype)).astype(np.float64)
    return seen.dtype == x.dtype and (abs(np.asarray(seen, np.float64) - wide[1]) <= ulp).all()


@pytest.mark.filterwarnings("ignore:embnoise. segment_ids and positions")  # all are equal
@property_of_backends(st.data(), dtypes)
def test_agrees_with_the_reference(backend, data, dtype):
    shape = data.draw(shapes())
    batch, length, _ = shape
    x = embeddings(shape, dtype)
    noise = data.draw(noises())
    arguments = {
        "step": data.draw(steps),
        "mask": data.draw(st.none() | masks(batch, length)),
        "segment_ids": data.draw(st.none() | segment_ids(batch, length)),
        "where": data.draw(st.none() | masks(batch, length)),
        "sample_ids": data.draw(
            st.sampled_from(
                [None, np.arange(batch) + 2**33, np.arange(batch * length).reshape(batch, length)]
            )
        ),
        "positions": data.draw(st.sampled_from([None, np.full((batch, length), 2**32 - 1)])),
    }
    expected = add_noise(x, noise, **arguments)
    seen = backend.add_noise(x, noise, **arguments)
    assert same_bits(seen, expected) if backend.fused else within_an_ulp(seen, expected, x)


@property_of_backends(st.data())
def test_magnitude_is_that_of_the_true_length(backend, data):
    shape = data.draw(shapes())
    batch, length, dim = shape
    mask = data.draw(st.none() | masks(batch, length))
    segments = data.draw(st.none() | segment_ids(batch, length))
    real, counts = lengths_of(batch, length, mask, segments)
    noise = Noise(data.draw(alphas), distribution="rademacher")
    seen = abs(
        backend.add_noise(
            np.zeros(shape, np.float32), noise, step=0, mask=mask, segment_ids=segments
        )
    )
    with np.errstate(divide="ignore"):
        expected = np.float32(noise.alpha) / np.sqrt(counts.astype(np.float32) * np.float32(dim))
    expected = np.where(real, expected, 0).astype(np.float32)
    assert (seen == expected[..., None]).all()


@property_of_backends(st.data(), distributions)
def test_noise_is_bounded_by_the_magnitude(backend, data, distribution):
    shape = data.draw(shapes())
    batch, length, dim = shape
    mask = data.draw(masks(batch, length))
    alpha = data.draw(alphas)
    noise = neftune(alpha, distribution=distribution)
    seen = abs(backend.add_noise(np.zeros(shape, np.float32), noise, step=0, mask=mask)).astype(
        np.float64
    )
    tokens = np.maximum((mask != 0).sum(axis=1), 1)[:, None, None]
    largest = resolve_distribution(distribution).table[-1]
    assert (seen <= alpha / np.sqrt(tokens * dim) * largest * (1 + 2**-22)).all()


@property_of_backends(st.data(), dtypes)
def test_padding_keeps_its_bits(backend, data, dtype):
    shape = data.draw(shapes())
    mask = data.draw(masks(*shape[:2]))
    x = embeddings(shape, dtype)
    x[..., 0] = -0.0
    noisy = backend.add_noise(x, data.draw(noises()), step=0, mask=mask)
    assert same_bits(noisy[mask == 0], x[mask == 0])
    assert noisy.shape == x.shape


@property_of_backends(noise=noises(), dtype=dtypes)
def test_the_input_comes_back_when_nothing_is_to_be_done(backend, noise, dtype):
    x = backend.native(embeddings((2, 3, 5), dtype))
    assert backend.add_noise_native(x, noise, step=0, training=False) is x
    assert backend.add_noise_native(x, Noise(0.0), step=0) is x
    assert backend.add_noise_native(x, Noise(lambda step: 0.0), step=0) is x
    empty = backend.native(np.zeros((0, 3, 5), DTYPES[dtype]))
    assert backend.add_noise_native(empty, noise, step=0) is empty


@property_of_backends(noise=noises(), dtype=dtypes, step=steps)
def test_the_input_is_not_changed_and_the_result_is_a_function_of_it(backend, noise, dtype, step):
    x = embeddings((2, 3, 5), dtype)
    native = backend.native(x)
    first = backend.add_noise_native(native, noise, step=step)
    assert same_bits(backend.numpy(native), x)
    assert first is not native
    assert same_bits(backend.numpy(first), backend.add_noise(x, noise, step=step))


@property_of_backends(noise=noises(), step=steps)
def test_doubling_alpha_doubles_the_noise(backend, noise, step):
    x = np.zeros((2, 3, 17), np.float32)
    double = Noise.from_dict({**noise.to_dict(), "alpha": 2 * noise.alpha})
    once, twice = (backend.add_noise(x, each, step=step) for each in (noise, double))
    assert same_bits(twice, 2 * once)


@property_of_backends(st.data(), distributions)
def test_four_times_the_length_halves_the_noise(backend, data, distribution):
    batch, length, dim = data.draw(shapes())
    noise = neftune(data.draw(alphas), distribution=distribution)
    short = backend.add_noise(np.zeros((batch, length, dim), np.float32), noise, step=0)
    long = backend.add_noise(np.zeros((batch, 4 * length, dim), np.float32), noise, step=0)
    assert same_bits(long[:, :length] * 2, short)


@property_of_backends(st.data(), noises(length="tokens"))
def test_padding_side_and_amount_do_not_matter(backend, data, noise):
    batch, length, dim = data.draw(shapes())
    before, after = data.draw(st.integers(0, 5)), data.draw(st.integers(0, 5))
    x = embeddings((batch, length, dim))
    padded = np.pad(x, ((0, 0), (before, after), (0, 0)))
    mask = np.pad(np.ones((batch, length), int), ((0, 0), (before, after)))
    noisy = backend.add_noise(padded, noise, step=0, mask=mask)
    assert same_bits(noisy[:, before : before + length], backend.add_noise(x, noise, step=0))


@property_of_backends(st.data(), noises(length="tokens"))
def test_packing_does_not_matter(backend, data, noise):
    lengths = data.draw(st.lists(st.integers(1, 6), min_size=1, max_size=5))
    dim, padding = data.draw(st.integers(1, 20)), data.draw(st.integers(0, 3))
    first = data.draw(st.integers(0, 2**32))
    documents = [embeddings((1, length, dim), seed=length) for length in lengths]
    ids = [first + i for i in range(len(lengths))]
    alone = [
        backend.add_noise(document, noise, step=0, sample_ids=np.array([i]))
        for i, document in zip(ids, documents, strict=True)
    ]
    row = np.concatenate([*documents, np.zeros((1, padding, dim), np.float32)], axis=1)
    segments = np.repeat(np.arange(len(lengths) + 1), [*lengths, padding])
    segments = np.where(segments < len(lengths), segments + 1, 0)[None]
    samples = np.repeat(np.array([*ids, 0]), [*lengths, padding])[None]
    packed = backend.add_noise(row, noise, step=0, segment_ids=segments, sample_ids=samples)
    assert same_bits(packed[:, : sum(lengths)], np.concatenate(alone, axis=1))
    assert not packed[:, sum(lengths) :].any()


@property_of_backends(st.data(), noises())
def test_splitting_into_micro_batches_does_not_matter(backend, data, noise):
    shape = data.draw(shapes())
    cut = data.draw(st.integers(0, shape[0]))
    mask = data.draw(masks(*shape[:2]))
    x, ids = embeddings(shape), np.arange(shape[0])
    whole = backend.add_noise(x, noise, step=0, mask=mask)
    parts = [
        backend.add_noise(x[part], noise, step=0, mask=mask[part], sample_ids=ids[part])
        for part in (slice(cut), slice(cut, None))
    ]
    assert same_bits(np.concatenate(parts), whole)


@property_of_backends(st.data(), noises())
def test_the_order_of_rows_does_not_matter(backend, data, noise):
    shape = data.draw(shapes())
    order = np.array(data.draw(st.permutations(range(shape[0]))))
    x, mask = embeddings(shape), data.draw(masks(*shape[:2]))
    whole = backend.add_noise(x, noise, step=0, mask=mask)
    moved = backend.add_noise(x[order], noise, step=0, mask=mask[order], sample_ids=order)
    assert same_bits(moved, whole[order])


@property_of_backends(st.data(), noises())
def test_where_selects_tokens_and_leaves_the_length(backend, data, noise):
    shape = data.draw(shapes())
    x, where = embeddings(shape), data.draw(masks(*shape[:2]))
    chosen = (where != 0)[..., None]
    expected = np.where(chosen, backend.add_noise(x, noise, step=0), x)
    assert same_bits(backend.add_noise(x, noise, step=0, where=where), expected)


@property_of_backends(st.data(), distributions)
def test_antithetic_pairs_cancel(backend, data, distribution):
    dim = data.draw(st.integers(1, 20))
    noise = neftune(3.0, distribution=distribution, antithetic=True)
    x = np.zeros((4, 2, dim), np.float32)
    seen = backend.add_noise(x, noise, step=0)
    assert (seen[0::2] == -seen[1::2]).all()
    plain = neftune(3.0, distribution=distribution)
    assert same_bits(seen[0::2], backend.add_noise(x, plain, step=0)[0::2])


@property_of_backends(schedules(), steps)
def test_a_schedule_is_the_constant_of_its_step(backend, schedule, step):
    x = np.zeros((2, 3, 9), np.float32)
    now = backend.add_noise(x, neftune(alpha=schedule), step=step)
    assert same_bits(now, backend.add_noise(x, neftune(alpha=schedule(step)), step=step))


@property_of_backends(distributions)
def test_matched_rms_is_that_of_the_uniform(backend, distribution):
    x = np.zeros((2, 2, 8192), np.float32)
    noise = Noise(1.0, scale="absolute", distribution=distribution, match="rms")
    seen = backend.add_noise(x, noise, step=0).astype(np.float64)
    # The fourth moment is at most 3 (Gaussian): six standard errors of the mean square.
    error = 6 * np.sqrt(2 / seen.size) / 3
    assert abs((seen**2).mean() - 1 / 3) < error


@property_of_backends(st.data(), dtypes)
def test_the_relative_scale_is_the_rms_of_the_sequence(backend, data, dtype):
    shape = data.draw(shapes())
    batch, length, _ = shape
    x = embeddings(shape, dtype)
    mask, segments = data.draw(masks(batch, length)), data.draw(segment_ids(batch, length))
    noise = Noise(0.5, distribution="rademacher", scale="relative")
    noisy = backend.add_noise(x, noise, step=0, mask=mask, segment_ids=segments).astype(np.float64)
    real = (mask != 0) & (segments != 0)
    wide = x.astype(np.float64)
    for row in range(batch):
        for segment in set(segments[row][real[row]]):
            own = real[row] & (segments[row] == segment)
            rms = np.sqrt((wide[row][own] ** 2).mean())
            close = {"float16": 2e-3, "bfloat16": 2e-2, "float32": 1e-6, "float64": 1e-6}[dtype]
            moved = abs(noisy - wide)[row][own]
            assert abs(moved - rms / 2).max() <= close * max(abs(wide[row][own]).max(), rms)
    assert same_bits(noisy[~real], wide[~real])


@over_backends
def test_small_documents_beside_large_ones_have_noise_of_their_size(backend):
    """The sum over a document must not be lost in that over its row, nor fall below 0."""
    noise = Noise(0.5, distribution="rademacher", scale="relative")
    sizes = np.array([1.0, 0.0, 1.0, 1e-3, 1.0, 30.0, 0.1, 0.0]).repeat(32)
    x = (embeddings((1, sizes.size, 8)) * sizes[:, None]).astype(np.float32)
    segments = np.arange(8).repeat(32)[None] + 1
    samples = np.arange(8).repeat(32)[None]
    noisy = backend.add_noise(x, noise, step=0, segment_ids=segments, sample_ids=samples)
    added = abs(noisy.astype(np.float64) - x).reshape(8, -1).max(axis=1)
    claimed = [0.5 * np.sqrt(np.square(part).mean()) for part in x.reshape(8, -1).astype(float)]
    np.testing.assert_allclose(added, claimed, rtol=2e-3)


@over_backends
@pytest.mark.parametrize("other", [{"seed": 1}, {"stream": "image"}])
def test_other_seeds_streams_and_steps_give_other_noise(backend, other):
    x = np.zeros((2, 3, 96), np.float32)
    first = backend.add_noise(x, neftune(), step=0)
    assert (first != backend.add_noise(x, neftune(**other), step=0)).mean() > 0.99
    assert (first != backend.add_noise(x, neftune(), step=1)).mean() > 0.99
    assert (first[0] != first[1]).mean() > 0.99
    assert (first[:, 1:] != first[:, :-1]).mean() > 0.99
    assert (first[..., 1:] != first[..., :-1]).mean() > 0.99


@over_backends
def test_a_matrix_is_a_batch_of_one(backend):
    x = embeddings((5, 8))
    mask, ids = np.array([1, 1, 0, 1, 1]), np.arange(5)
    noisy = backend.add_noise(x, symnoise(), step=0, mask=mask, sample_ids=ids, positions=mask)
    batch = backend.add_noise(
        x[None], symnoise(), step=0, mask=mask[None], sample_ids=ids[None], positions=mask[None]
    )
    assert same_bits(noisy, batch[0])
