"""Near to transformations: parametrizations, autocast, checkpointing, no gradients."""

from contextlib import nullcontext

import pytest
import torch
from torch import nn
from torch.func import functional_call, grad, stack_module_state, vmap
from torch.nn.utils import parametrize
from torch.utils.checkpoint import checkpoint

from embnoise import neftune
from embnoise_torch import EmbeddingNoise, add_noise, attach
from tests.torch.models import Embedder, batch

NOISE = neftune()


def looked_up(weight, ids, step=0):
    return add_noise(nn.functional.embedding(ids, weight), NOISE, step=step)


class Twice(nn.Module):
    def forward(self, weight):
        return 2 * weight


@pytest.mark.parametrize("first", ["attach", "parametrize"])
def test_a_parametrized_embedding(first):
    model, ids = Embedder(), batch()
    if first == "parametrize":
        parametrize.register_parametrization(model.embed, "weight", Twice())
    handle = attach(model, NOISE)
    if first == "attach":
        parametrize.register_parametrization(model.embed, "weight", Twice())
    assert torch.equal(model(ids), looked_up(model.embed.weight, ids))
    handle.remove()
    assert torch.equal(model(ids), nn.functional.embedding(ids, model.embed.weight))


def test_functional_call_and_ensembles():
    models, ids = [Embedder() for _ in range(3)], batch()
    weights = stack_module_state(models)[0]
    with attach(models[0], NOISE):
        found = vmap(lambda w: functional_call(models[0], w, (ids,)), randomness="same")(weights)
    for output, model in zip(found, models, strict=True):
        assert torch.equal(output, looked_up(model.embed.weight, ids))


def test_autocast():
    model, ids = Embedder(), batch()
    with torch.autocast("cpu", dtype=torch.bfloat16), attach(model, NOISE):
        assert torch.equal(model(ids), looked_up(model.embed.weight, ids))


@pytest.mark.parametrize("context", [torch.no_grad, torch.inference_mode])
def test_without_gradients_only_the_function_adds_noise(context):
    """A layer leaves reference passes and generation alone, which dropout does not."""
    model, ids, layer = Embedder(), batch(), EmbeddingNoise(NOISE)
    with attach(model, NOISE) as handle, context():
        clean = nn.functional.embedding(ids, model.embed.weight)
        assert torch.equal(model(ids), clean)
        assert layer(clean) is clean
        assert not torch.equal(add_noise(clean, NOISE, step=0), clean)
    assert (handle.lookups, layer.lookups) == (0, 0)


def test_a_derivative_inside_no_grad_has_gradients():
    layer, x = EmbeddingNoise(NOISE), torch.randn(2, 3, 8)
    with torch.no_grad():
        found = grad(lambda x: layer(x).square().sum())(x)
    assert torch.equal(found, 2 * add_noise(x, NOISE, step=0))


@pytest.mark.parametrize("reentrant", [False, True])
def test_both_kinds_of_checkpointing(reentrant):
    layer, seen = EmbeddingNoise(NOISE), []
    x = torch.randn(2, 3, 8, requires_grad=True)

    def body(x):
        seen.extend([add_noise(x, NOISE, step=3).detach(), layer(x).detach()])
        return x.sin()

    loss = checkpoint(body, x, use_reentrant=reentrant).sum()
    with pytest.warns(RuntimeWarning, match="gets no noise") if reentrant else nullcontext():
        loss.backward()
    assert torch.equal(seen[0], seen[2])
    assert torch.equal(seen[1], seen[3])
    assert torch.equal(seen[1], x.detach()) is reentrant  # its first pass has no gradients
