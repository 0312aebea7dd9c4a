"""Padding that the graph of a functional model tells, however the comparison is written."""

import keras
import numpy as np
import pytest
from keras import ops

import embnoise
from embnoise import neftune
from embnoise_keras import attach
from tests.keras.models import DIM, IDS, MASK, VOCABULARY, Probe, numpy, probed

NOISE = neftune(50.0)


def model_of(mask, dtype="int32", width=None, name="attention_mask", look_up=lambda ids: ids):
    """Looks up ids, and attends with a mask that the graph computes from them."""
    ids = keras.Input((width,), dtype=dtype)
    x = keras.layers.Embedding(VOCABULARY, DIM)(look_up(ids))
    attention = keras.layers.MultiHeadAttention(1, 4)
    return keras.Model(ids, [x, attention(x, x, **{name: mask(ids)})])


def check(model, ids=IDS, **tokens):
    clean = numpy(model(ids)[0])
    with attach(model, NOISE) as handle:
        noisy = numpy(model(ids, training=True)[0])
        assert handle.step == 1
    expected = embnoise.add_noise(clean, NOISE, step=0, **tokens)
    np.testing.assert_allclose(noisy, expected, rtol=0, atol=1e-4)


def keep(kept):
    return lambda ids: ops.expand_dims(kept(ids), 1)


class Kept(keras.layers.Layer):
    """A user's layer."""

    def call(self, ids):
        return ops.expand_dims(ops.not_equal(ids, 0), 1)


WRITTEN = {
    "not_equal": keep(lambda ids: ids != 0),
    "greater": keep(lambda ids: ids > 0),
    "greater_equal": keep(lambda ids: ids >= 1),
    "less": keep(lambda ids: ops.less(0, ids)),
    "number_first": keep(lambda ids: ops.not_equal(0, ids)),
    "not_equal_to_zero": keep(lambda ids: ops.logical_not(ops.equal(ids, 0))),
    "integer_of_numpy": keep(lambda ids: ops.not_equal(ids, np.int32(0))),
    "cast": keep(lambda ids: ops.not_equal(ops.cast(ids, "float32"), 0)),
    "cast_to_bool": keep(lambda ids: ops.cast(ids, "bool")),
    "sign": keep(ops.sign),
    "clip": keep(lambda ids: ops.clip(ids, 0, 1)),
    "arithmetic": keep(lambda ids: 1 - ops.cast(ops.equal(ids, 0), "int32")),
    "where": keep(lambda ids: ops.where(ops.equal(ids, 0), 0, 1)),
    "causal": lambda ids: ops.logical_and(
        ops.expand_dims(ids > 0, 1), np.tril(np.ones((1, 5, 5), bool))
    ),
    "lambda": keep(keras.layers.Lambda(lambda ids: ids != 0)),
    "layer": Kept(),
}


@pytest.mark.parametrize("mask", WRITTEN.values(), ids=WRITTEN)
def test_a_comparison_with_0_however_it_is_written(mask):
    check(model_of(mask), mask=MASK)


def test_ids_are_of_any_dtype_and_width():
    check(model_of(keep(lambda ids: ops.not_equal(ids, 0.0)), "float32"), mask=MASK)
    check(model_of(keep(lambda ids: ids > 0), "uint8", width=5), mask=MASK)


def test_ids_that_are_cast_are_the_same():
    cast = {"dtype": "float32", "look_up": lambda ids: ops.cast(ids, "int32")}
    check(model_of(keep(lambda ids: ids > 0), **cast), mask=MASK)


def test_a_comparison_with_another_token_tells_padding_as_a_mask_alone():
    check(model_of(keep(lambda ids: ops.logical_not(ops.equal(ids, 9)))), mask=IDS != 9)
    check(model_of(lambda ids: ids != 9, name="key_mask"), mask=IDS != 9)
    with pytest.warns(RuntimeWarning, match="comparison of ids with 9 may be with other tokens"):
        check(model_of(keep(lambda ids: ops.equal(ids, 9))))  # those of [MASK], say


