"""Placeholders of images and the like: neither noised nor counted, unless that is asked for."""

import types

import pytest
import torch

from embnoise import neftune
from embnoise_torch import add_noise, attach
from tests.torch.models import Embedder, batch, zeroed
from tests.torch.test_enclosing_calls import MASK, gemma3, llava, paligemma, qwen2_vl

NOISE = neftune(20.0, seed=3)


def config(**entries):
    """A config as transformers has them, which knows how to become a dict."""
    return types.SimpleNamespace(**entries, to_dict=lambda: entries)


def model_with(**entries):
    model = zeroed(Embedder())
    model.config = config(**entries)
    return model


def ids_with(placeholder):
    ids = batch()
    ids[:, 3:6] = placeholder
    return ids


def expected(ids, **arguments):
    return add_noise(torch.zeros(*ids.shape, 8), NOISE, step=0, **arguments)


@pytest.mark.parametrize(
    "entries",
    [
        {"image_token_id": 40},
        {"image_token_index": 40},
        {"video_token_id": 40, "image_token_id": None},
        {"audio_token_id": 40},
        {"text_config": config(image_token_id=40)},
    ],
)
def test_named_in_the_config(entries):
    model, ids = model_with(**entries), ids_with(40)
    with attach(model, NOISE):
        assert torch.equal(model(ids, MASK), expected(ids, mask=MASK * (ids != 40)))
    with attach(model, NOISE):
        assert torch.equal(model(ids), expected(ids, mask=ids != 40))
    with attach(model, NOISE, placeholders=True):
        assert torch.equal(model(ids, MASK), expected(ids, mask=MASK))


def test_other_special_tokens_are_text():
    model, ids = (
        model_with(vision_start_token_id=40, pad_token_id=40, eos_token_id=40),
        ids_with(40),
    )
    with attach(model, NOISE):
        assert torch.equal(model(ids), expected(ids))


def test_with_where_and_with_tokens():
    model, ids = model_with(image_token_id=40), ids_with(40)
    chosen = ids > 20
    with attach(model, NOISE, where=lambda ids: ids > 20):
        assert torch.equal(model(ids, MASK), expected(ids, mask=MASK * (ids != 40), where=chosen))
    with attach(model, NOISE, tokens=lambda attention_mask: {"mask": attention_mask}):
        assert torch.equal(model(ids, MASK), expected(ids, mask=MASK))


def test_one_that_the_model_replaces_by_padding_before_the_lookup():
    class Replacing(Embedder):
        def forward(self, input_ids, attention_mask=None):
            return self.embed(torch.where(input_ids == 70, 0, input_ids))

    model = zeroed(Replacing())
    model.config = config(image_token_id=70, pad_token_id=0)
    ids = ids_with(70)
    with attach(model, NOISE):
        assert torch.equal(model(ids, MASK), expected(ids, mask=MASK * (ids != 70)))


def test_one_that_becomes_a_discrete_image_token_is_a_token():
    class Discrete(Embedder):
        def forward(self, input_ids, attention_mask=None):
            return self.embed(torch.where(input_ids == 40, 30, input_ids))

    model = zeroed(Discrete())
    model.config = config(image_token_id=40)
    with attach(model, NOISE):
        assert torch.equal(model(ids_with(40), MASK), expected(MASK, mask=MASK))


def test_not_a_bool():
    with pytest.raises(TypeError, match="placeholders must be True or False, got 'noise'"):
        attach(Embedder(), NOISE, placeholders="noise")


@pytest.mark.parametrize("make", [llava, qwen2_vl, gemma3, paligemma])
def test_models_of_transformers(make):
    """Without an image, so that the lookup is all that the placeholders are used for."""
    torch.manual_seed(0)
    model, ids = make(), ids_with(59)
    inner = model.model.get_input_embeddings()
    seen = []
    hook = inner.register_forward_hook(lambda module, args, output: seen.append((args[0], output)))

    class StoppedError(Exception):
        """The lookup has been made; the features that the model lacks do not matter."""

    def stop(*_):
        raise StoppedError

    language = model.model.language_model.register_forward_pre_hook(stop)
    extra = {"token_type_ids": torch.zeros_like(ids)} if make in (gemma3, paligemma) else {}
    with attach(model, NOISE), pytest.raises(StoppedError):
        model(input_ids=ids, attention_mask=MASK, **extra)
    hook.remove()
    language.remove()
    [(looked, noisy)] = seen
    with torch.no_grad():
        clean = inner(looked)
    assert torch.equal(noisy.detach(), add_noise(clean, NOISE, step=0, mask=MASK * (ids != 59)))


@pytest.mark.parametrize("layer", [None, "inner.embed"])
def test_named_in_the_config_of_the_model_inside_another(layer):
    """Such as a LightningModule."""
    outer, ids = torch.nn.Module(), ids_with(40)
    outer.inner = model = model_with(image_token_id=40)
    with attach(outer, NOISE, layer=layer):
        assert torch.equal(model(ids, MASK), expected(ids, mask=MASK * (ids != 40)))
