"""The models of keras-hub, from tiny configurations: noise on the token embedding alone."""

import functools

import keras
import keras_hub
import numpy as np
import pytest

import embnoise
from embnoise import neftune
from embnoise_keras import attach
from tests.keras.hub_models import T5GEMMA
from tests.keras.models import IDS, MASK, numpy

# What Keras 3.14 does on PyTorch 2.13.
pytestmark = pytest.mark.filterwarnings("ignore:(?s).*non-tuple sequence for multidim:UserWarning")

DECODER = {"vocabulary_size": 20, "num_layers": 1, "num_query_heads": 2, "hidden_dim": 16}
ENCODER = {"vocabulary_size": 20, "num_layers": 1, "num_heads": 2, "hidden_dim": 16}


def llama():
    backbone = keras_hub.models.LlamaBackbone(
        **DECODER, intermediate_dim=32, num_key_value_heads=2, tie_word_embeddings=True
    )
    return keras_hub.models.LlamaCausalLM(backbone, preprocessor=None)


def gemma():
    backbone = keras_hub.models.GemmaBackbone(
        **DECODER, intermediate_dim=32, num_key_value_heads=1, head_dim=8
    )
    return keras_hub.models.GemmaCausalLM(backbone, preprocessor=None)


def gpt2():
    backbone = keras_hub.models.GPT2Backbone(**ENCODER, intermediate_dim=32, max_sequence_length=8)
    return keras_hub.models.GPT2CausalLM(backbone, preprocessor=None)


def bert():
    return keras_hub.models.BertBackbone(**ENCODER, intermediate_dim=32, max_sequence_length=8)


def inputs_of(model):
    inputs = {"token_ids": IDS, "padding_mask": MASK.astype(np.int32)}
    if "segment_ids" in model.input:
        inputs["segment_ids"] = np.zeros_like(IDS)
    return inputs


def recorded(embedding, seen):
    """Have the embedding's lookups noted; returns what ends that."""
    call = embedding.call

    def noted(inputs, *args, **kwargs):
        out = call(inputs, *args, **kwargs)
        if not (args or kwargs.get("reverse")):
            seen.append(numpy(out))
        return out

    embedding.call = noted


def first(outputs):
    return numpy(outputs["sequence_output"] if isinstance(outputs, dict) else outputs)


@pytest.mark.parametrize("build", [llama, gemma, gpt2, bert])
def test_the_token_embedding_is_noised_at_its_true_length(build):
    model = build()
    inputs = inputs_of(model)
    embedding = getattr(model, "backbone", model).token_embedding
    clean, evaluated = numpy(embedding(IDS)), first(model(inputs))
    with attach(model, neftune(50.0)) as handle:
        seen = []
        recorded(embedding, seen)
        noisy = first(model(inputs, training=True))
        assert (first(model(inputs)) == evaluated).all()
        assert handle.step == 1
    expected = embnoise.add_noise(clean, neftune(50.0), step=0, mask=MASK)
    np.testing.assert_allclose(seen[0], expected, rtol=0, atol=1e-5)
    assert (noisy != evaluated).any()
    assert (first(model(inputs)) == evaluated).all()


# Without noise, too, its attention layers drop the mask that its embedding passes on.
@pytest.mark.filterwarnings("ignore:.*looks like it has unbuilt state:UserWarning")
@pytest.mark.filterwarnings("ignore:.*was passed an input with a mask attached to it:UserWarning")
def test_an_encoder_decoder_gets_two_noises():
    model = keras_hub.models.T5Backbone(**ENCODER, intermediate_dim=32, dropout=0.0)
    decoder_mask = np.ones_like(IDS)
    arrays = {
        "encoder_token_ids": IDS,
        "encoder_padding_mask": MASK.astype(np.int32),
        "decoder_token_ids": IDS,
        "decoder_padding_mask": decoder_mask,
    }
    inputs = {name: keras.ops.convert_to_tensor(array) for name, array in arrays.items()}
    clean, seen = numpy(model.token_embedding(IDS)), []
    with attach(model, neftune()) as handle:
        recorded(model.token_embedding, seen)
        model(inputs, training=True)
        assert handle.step == 1
        assert handle.lookups == 2
    expected = [
        embnoise.add_noise(clean, neftune(), step=0, mask=MASK),
        embnoise.add_noise(clean, neftune(stream="/2"), step=0, mask=decoder_mask),
    ]
    np.testing.assert_allclose(seen, expected, rtol=0, atol=1e-5)


