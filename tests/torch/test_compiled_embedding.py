"""Noise on layers that have been replaced by compiled ones before."""

import pytest
import torch
from torch import nn

from embnoise import neftune
from embnoise_torch import add_noise, attach
from tests.torch.models import Embedder, batch

NOISE = neftune(5.0)


class Told(Embedder):
    def get_input_embeddings(self):
        return self.embed


@pytest.mark.parametrize("kind", [Told, Embedder])
@pytest.mark.parametrize("layer", [None, "embed", "embed*", "itself", "wrapper"])
def test_a_compiled_embedding(kind, layer):
    torch.compiler.reset()
    model, ids = kind(), batch()
    embed = model.embed
    model.embed = torch.compile(embed, backend="aot_eager")
    clean = embed.weight[ids]
    layer = {"itself": embed, "wrapper": model.embed}.get(layer, layer)
    mask = torch.ones_like(ids)
    mask[0, 3:] = 0
    with attach(model, NOISE, layer=layer) as handle:
        assert torch.equal(model(ids), add_noise(clean, NOISE, step=0))
        handle.step = 1
        assert torch.equal(model(ids, mask), add_noise(clean, NOISE, step=1, mask=mask))
        assert list(handle.state_dict()) == ["embed"]
    assert torch.equal(model(ids), clean)


def test_compiled_blocks():
    torch.compiler.reset()

    class Blocks(nn.Module):
        def __init__(self):
            super().__init__()
            blocks = (torch.compile(nn.Linear(8, 8), backend="aot_eager") for _ in range(2))
            self.blocks = nn.ModuleList(blocks)

        def forward(self, x):
            for block in self.blocks:
                x = block(x)
            return x

    model = Blocks()
    with attach(model, NOISE, layer="blocks.?", at="input") as handle:
        model(torch.ones(2, 3, 8, requires_grad=True))
        assert handle.lookups == 2
        assert list(handle.state_dict()) == ["blocks.0", "blocks.1"]
