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


def check(seen, **tokens):
    expected = embnoise.add_noise(TABLE[IDS], NOISE, step=0, mask=MASK, **tokens)
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


def test_a_layer_after_another_has_it():
    check(probed(sequential(EmbeddingNoise(NOISE)), IDS))


def test_a_layer_with_another_tensor_argument_has_it():
    ids, where = keras.Input((5,), dtype="int32"), keras.Input((5,), dtype="bool")
    noisy = EmbeddingNoise(NOISE)(embedding()(ids), where=where)
    chosen = IDS % 2 == 1
    seen = probed(keras.Model([ids, where], Probe()(noisy)), [IDS, chosen])
    check(seen, where=chosen)
