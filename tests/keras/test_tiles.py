"""TensorFlow's kernel: tiles of a few sizes, whatever the lengths are, and the same bits."""

import logging

import keras
import numpy as np
import pytest

import embnoise
from embnoise import Noise, neftune
from embnoise_keras import add_noise

if keras.backend.backend() != "tensorflow":
    pytest.skip("these are TensorFlow's tiles", allow_module_level=True)

import tensorflow as tf

from embnoise_keras import tiles

DTYPES = [tf.float16, tf.bfloat16, tf.float32, tf.float64]


@pytest.fixture
def small_tiles(monkeypatch):
    """Tiles of 64 and 256 elements."""
    monkeypatch.setattr(tiles, "SIZES", (64, 256))
    tiles.kernel.cache_clear()
    yield
    tiles.kernel.cache_clear()


def bits(array):
    return np.asarray(array).view(f"u{np.asarray(array).itemsize}")


def test_lengths_share_the_shapes_that_xla_compiles(small_tiles, monkeypatch):
    """XLA compiles for each shape that reaches its programs."""
    shapes, words = set(), tiles._words

    def recorded(pair, block, sample, *others):
        def record(sample):
            shapes.add(sample.shape)
            return sample

        sample = tf.ensure_shape(tf.numpy_function(record, [sample], tf.uint64), [None])
        return words(pair, block, sample, *others)

    monkeypatch.setattr(tiles, "_words", recorded)
    in_graph = tf.function(
        lambda x: add_noise(x, neftune(), step=0), [tf.TensorSpec([2, None, 8])], autograph=False
    )
    for add in (lambda x: add_noise(x, neftune(), step=0), in_graph):
        for count in [*range(1, 40), 100, 1000]:
            add(tf.zeros((2, count, 8)))
        assert shapes == {(8,), (32,)}
        shapes.clear()
    assert in_graph.experimental_get_tracing_count() == 1


@pytest.mark.parametrize("dtype", DTYPES, ids=lambda dtype: dtype.name)
@pytest.mark.parametrize("dim", [8, 13, 300])
def test_tiles_have_the_bits_of_the_whole(small_tiles, dtype, dim):
    """On zeros, noise is rounded once, and negative zeros of clean tokens stay what they are."""
    noise = Noise(3.0, distribution="gaussian" if dim == 13 else "uniform")
    for length in [1, 4, 5, 7, 8, 9, 31, 32, 33, 70]:
        x = tf.zeros((1, length, dim), dtype) * -1
        mask = (np.arange(length) % 5 != 3)[None]
        seen = add_noise(x, noise, step=length, mask=tf.constant(mask))
        expected = embnoise.add_noise(np.asarray(x), noise, step=length, mask=mask)
        assert seen.dtype == dtype
        assert (bits(seen) == bits(expected)).all(), length


@pytest.mark.parametrize("length", [1, 3, 40])
def test_a_function_traced_without_xla_works_inside_of_xla(small_tiles, length):
    x = tf.random.stateless_normal((2, length, 20), (0, 0))
    plain = tf.function(lambda x: add_noise(x, neftune(), step=4), autograph=False)
    outside = plain(x)
    inside = tf.function(plain, jit_compile=True, autograph=False)(x)
    expected = embnoise.add_noise(np.asarray(x), neftune(), step=4)
    for seen in (outside, inside):
        np.testing.assert_allclose(np.asarray(seen), expected, rtol=0, atol=1e-6)


def test_no_tokens_in_a_graph_of_unknown_sizes(small_tiles):
    signature = [tf.TensorSpec((None, None, 20))]
    noisy = tf.function(lambda x: add_noise(x, neftune(), step=0), signature, autograph=False)
    for shape in [(0, 5, 20), (2, 0, 20)]:
        assert noisy(tf.zeros(shape)).shape == shape


def test_the_gradient_of_every_tile_is_1(small_tiles):
    x = tf.random.stateless_normal((2, 41, 8), (0, 0))
    upstream = tf.random.stateless_normal(x.shape, (1, 1))
    with tf.GradientTape() as tape:
        tape.watch(x)
        noisy = add_noise(x, neftune(), step=0)
    seen = tape.gradient(noisy, x, output_gradients=upstream)
    assert (np.asarray(seen) == np.asarray(upstream)).all()


def test_no_warning_of_retracing(small_tiles):
    """TensorFlow warns when 5 of the last calls of what it takes for one function traced it."""
    messages = []
    handler = logging.Handler()
    handler.emit = lambda record: messages.append(record.getMessage())
    tf.get_logger().addHandler(handler)
    try:
        for dim in (4, 5, 6):
            for dtype in (tf.float16, tf.float32):
                for shape in [(3, dim), (2, 3, dim)]:
                    add_noise(tf.zeros(shape, dtype), neftune(), step=dim)
    finally:
        tf.get_logger().removeHandler(handler)
    assert [message for message in messages if "retracing" in message] == []


def test_without_functions(small_tiles):
    """As in debugging."""
    x = np.random.default_rng(0).standard_normal((2, 41, 8)).astype(np.float32)
    tf.config.run_functions_eagerly(True)
    try:
        seen = add_noise(tf.constant(x), neftune(), step=0)
    finally:
        tf.config.run_functions_eagerly(False)
    expected = embnoise.add_noise(x, neftune(), step=0)
    np.testing.assert_allclose(np.asarray(seen), expected, rtol=0, atol=1e-6)
