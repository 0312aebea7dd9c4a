"""A copy or a pickle of an attached model is clean, and never shares state."""

import copy
import io
import pickle

import pytest
import torch
from torch import nn

from embnoise import neftune
from embnoise_torch import EmbeddingNoise, attach
from tests.torch.models import batch, llama, zeroed


def through_pickle(model):
    return pickle.loads(pickle.dumps(model))  # noqa: S301, our own


def through_torch_save(model):
    buffer = io.BytesIO()
    torch.save(model, buffer)
    buffer.seek(0)
    return torch.load(buffer, weights_only=False)


over_ways = pytest.mark.parametrize("way", [copy.deepcopy, through_pickle, through_torch_save])


@over_ways
def test_a_copy_of_an_attached_model_is_clean(way):
    model, ids = llama(), batch()
    with attach(model, neftune(20.0), where="completion") as handle:
        copied = way(model)
        lookups = handle.lookups
        clean = copied(input_ids=ids, labels=ids).loss
        assert handle.lookups == lookups
        assert not torch.equal(model(input_ids=ids, labels=ids).loss, clean)
        with attach(copied, neftune(20.0)) as other:
            assert not torch.equal(copied(input_ids=ids, labels=ids).loss, clean)
            assert (other.lookups, handle.lookups) == (1, lookups + 1)
    assert [type(module) for module in copied.modules()] == [
        type(module) for module in model.modules()
    ]
    assert torch.equal(model(input_ids=ids, labels=ids).loss, clean)


@over_ways
def test_a_pickle_does_not_need_embnoise(way):
    model = zeroed()
    with attach(model, neftune()):
        assert b"embnoise" not in pickle.dumps(model.embed)
        assert type(way(model.embed)) is nn.Embedding


@over_ways
def test_a_copied_layer_goes_on_by_itself(way):
    layer, x = EmbeddingNoise(neftune()), torch.zeros(2, 3, 8)
    layer(x)
    copied = way(layer)
    assert copied.step == 1
    second = layer(x)
    assert layer.step == 2
    assert copied.step == 1
    assert torch.equal(copied(x), second)


def test_a_handle_cannot_be_copied():
    with attach(zeroed(), neftune()) as handle:
        for way in (copy.deepcopy, pickle.dumps):
            with pytest.raises(TypeError, match="cannot be copied or pickled"):
                way(handle)
