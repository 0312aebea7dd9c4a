"""Claims(transformations=...): what our own layers keep, and what faulty ones do not."""

import re

import pytest

from embnoise import neftune
from embnoise.testing import Claims, case, iter_checks
from tests.frameworks import needs

EVERY = {
    "torch": ("vmap", "grad_of_grad", "remat", "opcheck"),
    "jax": ("vmap", "grad_of_grad", "remat", "sharded"),
}


def result(make, driver, *transformations, **claims):
    tested = case(
        "mine", make, driver=driver, claims=Claims(transformations=transformations, **claims)
    )
    checks = iter_checks(tested, profile="quick")
    return next(check.run() for check in checks if check.spec.code == "EN60")


def function(add_noise):
    return lambda *, dim, alpha, seed: (
        lambda x, *, training, mask=None, step=0: add_noise(
            x, neftune(alpha, seed=seed), training=training, mask=mask, step=step
        )
    )


def torch_layers():
    from embnoise_torch import EmbeddingNoise, add_noise  # noqa: PLC0415

    yield function(add_noise)
    yield lambda *, dim, alpha, seed: EmbeddingNoise(neftune(alpha, seed=seed))


def jax_layers():
    from embnoise_jax import add_noise, equinox, linen, nnx  # noqa: PLC0415

    yield function(add_noise)
    for library in (nnx, linen, equinox):
        yield lambda *, dim, alpha, seed, kind=library.EmbeddingNoise: kind(
            neftune(alpha, seed=seed)
        )


@needs("torch")
@pytest.mark.parametrize("number", range(2))
def test_our_torch_layers_keep_every_transformation(number):
    make = list(torch_layers())[number]
    found = result(make, "torch", *EVERY["torch"], saved_names=("count",))
    assert (found.status, found.message) == ("passed", "")
    assert found.assertions == len(EVERY["torch"])


@needs("jax")
@pytest.mark.parametrize("number", range(4))
def test_our_jax_layers_keep_every_transformation_of_one_device(number):
    make = list(jax_layers())[number]
    found = result(make, "jax", "vmap", "grad_of_grad", "remat", saved_names=("count",))
    assert (found.status, found.message) == ("passed", "")

    # One fault each, of PyTorch.


def clean_under_vmap(*, dim, alpha, seed):
    import torch  # noqa: PLC0415

    def layer(x, *, training, step, mask=None):
        if not training or torch._C._are_functorch_transforms_active():
            return x
        return x + noise_of_rows(x, alpha, seed, step, mask)

    return layer


def fresh_in_every_forward(*, dim, alpha, seed):
    calls = []

    def layer(x, *, training, mask=None):
        if not training:
            return x
        calls.append(None)
        return x + noise_of_rows(x, alpha, seed, len(calls), mask)

    return layer


def differentiable_once(*, dim, alpha, seed):
    import torch  # noqa: PLC0415
    from torch.autograd.function import once_differentiable  # noqa: PLC0415

    class Identity(torch.autograd.Function):
        @staticmethod
        def forward(context, x, noise):
            return x + noise

        @staticmethod
        @once_differentiable
        def backward(context, gradient):
            return gradient, None

    def layer(x, *, training, step, mask=None):
        if not training:
            return x
        return Identity.apply(x, noise_of_rows(x, alpha, seed, step, mask))

    return layer


def undeclared_mutation(*, dim, alpha, seed):
    import torch  # noqa: PLC0415

    operator = _operator(torch)

    def layer(x, *, training, step, mask=None):
        if not training:
            return x
        return operator(x, noise_of_rows(x, alpha, seed, step, mask))

    return layer


def _operator(torch):
    """An operator whose fake version says another dtype."""
    name = "embnoise_tests::add"
    if hasattr(torch.ops.embnoise_tests, "add"):
        return torch.ops.embnoise_tests.add
    made = torch.library.custom_op(name, lambda x, noise: x + noise, mutates_args=(),
                                   schema="(Tensor x, Tensor noise) -> Tensor")  # fmt: skip
    made.register_fake(lambda x, noise: x.double())
    made.register_autograd(lambda context, gradient: (gradient, None))
    return torch.ops.embnoise_tests.add


def noise_of_rows(x, alpha, seed, step, mask):
    from embnoise_torch import add_noise  # noqa: PLC0415

    zeros = x.detach() * 0
    return add_noise(zeros, neftune(alpha, seed=seed), step=step, mask=mask)


@needs("torch")
@pytest.mark.parametrize(
    ("make", "name", "says"),
    [
        (clean_under_vmap, "vmap", "under vmap the output differs by up to"),
        (fresh_in_every_forward, "remat", "recomputed in the backward pass draws other noise"),
        (differentiable_once, "grad_of_grad", "a gradient of its own, which has no gradient"),
        (undeclared_mutation, "opcheck", "under opcheck .*operator does not do what its schema"),
    ],
)
def test_a_faulty_torch_layer_is_named(make, name, says):
    found = result(make, "torch", name)
    assert found.status == "failed", found
    assert re.search(says, found.message, re.DOTALL), found.message
    others = [each for each in EVERY["torch"] if each not in (name, "vmap", "opcheck")]
    assert result(make, "torch", *others).status == "passed"


# Of JAX.


def with_a_gradient_of_its_own(*, dim, alpha, seed):
    import jax  # noqa: PLC0415

    from embnoise_jax import add_noise  # noqa: PLC0415

    @jax.custom_vjp
    def noisy(x, noise):
        return x + noise

    # Right once: the second derivative gets no term from what is stopped.
    noisy.defvjp(
        lambda x, noise: (x + noise, None),
        lambda _, gradient: (jax.lax.stop_gradient(gradient), None),
    )

    def layer(x, *, training, step, mask=None):
        if not training:
            return x
        noise = add_noise(0 * x, neftune(alpha, seed=seed), step=step, mask=mask)
        return noisy(x, jax.lax.stop_gradient(noise))

    return layer


@needs("jax")
def test_a_jax_layer_without_a_second_gradient_is_named():
    found = result(with_a_gradient_of_its_own, "jax", "grad_of_grad")
    assert found.status == "failed", found
    assert "a gradient of its own" in found.message
    assert result(with_a_gradient_of_its_own, "jax", "vmap", "remat").status == "passed"


# What can be claimed.


def numpy_layer(*, dim, alpha, seed):
    from embnoise import add_noise  # noqa: PLC0415

    return lambda x, *, training, step, mask=None: add_noise(
        x, neftune(alpha, seed=seed), training=training, step=step, mask=mask
    )


def test_nothing_is_claimed_by_default():
    found = result(numpy_layer, "numpy")
    assert (found.status, found.message) == ("not_claimed", "transformations=()")


def test_a_driver_without_transformations_tests_none():
    found = result(numpy_layer, "numpy", "vmap")
    assert (found.status, found.message) == (
        "not_claimed", "the driver 'numpy' has no transformations",
    )  # fmt: skip


@needs("torch")
def test_an_unknown_transformation_is_an_error():
    found = result(next(torch_layers()), "torch", "sharded")
    assert found.status == "error"
    assert "has no transformation 'sharded'; it has vmap, grad_of_grad, remat, opcheck" in (
        found.message
    )


@pytest.mark.parametrize("wrong", ["vmap", (1,)])
def test_transformations_are_names(wrong):
    with pytest.raises(TypeError, match="transformations must be a tuple of names"):
        Claims(transformations=wrong)
