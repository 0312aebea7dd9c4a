"""Masks reach the noise in ``fit``, whose tensors JAX traces in a way of their own."""

import keras
import numpy as np
import pytest

import embnoise
from embnoise import neftune
from embnoise_keras import EmbeddingNoise, attach
from tests.keras.models import DIM, IDS, MASK, VOCABULARY, Probe, probed

NOISE = neftune(50.0)
TABLE = np.random.default_rng(0).standard_normal((VOCABULARY, DIM)).astype(np.float32)


def embedding():
    weights = keras.initializers.Constant(TABLE)
    return keras.layers.Embedding(
        VOCABULARY, DIM, mask_zero=True, embeddings_initializer=weights, name="embed"
    )


def block():
    return keras.layers.Dense(DIM, kernel_initializer="identity", name="block")


def sequential(*layers):
    return keras.Sequential([embedding(), block(), *layers, Probe()])


def functional():
    ids = keras.Input((5,), dtype="int32")
    return keras.Model(ids, Probe()(block()(embedding()(ids))))


def check(seen, mask=MASK, **tokens):
    expected = embnoise.add_noise(TABLE[IDS], NOISE, step=0, mask=mask, **tokens)
    np.testing.assert_allclose(seen, expected, rtol=0, atol=1e-4)


@pytest.mark.parametrize("build", [sequential, functional])
@pytest.mark.parametrize("at", ["input", "output"])
def test_hidden_states_have_the_mask_of_keras(build, at):
    model = build()
    with attach(model, NOISE, layer="block", at=at):
        check(probed(model, IDS))


@pytest.mark.parametrize("options", [{"run_eagerly": True}, {"jit_compile": False}])
def test_hidden_states_have_it_however_the_model_is_compiled(options):
    model = sequential()
    with attach(model, NOISE, layer="block", at="input"):
        check(probed(model, IDS, **options))


class Own(keras.layers.Layer):
    """An embedding that computes its mask."""

    def build(self, _):
        self.table = self.add_weight(shape=TABLE.shape)
        self.table.assign(TABLE)

    def call(self, ids):
        return keras.ops.take(self.table, ids, axis=0)

    def compute_mask(self, ids, previous_mask=None):
        return keras.ops.not_equal(ids, 0)


class OwnPadding(keras.layers.Embedding):
    """One of Keras's whose padding is another id."""

    def compute_mask(self, ids, mask=None):
        return keras.ops.not_equal(ids, 9)


@pytest.mark.parametrize(
    ("layer", "mask"),
    [
        (lambda: Own(name="own"), MASK),
        (
            lambda: OwnPadding(*TABLE.shape, keras.initializers.Constant(TABLE), name="own"),
            IDS != 9,
        ),
    ],
)
def test_an_embedding_of_one_s_own_computes_it(layer, mask):
    ids = keras.Input((5,), dtype="int32")
    model = keras.Model(ids, Probe()(layer()(ids)))
    with attach(model, NOISE, layer="own"):
        check(probed(model, IDS), mask=mask)


def test_a_layer_after_another_has_it():
    check(probed(sequential(EmbeddingNoise(NOISE)), IDS))


def test_a_layer_with_another_tensor_argument_has_it():
    ids, where = keras.Input((5,), dtype="int32"), keras.Input((5,), dtype="bool")
    noisy = EmbeddingNoise(NOISE)(embedding()(ids), where=where)
    chosen = IDS % 2 == 1
    seen = probed(keras.Model([ids, where], Probe()(noisy)), [IDS, chosen])
    check(seen, where=chosen)
