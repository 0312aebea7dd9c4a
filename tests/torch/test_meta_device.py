"""Layers that are made on the meta device, and filled from a checkpoint."""

import torch
from torch import nn

from embnoise import neftune
from embnoise_torch import EmbeddingNoise, add_noise
from tests.torch.models import batch

NOISE = neftune(5.0)


def made():
    return nn.Sequential(nn.Embedding(50, 8), EmbeddingNoise(NOISE))


def test_the_counter_is_on_the_cpu():
    with torch.device("meta"):
        state = made().state_dict()
    assert state["0.weight"].is_meta
    assert state["1._extra_state"].is_cpu


def test_a_checkpoint_without_the_counter_is_assigned():
    weight, ids = torch.randn(50, 8), batch()
    with torch.device("meta"):
        layers = made()
        layers.load_state_dict({"0.weight": weight}, assign=True)
    assert torch.equal(layers(ids), add_noise(weight[ids], NOISE, step=0))
    assert layers[1].step == 1
