"""On GPUs and TPUs, the random words of a block are computed once for all of its channels."""

import re
from functools import partial
from unittest import mock

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.sharding import PartitionSpec as P

from embnoise import Noise, neftune, symnoise
from embnoise.backend import GAUSSIAN, RADEMACHER, UNIFORM
from embnoise.testing import Claims, case, check_layer
from embnoise_jax import add_noise
from embnoise_jax._devices import shares_blocks
from tests.frameworks import hasty_jax
from tests.jax.accelerators import as_on
from tests.jax.models import same
from tests.strategies import embeddings
from tests.testing.jax_layers import function

PARTS = {"cuda": 4, "rocm": 4, "tpu": 8}
"""Into how many parts the channels are divided."""


def noisy(x, step, noise):
    return add_noise(x, noise, step=step)


@pytest.mark.parametrize("platform", [*PARTS, "cpu"])
def test_what_is_compiled_for_a_platform(platform):
    with mock.patch("jax.default_backend", return_value="gpu"):
        traced = jax.jit(partial(noisy, noise=neftune())).trace(jnp.ones((2, 3, 16)), 0)
    text = traced.lower(lowering_platforms=(platform,)).as_text()
    parts = [line.count("%") - 1 for line in text.splitlines() if "stablehlo.concatenate" in line]
    assert parts == ([PARTS[platform]] if platform in PARTS else [])


@pytest.mark.parametrize("platform", PARTS)
@pytest.mark.parametrize("noise", [neftune(), symnoise(), neftune(scale="relative")], ids=repr)
def test_the_bits_are_those_of_the_cpu(platform, noise):
    for shape, dtype in (((3, 5, 8), "float32"), ((4, 4, 40), "bfloat16"), ((4, 16), "float16")):
        x = jnp.asarray(embeddings(shape, dtype))
        about = {"mask": jnp.broadcast_to(jnp.arange(shape[-2]) < 3, shape[:-1])}
        expected = add_noise(x, noise, step=7, **about)
        with as_on(platform):
            assert same(add_noise(x, noise, step=7, **about), expected)


@pytest.mark.parametrize("platform", PARTS)
def test_transformations(platform):
    x = jnp.asarray(embeddings((4, 3, 16)))
    rows = jnp.arange(4)

    def of_a_row(row, number):
        return add_noise(row[None], neftune(), step=2, sample_ids=number[None])[0]

    def slope(alpha):
        return (add_noise(x, neftune(alpha), step=2) ** 2).sum()

    def scanned():
        return jax.lax.scan(lambda step, _: (step + 1, noisy(x, step, neftune())), 0, length=3)[1]

    def results():
        yield jax.vmap(of_a_row)(x, rows)
        yield jax.grad(lambda x: (noisy(x, 2, neftune()) ** 2).sum())(x)
        yield jax.grad(slope)(5.0)
        yield jax.jit(scanned)()

    expected = list(results())
    with as_on(platform):
        for seen, wanted in zip(results(), expected, strict=True):
            np.testing.assert_allclose(seen, wanted, rtol=1e-6)


@pytest.mark.sweep  # the bits are compared above
def test_the_kit_finds_no_fault():
    with as_on("cuda"), hasty_jax():
        made = case("cuda", function(), driver="jax", claims=Claims(validates_alpha=True))
        check_layer(made, profile="quick")


def test_where_blocks_are_shared():
    def shared(x=jnp.ones((2, 3, 16)), distribution=UNIFORM, backend="gpu", devices=1):  # noqa: B008
        with (
            mock.patch("jax.default_backend", return_value=backend),
            mock.patch("jax.device_count", return_value=devices),
        ):
            return shares_blocks(x, distribution)

    assert shared()
    assert shared(backend="tpu", distribution=RADEMACHER)
    assert not shared(backend="cpu")
    assert not shared(jnp.ones((2, 3, 12)))
    assert not shared(distribution=GAUSSIAN)
    assert not shared(devices=2)  # which XLA may give half of the channels each


def test_a_mesh_tells_whether_channels_are_sharded():
    x = jnp.ones((2, 3, 16))

    def shared(kind, spec, *, mapped=False):
        seen = []
        mesh = jax.make_mesh((1,), ("data",), axis_types=(kind,))

        def see(x):
            with (
                mock.patch("jax.default_backend", return_value="gpu"),
                mock.patch("jax.device_count", return_value=8),
            ):
                seen.append(shares_blocks(x, UNIFORM))
            return x

        function = jax.shard_map(see, mesh=mesh, in_specs=spec, out_specs=spec) if mapped else see
        with jax.set_mesh(mesh):
            jax.jit(function)(jax.device_put(x, jax.NamedSharding(mesh, spec)))
        return seen == [True]

    kinds = jax.sharding.AxisType
    channels = P(None, None, "data")
    assert shared(kinds.Auto, P("data"))  # a mesh of one device, whatever others there are
    assert shared(kinds.Explicit, P("data"))
    assert not shared(kinds.Explicit, channels)
    assert shared(kinds.Auto, P("data"), mapped=True)


def test_other_noise_is_computed_by_element():
    x = jnp.asarray(embeddings((2, 3, 12)))
    for noise, d in ((neftune(), 12), (Noise(5.0, distribution="gaussian"), 8)):
        expected = add_noise(x[..., :d], noise, step=1)
        with as_on("cuda"):
            program = jax.make_jaxpr(partial(noisy, noise=noise))(x[..., :d], 1)
            assert same(add_noise(x[..., :d], noise, step=1), expected)
        assert not re.search(r"concatenate\[", str(program))
