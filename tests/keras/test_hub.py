"""The models of keras-hub, from tiny configurations: noise on the token embedding alone."""

import keras
import keras_hub
import numpy as np
import pytest

import embnoise
from embnoise import neftune
from embnoise_keras import attach
from tests.keras.models import IDS, MASK, numpy

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


@pytest.mark.filterwarnings("ignore:.*looks like it has unbuilt state:UserWarning")
@pytest.mark.filterwarnings("ignore:.*was passed an input with a mask attached to it:UserWarning")
def test_masks_that_cannot_be_assigned_are_asked_for_in_training_alone():
    model = keras_hub.models.T5Backbone(**ENCODER, intermediate_dim=32, dropout=0.0)
    inputs = {  # as NumPy arrays, which Keras converts for each lookup
        "encoder_token_ids": IDS,
        "encoder_padding_mask": MASK.astype(np.int32),
        "decoder_token_ids": IDS,
        "decoder_padding_mask": np.ones_like(IDS),
    }
    clean = model.predict(inputs, verbose=0)["decoder_sequence_output"]
    with attach(model, neftune()) as handle:
        assert (model.predict(inputs, verbose=0)["decoder_sequence_output"] == clean).all()
        model(inputs, training=False)
        with pytest.raises(ValueError, match="found 2 masks among the model's inputs"):
            model(inputs, training=True)
        assert (handle.step, handle.lookups) == (0, 0)


def test_generation_is_clean():
    model = llama()
    model.compile(sampler="greedy")
    prompt = {"token_ids": IDS, "padding_mask": MASK.astype(np.int32)}
    clean = model.generate(prompt, stop_token_ids=None)
    with attach(model, neftune(500.0)):
        noisy = model.generate(prompt, stop_token_ids=None)
    assert (numpy(noisy["token_ids"]) == numpy(clean["token_ids"])).all()
