"""Quantized embeddings: Keras runs another method of theirs than ``call``."""

import keras
import numpy as np
import pytest

import embnoise
from embnoise import neftune
from embnoise_keras import attach
from tests.keras.models import DIM, IDS, MASK, TARGETS, VOCABULARY, fit, numpy

# What Keras says of other layers, and what PyTorch says of Keras's transposes.
pytestmark = [
    pytest.mark.filterwarnings("ignore:Layer .* does not have a `quantize` method:UserWarning"),
    pytest.mark.filterwarnings("ignore:(?s).*The use of `x.T` on tensors:UserWarning"),
]
NOISE = neftune(50.0)
MODES = ["int8", "int4"]


def model_with(embedding):
    keras.utils.set_random_seed(0)
    model = keras.Sequential(
        [embedding, keras.layers.GlobalAveragePooling1D(), keras.layers.Dense(1)]
    )
    model.build((None, 5))
    return model


def plain():
    return keras.layers.Embedding(VOCABULARY, DIM, mask_zero=True)


def reversible():
    return keras.layers.ReversibleEmbedding(VOCABULARY, DIM, mask_zero=True)


def quantize(model, mode):
    model.quantize(mode, filters=lambda layer: isinstance(layer, keras.layers.Embedding))


def check_noise(embedding, handle):
    clean, step = numpy(embedding(IDS)), handle.step
    noisy = numpy(embedding(IDS, training=True))
    expected = embnoise.add_noise(clean, NOISE, step=step, mask=MASK)
    np.testing.assert_allclose(noisy, expected, rtol=0, atol=1e-5)
    assert handle.step == step + 1
    assert (numpy(embedding(IDS)) == clean).all()


@pytest.mark.parametrize("mode", MODES)
@pytest.mark.parametrize("make", [plain, reversible])
@pytest.mark.parametrize("attach_first", [False, True])
def test_a_quantized_embedding_is_noised(make, mode, attach_first):
    embedding = make()
    model = model_with(embedding)
    if attach_first:
        handle = attach(model, NOISE)
        quantize(model, mode)
    else:
        quantize(model, mode)
        handle = attach(model, NOISE)
    assert embedding.quantization_mode == mode
    assert keras.backend.standardize_dtype(embedding._embeddings.dtype) == "int8"
    check_noise(embedding, handle)
    if make is reversible:
        x = numpy(embedding(IDS))
        assert (
            numpy(embedding(x, reverse=True, training=True)) == numpy(embedding(x, reverse=True))
        ).all()
    handle.remove()
    assert not {"call", "quantized_call"} & set(vars(embedding))
    assert (numpy(embedding(IDS, training=True)) == numpy(embedding(IDS))).all()


@pytest.mark.parametrize("attach_first", [False, True])
def test_qlora(attach_first):
    model = model_with(plain())
    (embedding,) = [each for each in model.layers if isinstance(each, keras.layers.Embedding)]
    handle = attach(model, NOISE) if attach_first else None
    model.quantize("int8")
    embedding.enable_lora(2)
    handle = handle or attach(model, NOISE)
    model.compile(keras.optimizers.SGD(0.1), "mse")
    before = numpy(embedding.lora_embeddings_b)
    noisy = fit(model)
    assert (handle.step, handle.lookups) == (2, 2)
    assert (numpy(embedding.lora_embeddings_b) != before).any()
    evaluated = model.evaluate(IDS, TARGETS, verbose=0)
    handle.remove()
    assert model.evaluate(IDS, TARGETS, verbose=0) == evaluated
    assert fit(model) != noisy


@pytest.mark.parametrize("mode", MODES)
def test_a_policy_quantizes_as_well(mode):
    policy = keras.dtype_policies.QuantizedDTypePolicy(mode, "float32")
    embedding = keras.layers.Embedding(VOCABULARY, DIM, mask_zero=True, dtype=policy)
    model = model_with(embedding)
    with attach(model, NOISE) as handle:
        check_noise(embedding, handle)


class Sum(keras.layers.Embedding):
    """Runs its own ``call`` when quantized."""

    def _int8_call(self, ids, training=None):
        return self.call(ids)

    def call(self, ids):
        return super()._int8_call(ids)


def test_a_lookup_by_way_of_another_is_noised_once():
    embedding = Sum(VOCABULARY, DIM, mask_zero=True)
    model = model_with(embedding)
    embedding.quantize("int8", type_check=False)
    with attach(model, NOISE) as handle:
        check_noise(embedding, handle)
        assert handle.lookups == 1