def bart():
    return keras_hub.models.BartBackbone(
        **ENCODER, intermediate_dim=32, dropout=0.0, max_sequence_length=8
    )


def t5gemma():
    return keras_hub.models.T5GemmaBackbone(vocabulary_size=20, **T5GEMMA)


def as_int64(arrays):
    return {name: array.astype(np.int64) for name, array in arrays.items()}


def as_bool_masks(arrays):
    return {n: array.astype(bool) if "mask" in n else array for n, array in arrays.items()}


ENCODER_DECODER = {
    "encoder_token_ids": IDS,
    "encoder_padding_mask": MASK.astype(np.int32),
    "decoder_token_ids": IDS,  # the very same array
    "decoder_padding_mask": np.ones_like(IDS),
}


@pytest.mark.filterwarnings("ignore:.*looks like it has unbuilt state:UserWarning")
@pytest.mark.filterwarnings("ignore:.*was passed an input with a mask attached to it:UserWarning")
@pytest.mark.parametrize("convert", [as_int64, as_bool_masks])
@pytest.mark.parametrize("build", [bart, t5gemma])
def test_each_side_of_an_encoder_decoder_has_its_own_mask(build, convert):
    model, inputs = build(), convert(ENCODER_DECODER)
    tables = [
        model.token_embedding,
        getattr(model, "decoder_token_embedding", model.token_embedding),
    ]
    clean = [numpy(table(IDS)) for table in tables]
    predicted = model.predict(inputs, verbose=0)["decoder_sequence_output"]
    with attach(model, neftune()) as handle:
        assert (model.predict(inputs, verbose=0)["decoder_sequence_output"] == predicted).all()
        clean_again = numpy(model(inputs, training=False)["decoder_sequence_output"])
        np.testing.assert_allclose(clean_again, predicted, rtol=0, atol=1e-4)
        assert (handle.step, handle.lookups) == (0, 0)
        seen = []
        for table in dict.fromkeys(tables):
            recorded(table, seen)
        model(inputs, training=True)
        assert (handle.step, handle.lookups) == (1, 2)
    for number, (x, mask) in enumerate(zip(clean, (MASK, np.ones_like(MASK)), strict=True)):
        noise = neftune(stream="/2") if number else neftune()
        expected = embnoise.add_noise(x, noise, step=0, mask=mask)
        np.testing.assert_allclose(seen[number], expected, rtol=0, atol=1e-5)


@pytest.mark.filterwarnings("ignore:.*was passed an input with a mask attached to it:UserWarning")
def test_an_encoder_decoder_is_fitted_with_64_bit_ids():
    backbone = bart()
    model = keras_hub.models.BartSeq2SeqLM(backbone, preprocessor=None)
    model.compile("sgd", keras.losses.SparseCategoricalCrossentropy(from_logits=True))
    inputs = as_int64(ENCODER_DECODER)
    with attach(model, neftune()) as handle:
        model.fit(inputs, IDS, batch_size=2, shuffle=False, verbose=0)
        assert (handle.step, handle.lookups) == (2, 4)


def test_what_goes_into_the_layers(monkeypatch):
    model = llama()
    seen, layer = [], model.backbone.get_layer("transformer_layer_0")
    kind = type(layer)
    original = kind.call

    @functools.wraps(original)
    def call(self, hidden_states, *args, **kwargs):
        seen.append(numpy(hidden_states))
        return original(self, hidden_states, *args, **kwargs)

    monkeypatch.setattr(kind, "call", call)
    inputs = inputs_of(model)
    model(inputs, training=True)
    with attach(model, neftune(), layer="transformer_layer_*", at="input") as handle:
        model(inputs, training=True)
        assert (handle.step, handle.lookups) == (1, 1)
    clean, noisy = seen
    assert np.array_equal(noisy, embnoise.add_noise(clean, neftune(), step=0, mask=MASK))
