"""``torch.func`` and forward-mode differentiation: the noise and derivatives of eager calls."""

import pytest
import torch
from torch.autograd import forward_ad
from torch.func import functionalize, grad, hessian, jacfwd, jacrev, jvp, vjp

from embnoise import Noise, linear, neftune, symnoise
from embnoise_torch import EmbeddingNoise, add_noise
from tests.torch.memory import LAYOUTS

# PyTorch's own forward-mode differentiation.
pytestmark = pytest.mark.filterwarnings("ignore:.torch.jit.script. is deprecated")

X = torch.randn(2, 3, 8, generator=torch.Generator().manual_seed(0))
MASK = torch.tensor([[1, 1, 0], [1, 1, 1]])
NOISES = [neftune(), symnoise(), Noise(0.1, "gaussian", "relative"), neftune(linear(8.0, 1.0, 9))]


def noisy(x, noise=NOISES[0], **arguments):
    return add_noise(x, noise, **{"step": 3, "mask": MASK, **arguments})


def loss(x, noise=NOISES[0]):
    return noisy(x, noise).square().sum()


def identity(x=X):
    return torch.eye(x.numel(), dtype=x.dtype).view(*x.shape, *x.shape)


@pytest.mark.parametrize("noise", NOISES, ids=repr)
def test_first_derivatives(noise):
    expected = noisy(X, noise)
    assert not torch.equal(expected, X)
    assert torch.equal(grad(loss)(X, noise), 2 * expected)
    primal, pull = vjp(lambda x: noisy(x, noise), X)
    assert torch.equal(primal, expected)
    assert torch.equal(pull(X)[0], X)
    primal, tangent = jvp(lambda x: noisy(x, noise), (X,), (2 * X,))
    assert torch.equal(primal, expected)
    assert torch.equal(tangent, 2 * X)


def test_jacobians_are_identities():
    assert torch.equal(jacrev(noisy)(X), identity())
    assert torch.equal(jacfwd(noisy)(X), identity())
    assert torch.equal(jacrev(jacfwd(loss))(X), 2 * identity())
    assert torch.equal(hessian(loss)(X), 2 * identity())


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.float64])
def test_every_dtype(dtype):
    x = X.to(dtype)
    assert torch.equal(grad(loss)(x), 2 * noisy(x))


@pytest.mark.parametrize("layout", LAYOUTS)
def test_any_layout_of_memory(layout):
    x = LAYOUTS[layout]()
    assert torch.equal(vjp(noisy, x)[0], noisy(x.contiguous()))


def test_infinities_and_signed_zeros_keep_their_bits():
    x = torch.tensor([[[torch.inf, -torch.inf, torch.nan, -0.0]] * 3]).expand(2, 3, 4)
    where = torch.zeros(2, 3, dtype=torch.bool)
    bits = vjp(lambda x: noisy(x, where=where), x)[0].view(torch.int32)
    assert torch.equal(bits, x.contiguous().view(torch.int32))


def test_functionalize():
    assert torch.equal(functionalize(noisy)(X), noisy(X))
    assert torch.equal(functionalize(grad(loss))(X), 2 * noisy(X))


def test_forward_mode_without_torch_func():
    with forward_ad.dual_level():
        primal, tangent = forward_ad.unpack_dual(noisy(forward_ad.make_dual(X, 2 * X)))
    assert torch.equal(primal, noisy(X))
    assert torch.equal(tangent, 2 * X)


@pytest.mark.parametrize("vectorize", [False, True])
def test_the_functional_interface_of_autograd(vectorize):
    def hess(x):
        return torch.autograd.functional.hessian(loss, x, vectorize=vectorize)

    assert torch.equal(hess(X), 2 * identity())


@pytest.mark.parametrize("noise", NOISES, ids=repr)
def test_numerical_derivatives(noise):
    """Those of a relative scale are left out: no gradient flows through the RMS."""
    x = X.double().requires_grad_()
    layer = EmbeddingNoise(noise)
    functions = [lambda x: noisy(x, noise), lambda x: layer(x, step=3, mask=MASK)]
    for function in functions:
        if noise.scale == "relative":
            assert torch.equal(torch.autograd.functional.jacobian(function, x), identity(x))
            continue
        assert torch.autograd.gradcheck(
            function,
            x,
            check_forward_ad=True,
            check_batched_grad=True,
            check_batched_forward_grad=True,
        )
        assert torch.autograd.gradgradcheck(lambda x, f=function: f(x).square(), x)


@pytest.mark.parametrize("transform", [grad, lambda f: lambda x: jvp(f, (x,), (x,)), functionalize])
@pytest.mark.parametrize(
    ("arguments", "error", "message"),
    [
        ({"mask": MASK[:1]}, ValueError, r"mask must be of shape \(2, 3\)"),
        ({"mask": MASK.float()}, TypeError, "mask must be of a boolean or integer dtype"),
        ({"step": -1}, ValueError, "step must be at least 0, got -1"),
        ({"step": 1.5}, TypeError, "step must be an integer, got 1.5"),
        ({"step": torch.tensor(1.5)}, ValueError, "step must be an integer or an integer array"),
        ({"step": torch.tensor([1, 2])}, ValueError, "step must be an integer or an integer array"),
        ({"step": torch.tensor(-1)}, ValueError, "step must be at least 0, got -1"),
        ({"training": 1}, TypeError, "training must be True or False, got 1"),
    ],
)
def test_errors_are_those_of_eager_calls(transform, arguments, error, message):
    for call in (
        lambda x: noisy(x, **arguments).sum(),
        transform(lambda x: noisy(x, **arguments).sum()),
    ):
        with pytest.raises(error, match=message):
            call(X)


def test_nothing_to_add():
    assert torch.equal(vjp(lambda x: noisy(x, training=False), X)[0], X)
    assert torch.equal(vjp(lambda x: noisy(x, neftune(0.0)), X)[0], X)
    assert vjp(lambda x: add_noise(x, neftune(), step=0), X[:, :0])[0].shape == (2, 0, 8)


def test_the_layer_counts():
    layer = EmbeddingNoise(neftune())
    for step in range(3):
        expected = add_noise(X, neftune(), step=step)
        assert torch.equal(grad(lambda x: layer(x).square().sum())(X), 2 * expected)
    assert (layer.step, layer.lookups) == (3, 3)
    with layer.paused():
        assert torch.equal(vjp(layer, X)[0], X)
    assert torch.equal(vjp(layer.eval(), X)[0], X)
    assert layer.step == 3
