"""Claims(transformations=...): what our own layers keep, and what faulty ones do not."""

import os
import subprocess
import sys
from pathlib import Path

import pytest

from embnoise import neftune
from embnoise.testing import Claims, case, iter_checks
from tests.frameworks import needs
from tests.testing.transformation_faults import JAX, TORCH

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


@needs("torch")
@pytest.mark.parametrize("layer", TORCH, ids=lambda layer: layer.name)
def test_a_fault_of_one_transformation_leaves_the_others(layer):
    (broken,) = layer.claims.transformations
    others = [each for each in EVERY["torch"] if each not in (broken, "vmap", "opcheck")]
    assert result(layer.make, "torch", *others).status == "passed"


@needs("jax")
@pytest.mark.parametrize("layer", JAX, ids=lambda layer: layer.name)
def test_a_fault_of_one_transformation_leaves_the_others_in_jax(layer):
    (broken,) = layer.claims.transformations
    others = [each for each in ("vmap", "remat", "grad_of_grad") if each != broken]
    assert result(layer.make, "jax", *others).status == "passed"


@needs("jax")
def test_sharded_over_several_devices():
    """Ours have the noise of a plain call, and each fault is named."""
    ran = subprocess.run(
        [sys.executable, "-W", "error", "-m", "tests.testing.several_devices"],
        env={**os.environ, "XLA_FLAGS": "--xla_force_host_platform_device_count=4"},
        cwd=Path(__file__).parents[2], capture_output=True, text=True, timeout=600, check=False,
    )  # fmt: skip
    assert ran.stdout.strip() == "several devices", ran.stderr


@needs("jax")
def test_on_one_device_nothing_is_sharded():
    found = result(next(jax_layers()), "jax", "sharded")
    assert found.status == "not_claimed"
    assert "none can share a batch of 4" in found.message


# What can be claimed.


def numpy_layer(*, dim, alpha, seed):
    from embnoise import add_noise  # noqa: PLC0415

    return lambda x, *, training, step, mask=None: add_noise(
        x, neftune(alpha, seed=seed), training=training, step=step, mask=mask
    )


def test_nothing_is_claimed_by_default():
    found = result(numpy_layer, "numpy")
    assert (found.status, found.message) == ("not_claimed", "transformations=()")


def test_a_driver_without_transformations_takes_none():
    with pytest.raises(
        ValueError,
        match=r"transformations must be empty for the driver 'numpy', .* got \('vmap',\)",
    ):
        result(numpy_layer, "numpy", "vmap")


@needs("torch")
def test_an_unknown_transformation_is_an_error():
    with pytest.raises(ValueError, match=r"one of \['vmap', .*'opcheck'\], got 'sharded'"):
        result(next(torch_layers()), "torch", "sharded")


@pytest.mark.parametrize("wrong", ["vmap", (1,)])
def test_transformations_are_names(wrong):
    with pytest.raises(TypeError, match="transformations must be a tuple of names"):
        Claims(transformations=wrong)
