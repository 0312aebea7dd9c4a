"""Masks in the graph of a functional model that are not made of one of its inputs, the ids."""

import keras
import numpy as np
import pytest
from keras import ops

import embnoise
from embnoise import neftune
from embnoise_keras import attach
from tests.keras.models import DIM, IDS, MASK, VOCABULARY, numpy

NOISE = neftune(50.0)
INTEGERS = MASK.astype("int32")
COUNTS = INTEGERS.sum(1, keepdims=True)


def symbolic(*names, width=5, dtype="int32"):
    return {name: keras.Input((width,), dtype=dtype, name=name) for name in names}


def table(name=None):
    return keras.layers.Embedding(VOCABULARY, DIM, name=name)


def attended(x, mask, **options):
    return keras.layers.MultiHeadAttention(1, 4, **options)(x, x, attention_mask=mask)


def rows(mask):
    return ops.expand_dims(mask, 1)


def check(model, inputs, mask=None, **options):
    """Compare the first output, which are embeddings, with those that have noise."""
    clean = numpy(model(inputs)[0])
    with attach(model, NOISE, **options) as handle:
        noisy = numpy(model(inputs, training=True)[0])
        assert handle.step == 1
    expected = embnoise.add_noise(clean, NOISE, step=0, mask=mask)
    np.testing.assert_allclose(noisy, expected, rtol=0, atol=1e-4)


def of_computed(inputs, ids):
    """Looks up ids that the graph computed, and compares them with 0."""
    x = table()(ids)
    return keras.Model(inputs, [x, attended(x, rows(ops.not_equal(ids, 0)))])


def joined():
    return symbolic("prompt", width=2) | symbolic("answer", width=3)


PARTS = {"prompt": IDS[:, :2], "answer": IDS[:, 2:]}


class Replaces(keras.layers.Layer):
    """Draws random numbers, from which no token changes here."""

    def __init__(self):
        super().__init__()
        self.seeds = keras.random.SeedGenerator(0)

    def call(self, ids):
        return ops.where(keras.random.uniform(ops.shape(ids), seed=self.seeds) < 2, ids, 3)


class Offset(keras.layers.Layer):
    """Adds a weight, which is 0 here."""

    def build(self, shape):
        self.offset = self.add_weight((), "zeros", "int32", trainable=False)

    def call(self, ids):
        return ids + ops.cast(self.offset, "int32")


def test_ids_that_are_joined():
    inputs = joined()
    check(of_computed(inputs, ops.concatenate([*inputs.values()], 1)), PARTS, MASK)


@pytest.mark.parametrize("layer", [Replaces, Offset])
def test_ids_of_a_layer_with_state(layer):
    ids = keras.Input((None,), dtype="int32")
    check(of_computed(ids, layer()(ids)), IDS, MASK)


def test_ids_of_a_lookup_of_words():
    if keras.backend.backend() != "tensorflow":
        pytest.skip("there are strings in TensorFlow alone")
    import tensorflow as tf  # noqa: PLC0415

    text = keras.Input((), dtype="string")
    words = keras.layers.TextVectorization(output_sequence_length=5, vocabulary=[*"abcde"])
    model = of_computed(text, words(text))
    mask = np.arange(5) < np.array([[3], [2]])
    check(model, tf.constant(["a b c", "d e"]), mask)


def test_ids_that_are_joined_for_a_model_inside():
    ids = keras.Input((None,), dtype="int32")
    inner, inputs = keras.Model(ids, table()(ids)), joined()
    both = ops.concatenate([*inputs.values()], 1)
    x = inner(both)
    model = keras.Model(inputs, [x, attended(x, rows(both > 0))])
    check(model, PARTS, MASK)


def of_input(name, mask, width=5):
    """Looks up ids, and attends with a mask of another input."""
    ids, others = symbolic("ids"), symbolic(name, width=width)
    x = table()(ids["ids"])
    return keras.Model(ids | others, [x, attended(x, rows(mask(ids["ids"], others[name])))])