def test_hidden_states_of_the_ids_have_their_mask():
    ids = keras.Input((None,), dtype="int32")
    x = keras.layers.Dense(DIM, name="block")(keras.layers.Embedding(VOCABULARY, DIM)(ids))
    pooled = keras.layers.GlobalAveragePooling1D()(x, mask=ids > 0)
    model = keras.Model(ids, [x, pooled])
    clean = numpy(model(IDS)[0])
    with attach(model, NOISE, layer="block"):
        noisy = numpy(model(IDS, training=True)[0])
    expected = embnoise.add_noise(clean, NOISE, step=0, mask=MASK)
    np.testing.assert_allclose(noisy, expected, rtol=0, atol=1e-4)


@pytest.mark.parametrize("options", [{}, {"run_eagerly": True}])
def test_a_comparison_is_known_in_fit(options):
    ids = keras.Input((None,), dtype="int32")
    x = Probe()(keras.layers.Embedding(VOCABULARY, DIM)(ids))
    weights = ops.cast(ops.expand_dims(ids > 0, -1), "float32")
    model = keras.Model(ids, x * weights)
    clean = numpy(model.layers[1].embeddings)[IDS]
    with attach(model, NOISE):
        seen = probed(model, IDS, **options)
    expected = embnoise.add_noise(clean, NOISE, step=0, mask=MASK)
    np.testing.assert_allclose(seen, expected, rtol=0, atol=1e-4)


class Reads(keras.layers.Layer):
    """Makes a mask of scores of ids, or of their shape alone."""

    def __init__(self, reads):
        super().__init__()
        self._reads = reads

    def call(self, ids):
        ones = ops.ones_like(ids[:, None] * ids[..., None])
        causal = ops.cumsum(ops.cumsum(ones, axis=1), axis=2) > 0
        return ops.logical_and(causal, (ids != 0)[:, None]) if self._reads else causal


@pytest.mark.parametrize("mask_zero", [False, True])
def test_a_graph_is_not_asked_for_the_padding_that_the_embedding_knows(mask_zero):
    calls = []

    def kept(ids):
        calls.append(ids.shape)
        return ids != 0

    ids = keras.Input((None,), dtype="int32")
    x = keras.layers.Embedding(VOCABULARY, DIM, mask_zero=mask_zero)(ids)
    pooled = keras.layers.GlobalAveragePooling1D()(x, mask=keras.layers.Lambda(kept)(ids))
    model = keras.Model(ids, pooled)
    calls.clear()
    attach(model, NOISE).remove()
    assert bool(calls) != mask_zero


UNKNOWN = {
    "several": keep(lambda ids: ids > 3),
    "negative": keep(lambda ids: ids >= 0),
    "beside": keep(lambda ids: ops.flip(ids, axis=1) != ids),
    "layer": Reads(reads=True),
    "ids": keep(lambda ids: ids),
}


@pytest.mark.parametrize("mask", UNKNOWN.values(), ids=UNKNOWN)
def test_a_mask_that_is_computed_otherwise_is_warned_of(mask):
    model = model_of(mask)
    with attach(model, NOISE):
        with pytest.warns(RuntimeWarning, match="how attention_mask is computed from .*Pass token"):
            model(IDS, training=True)
        model(IDS, training=True)  # once is enough
    with attach(model, NOISE, tokens=lambda ids: {"mask": ids != 0}):
        model(IDS, training=True)


def test_a_comparison_of_other_ids_is_warned_of():
    model = model_of(keep(lambda ids: ids != 0), look_up=lambda ids: ops.maximum(ids, 1))
    with attach(model, NOISE), pytest.warns(RuntimeWarning, match="comparison with 0 is of ids th"):
        model(IDS, training=True)


SILENT = {
    "causal": lambda ids: ops.cumsum(ops.ones_like(ids), axis=1)[:, None] > 0,
    "layer": Reads(reads=False),
}


@pytest.mark.parametrize("mask", SILENT.values(), ids=SILENT)
def test_a_mask_of_the_shape_alone_is_not_warned_of(mask):
    check(model_of(mask))  # a warning would be an error
