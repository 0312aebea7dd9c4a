"""A layer in a functional model where Keras has dropped the mask of the embeddings says so."""

import keras
import numpy as np
import pytest
from keras import ops

import embnoise
from embnoise import neftune
from embnoise_keras import EmbeddingNoise
from embnoise_keras._compat_graph import lost_mask
from tests.keras.models import DIM, IDS, MASK, VOCABULARY, numpy

LOST = r"mask, that of 'tokens', Keras has dropped"


def embedded(mask_zero=True):
    ids = keras.Input((5,), dtype="int32")
    x = keras.layers.Embedding(VOCABULARY, DIM, mask_zero=mask_zero, name="tokens")(ids)
    positions = keras.layers.Embedding(VOCABULARY, DIM)(ops.cumsum(ops.ones_like(ids), 1))
    return ids, x, positions


LOSING = {
    "Add": lambda x, positions: keras.layers.Add()([x, positions]),
    "Multiply": lambda x, positions: keras.layers.Multiply()([positions, 2.0 * x]),
    "operations": lambda x, positions: x * 8.0 + positions,
}
KEEPING = {
    "Dropout": lambda x, positions: keras.layers.Dropout(0.1)(x),
    "Add": lambda x, positions: keras.layers.Add()([x, keras.layers.Dropout(0.1)(x)]),
    "Concatenate": lambda x, positions: keras.layers.Concatenate()([x, positions]),
    "pooled": lambda x, positions: positions + ops.mean(x, axis=1, keepdims=True),
    "read by attention": lambda x, positions: keras.layers.MultiHeadAttention(1, 2)(positions, x),
}


@pytest.mark.parametrize("lose", LOSING.values(), ids=LOSING)
def test_a_mask_that_keras_drops_is_warned_of(lose):
    ids, x, positions = embedded()
    with pytest.warns(RuntimeWarning, match=LOST):
        EmbeddingNoise(neftune())(lose(x, positions))
    padded = EmbeddingNoise(neftune())(lose(x, positions), mask=ops.not_equal(ids, 0))
    model = keras.Model(ids, [lose(x, positions), padded])
    clean, noisy = map(numpy, model(IDS, training=True))
    expected = embnoise.add_noise(clean, neftune(), step=0, mask=MASK)
    np.testing.assert_allclose(noisy, expected, rtol=0, atol=1e-5)


@pytest.mark.parametrize("keep", KEEPING.values(), ids=KEEPING)
def test_other_embeddings_are_not_warned_of(keep):
    _, x, positions = embedded()
    EmbeddingNoise(neftune())(keep(x, positions))  # a warning would be an error
    _, x, positions = embedded(mask_zero=False)
    EmbeddingNoise(neftune())(x * 8.0 + positions)
    EmbeddingNoise(neftune())(keras.layers.Add()([x, positions]))


def test_the_graph_behind_a_tensor():
    _, x, _ = embedded()
    message = "adapt lost_mask in embnoise_keras/_compat_graph.py"
    assert lost_mask(ops.relu(x) * 2.0) == "tokens", message
    assert lost_mask(x) is None, message