OTHERS = {
    "valid": (lambda ids, valid: ops.cast(valid, "bool"), INTEGERS),
    "group_ids": (lambda ids, groups: groups > 0, INTEGERS),
    "n_tokens": (lambda ids, counts: ops.cumsum(ops.ones_like(ids), 1) <= counts, COUNTS),
    "size": (lambda ids, counts: ops.less(np.arange(5)[None], counts), COUNTS),
}


@pytest.mark.parametrize("name", OTHERS)
def test_a_mask_of_another_input_is_warned_of(name):
    mask, given = OTHERS[name]
    model, inputs = of_input(name, mask, given.shape[1]), {"ids": IDS, name: given}
    with pytest.warns(RuntimeWarning, match=rf"attention_mask is computed from .*'{name}' is not"):
        check(model, inputs)
    tokens = {"tokens": lambda ids: {"mask": ids != 0}}
    check(model, inputs, MASK, **tokens)  # a warning would be an error
    where = eval(f"lambda {name}: ops.ones((4, 5), bool)")  # noqa: S307
    check(model, inputs, where=where)  # which may take it for something else


def test_a_mask_of_another_input_for_pooling_is_warned_of():
    inputs = symbolic("ids", "valid")
    x = table()(inputs["ids"])
    pooled = keras.layers.GlobalAveragePooling1D()(x, mask=inputs["valid"])
    with pytest.warns(RuntimeWarning, match="how mask is computed from the input 'valid' is not"):
        check(keras.Model(inputs, [x, pooled]), {"ids": IDS, "valid": INTEGERS})


def test_a_mask_of_several_inputs_or_of_a_layer_with_weights_is_warned_of():
    inputs = joined()
    both = ops.concatenate([each > 3 for each in inputs.values()], 1)
    x = table()(ops.concatenate([*inputs.values()], 1))
    with pytest.warns(RuntimeWarning, match="from the inputs 'answer' and 'prompt' is not known"):
        check(keras.Model(inputs, [x, attended(x, rows(both))]), PARTS)
    ids = symbolic("ids")
    x = table()(ids["ids"])
    model = keras.Model(ids, [x, attended(x, rows(Offset()(ids["ids"]) > 3))])
    with pytest.warns(RuntimeWarning, match="from the input 'ids' is not known"):
        check(model, {"ids": IDS})


def causal(ids, other):
    return ops.cumsum(ops.ones_like(ids + other), 1) > 0


def test_a_mask_of_shapes_alone_is_not_warned_of():
    check(of_input("valid", causal), {"ids": IDS, "valid": INTEGERS})  # a warning would be an error
    inputs = joined()
    x = table()(ops.concatenate([*inputs.values()], 1))
    ones = ops.concatenate([ops.ones_like(each) for each in inputs.values()], 1)
    check(keras.Model(inputs, [x, attended(x, rows(ones))]), PARTS)


def test_the_mask_of_other_tokens_is_not_warned_of():
    """Those that a decoder attends to, and those of another table."""
    inputs = symbolic("source", "target", "valid")
    others = table("others")(inputs["source"])
    x = table("embedding")(inputs["target"])
    read = keras.layers.MultiHeadAttention(1, 4)
    outputs = [
        [x, read(x, others, attention_mask=rows(inputs["valid"]))],
        [x, attended(others, rows(inputs["valid"])), keras.layers.Dense(2)(x)],
        [x, attended(x + others, rows(inputs["source"] > 0))],
    ]
    given = {"source": IDS[::-1].copy(), "target": IDS, "valid": INTEGERS}
    for each in outputs:
        check(keras.Model(inputs, each), given, layer="embedding")  # a warning would be an error


def test_a_mask_of_what_was_looked_up_is_not_warned_of():
    ids = keras.Input((None,), dtype="int32")
    x = table()(ids)
    model = keras.Model(ids, [x, attended(x, rows(ops.any(x > 0, axis=-1)))])
    check(model, IDS)  # a warning would be an error
