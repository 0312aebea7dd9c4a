"""``torch.compile`` around ``torch.func``, and around what it calls."""

import pytest
import torch
from torch.func import functional_call, grad, hessian, jvp, vmap

from embnoise import neftune
from embnoise_torch import EmbeddingNoise, add_noise, attach
from tests.torch.models import batch, zeroed

pytestmark = pytest.mark.filterwarnings("ignore:.torch.jit.script. is deprecated")

X = torch.randn(2, 3, 8, generator=torch.Generator().manual_seed(0))
MASK = torch.tensor([[1, 1, 0], [1, 1, 1]])
NOISE = neftune()


@pytest.fixture(autouse=True)
def _fresh_compiler():
    torch._dynamo.reset()


def noisy(x, step=3, mask=MASK):
    return add_noise(x, NOISE, step=step, mask=mask)


def loss(x):
    return noisy(x).square().sum()


def compiled(function, backend="aot_eager"):
    return torch.compile(function, backend=backend, fullgraph=True)


@pytest.mark.parametrize("backend", ["eager", "aot_eager"])
def test_derivatives_inside(backend):
    assert torch.equal(compiled(grad(loss), backend)(X), 2 * noisy(X))
    primal, tangent = compiled(lambda x: jvp(noisy, (x,), (2 * x,)), backend)(X)
    assert torch.equal(primal, noisy(X))
    assert torch.equal(tangent, 2 * X)


def test_second_derivatives_inside():
    found = compiled(hessian(loss))(X)
    assert torch.equal(found.view(48, 48), 2 * torch.eye(48))


def test_maps_inside():
    x, masks = torch.stack([X, -X]), torch.stack([MASK, 1 - MASK])
    expected = torch.stack([noisy(X), noisy(-X)])
    assert torch.equal(compiled(vmap(noisy))(x), expected)
    expected = torch.stack([noisy(X, mask=MASK), noisy(X, mask=1 - MASK)])
    assert torch.equal(compiled(vmap(lambda m: noisy(X, mask=m)))(masks), expected)


def test_a_map_around():
    x = torch.stack([X, -X])
    expected = torch.stack([noisy(X), noisy(-X)])
    assert torch.equal(vmap(torch.compile(noisy, backend="aot_eager"))(x), expected)


def test_a_layer_inside_counts():
    layer = EmbeddingNoise(NOISE)
    fast = compiled(grad(lambda x: layer(x).square().sum()))
    for step in range(3):
        assert torch.equal(fast(X), 2 * add_noise(X, NOISE, step=step))
    assert layer.step == 3


def test_per_sample_gradients_of_an_attached_model():
    model, ids = zeroed(), batch(3, 8)
    parameters = {name: each.detach() for name, each in model.named_parameters()}

    def loss(parameters, ids):
        return functional_call(model, parameters, (ids[None],)).square().sum()

    def per_sample(parameters, ids):
        return vmap(grad(loss), in_dims=(None, 0), randomness="different")(parameters, ids)

    with attach(model, NOISE):
        found = compiled(per_sample)(parameters, ids)["embed.weight"]
    with attach(model, NOISE):
        assert torch.equal(found, per_sample(parameters, ids)["embed.weight"])
    assert found.any()


def test_a_symbolic_step():
    """Dynamo makes an int symbolic when it changes."""
    layer = EmbeddingNoise(NOISE)
    functions = [compiled(noisy), compiled(lambda x, step: layer(x, step=step, mask=MASK))]
    for function in functions:
        for step in range(4):
            assert torch.equal(function(X, step), noisy(X, step))


@pytest.mark.parametrize("step", [3.7, torch.tensor(3.7)])
def test_a_step_that_is_none_is_refused(step):
    with pytest.raises((TypeError, ValueError), match="step must be"):
        torch.compile(noisy, backend="eager")(X, step)
