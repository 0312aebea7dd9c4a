"""The noise on a mesh of 8 host devices; run by ``test_sharding``, which sets the devices up.

With the argument ``sampled``, every part and every batch, but half of their combinations.
"""

import itertools
import re
import sys
from contextlib import nullcontext
from functools import cache, partial
from unittest import mock

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.sharding import NamedSharding
from jax.sharding import PartitionSpec as P

from embnoise import Noise, neftune
from embnoise_jax import add_noise
from tests.jax.accelerators import as_on

COLLECTIVES = r"all-gather|all-reduce|all-to-all|collective-permute|reduce-scatter"
SHAPE = BATCH, LENGTH, DIM = 8, 16, 24
X = jnp.asarray(np.random.default_rng(0).standard_normal(SHAPE).astype(np.float32))
LENGTHS = 3 + jnp.arange(BATCH)[:, None]
MASK = jnp.arange(LENGTH) < LENGTHS
SEGMENTS = jnp.where(MASK, 1 + jnp.arange(LENGTH) // 4, 0)
PARTS = [P("data"), P(None, "sequence"), P("data", "sequence"), P(None, None, "data")]
BATCHES = [
    (neftune(), {}),
    (neftune(), {"mask": MASK}),
    (neftune(), {"segment_ids": SEGMENTS}),
    (Noise(5.0, distribution="gaussian", antithetic=True), {"mask": MASK, "where": SEGMENTS == 1}),
]


def is_tested(number, part):
    return "sampled" not in sys.argv or (number + PARTS.index(part)) % 2 == 0


@cache
def mesh():
    auto = (jax.sharding.AxisType.Auto,) * 2
    return jax.make_mesh((4, 2), ("data", "sequence"), axis_types=auto)


def compiled(function, *arguments):
    program = jax.jit(function).lower(*arguments).compile()
    found = re.findall(COLLECTIVES, program.as_text())
    assert not found, found
    return program(*arguments)


def same(left, right):
    return np.asarray(left).tobytes() == np.asarray(right).tobytes()


def test_automatic():
    for part, (number, (noise, about)) in itertools.product(PARTS, enumerate(BATCHES)):
        if not is_tested(number, part):
            continue
        plain = jax.jit(
            lambda x, step, noise=noise, about=about: add_noise(x, noise, step=step, **about)
        )
        x = jax.device_put(X, NamedSharding(mesh(), part))
        # What is said of the tokens is small, and lies on every device along the sequence.
        rows = P(*part[:1])
        tokens = {
            name: jax.device_put(array, NamedSharding(mesh(), rows))
            for name, array in about.items()
        }
        noisy = compiled(
            lambda x, step, tokens, noise=noise: add_noise(x, noise, step=step, **tokens),
            x,
            jnp.int32(5),
            tokens,
        )
        assert noisy.sharding.is_equivalent_to(x.sharding, 3), part
        assert same(noisy, plain(X, 5)), (part, about.keys())


def test_channels_that_xla_may_shard():
    """A GPU computes the words of a block once, but not of embeddings on a mesh of several."""
    x = jax.ShapeDtypeStruct(
        (BATCH, LENGTH, 64), jnp.float32, sharding=NamedSharding(mesh(), PARTS[-1])
    )
    with (
        as_on("cuda"),
        mock.patch("jax.device_count", return_value=1),
        jax.sharding.use_abstract_mesh(mesh().abstract_mesh),
    ):
        program = jax.jit(partial(add_noise, noise=neftune(), step=5)).lower(x).compile()
    assert not re.findall(COLLECTIVES, program.as_text())


def test_the_rms_of_whole_sequences():
    noise = neftune(scale="relative")
    for dtype in (jnp.float32, jnp.bfloat16):
        x = jax.device_put(X.astype(dtype), NamedSharding(mesh(), P("data")))
        expected = jax.jit(partial(add_noise, noise=noise, step=5))(X.astype(dtype))
        assert same(compiled(partial(add_noise, noise=noise, step=5), x), expected), dtype


def test_explicit_axes():
    """Sharding is part of a type: what describes the tokens is not sharded along the sequence."""
    explicit = (jax.sharding.AxisType.Explicit,) * 2
    axes = jax.make_mesh((4, 2), ("data", "sequence"), axis_types=explicit)
    relative = [(neftune(scale="relative"), about) for _, about in BATCHES[:3]]
    for number, (noise, about) in enumerate(BATCHES + relative):
        expected = jax.jit(partial(add_noise, noise=noise, step=5))(X, **about)
        uses_rms = noise.scale == "relative"
        # A sum over sharded channels has other roundings.
        for part in filter(partial(is_tested, number), PARTS[: 3 if uses_rms else 4]):
            with jax.set_mesh(axes):
                x = jax.device_put(X, NamedSharding(axes, part))
                tokens = {
                    name: jax.device_put(array, NamedSharding(axes, P(*part[:2])))
                    for name, array in about.items()
                }
                # Each platform is another formulation, and as long to compile: of some of them.
                all_platforms = number % 2 and part != P("data")
                for platform in ("cpu", "cuda", "tpu") if all_platforms else ("cpu",):
                    with as_on(platform) if platform != "cpu" else nullcontext():
                        noisy = jax.jit(
                            lambda x, tokens, noise=noise: add_noise(x, noise, step=5, **tokens)
                        )(x, tokens)
                    assert noisy.sharding.is_equivalent_to(x.sharding, 3), part
                    # A sum over a sharded sequence may be rounded in another order.
                    np.testing.assert_allclose(noisy, expected, rtol=0, atol=2e-6 * uses_rms)
    both = P("data", "sequence")
    x, given = (jax.device_put(each, NamedSharding(axes, both)) for each in (X, MASK))
    expected = add_noise(X, neftune(), step=5, mask=MASK)
    assert same(add_noise(x, neftune(), step=5, mask=given), expected)  # without the mesh around it
    row = jax.device_put(X[0], NamedSharding(axes, P("sequence")))
    mask = jax.device_put(MASK[0], NamedSharding(axes, P("sequence")))
    with jax.set_mesh(axes):
        noisy = add_noise(row, neftune(), step=5, mask=mask)
    assert same(noisy, add_noise(X[0], neftune(), step=5, mask=MASK[0]))


def test_shard_map():
    expected = jax.jit(lambda x: add_noise(x, neftune(), step=5))(X)
    for part in PARTS[:3]:

        def local(x, part=part):
            rows = jnp.arange(x.shape[0])
            columns = jnp.broadcast_to(jnp.arange(x.shape[1]), x.shape[:2])
            if "data" in part:
                rows = rows + x.shape[0] * jax.lax.axis_index("data")
            if "sequence" in part:
                columns = columns + x.shape[1] * jax.lax.axis_index("sequence")
            noise = neftune(length=LENGTH)
            return add_noise(x, noise, step=5, sample_ids=rows, positions=columns)

        def mapped(x, local=local, part=part):
            return jax.shard_map(local, mesh=mesh(), in_specs=part, out_specs=part)(x)

        x = jax.device_put(X, NamedSharding(mesh(), part))
        assert same(compiled(mapped, x), expected), part
        for platform in ("cuda", "tpu"):
            with as_on(platform):
                assert same(compiled(partial(mapped), x), expected), (part, platform)
        with mock.patch("jax.default_backend", return_value="gpu"):
            assert same(compiled(partial(mapped), x), expected), part


def mapped(local, part, **arguments):
    return jax.shard_map(local, mesh=mesh(), in_specs=part, out_specs=part, **arguments)


def test_shard_map_over_channels():
    sequence, channels = LENGTH // 2, DIM // 4

    def local(x):
        first = channels * jax.lax.axis_index("data")
        columns = sequence * jax.lax.axis_index("sequence") + jnp.arange(sequence)
        return add_noise(
            x,
            neftune(length=LENGTH),
            step=5,
            positions=jnp.broadcast_to(columns, x.shape[:2]),
            channels=(first, DIM),
        )

    part = P(None, "sequence", "data")
    x = jax.device_put(X, NamedSharding(mesh(), part))
    assert same(
        compiled(mapped(local, part), x), jax.jit(partial(add_noise, noise=neftune(), step=5))(X)
    )


def refused(local, part, message, x=X):
    with pytest.raises(ValueError, match=message):
        jax.eval_shape(mapped(local, part), x)


def test_parts_that_would_get_the_same_noise_are_refused():
    def columns(x):
        return jnp.broadcast_to(jnp.arange(x.shape[1]), x.shape[:2]) + jax.lax.axis_index(
            "sequence"
        )

    def split(x, **arguments):
        return add_noise(x, neftune(**arguments), step=5, positions=columns(x))

    alike = "x varies over the mesh axis 'data' .* every device would add the same noise"
    for part in (P("data"), P(None, "data"), P(None, None, "data")):
        refused(partial(add_noise, noise=neftune(), step=5), part, alike)
    refused(split, P("data", "sequence"), alike)
    whole = "length must be a number, got '{}': positions vary over the mesh axis 'sequence'"
    for length in ("tokens", "padded"):
        refused(partial(split, length=length), P(None, "sequence"), whole.format(length))
    relative = partial(split, length=LENGTH, scale="relative")
    refused(relative, P(None, "sequence"), "scale='relative' needs whole sequences")
    # Two seeds are two noises, and a scale without lengths needs none.
    for local in (
        lambda x: add_noise(x, Noise(5.0, seed=device_key()), step=0),
        lambda x: add_noise(x, neftune(), step=jax.lax.axis_index("data")),
        lambda x: add_noise(x, neftune(), step=5, training=False),
    ):
        jax.eval_shape(mapped(local, P("data")), X)
    jax.eval_shape(mapped(partial(split, scale="per_token"), P(None, "sequence")), X)


def device_key():
    return jax.random.fold_in(jax.random.key(0), jax.lax.axis_index("data"))


def test_the_libraries_layers():
    import equinox as eqx  # noqa: PLC0415
    import flax.linen as nn  # noqa: PLC0415
    from flax import nnx  # noqa: PLC0415

    import embnoise_jax.equinox  # noqa: PLC0415
    import embnoise_jax.linen  # noqa: PLC0415
    import embnoise_jax.nnx  # noqa: PLC0415

    ids = jnp.arange(BATCH * LENGTH).reshape(BATCH, LENGTH) % 50
    table = eqx.nn.Embedding(50, DIM, key=jax.random.key(0))
    variables = {"params": {"embedding": table.weight}}
    expected = jax.jit(partial(add_noise, noise=neftune(), step=0))(table.weight[ids])

    def rows(ids):
        return {"sample_ids": ids.shape[0] * jax.lax.axis_index("data") + jnp.arange(ids.shape[0])}

    def in_equinox(ids, about):
        noisy = embnoise_jax.equinox.attach(
            table, neftune(), step=0, layer=lambda model: model, **about
        )
        return jax.vmap(jax.vmap(noisy))(ids)

    def in_linen(ids, about):
        model = nn.Embed(50, DIM)
        with embnoise_jax.linen.attach(model, neftune(), step=0, **about):
            return model.apply(variables, ids)

    def in_nnx(ids, about):
        model = nnx.Embed(50, DIM, rngs=nnx.Rngs(0))
        model.embedding[...] = table.weight
        embnoise_jax.nnx.attach(model, neftune(), tokens=lambda: about)
        return model(ids)

    for local in (in_equinox, in_linen, in_nnx):
        whole = jax.jit(mapped(lambda ids, local=local: local(ids, rows(ids)), P("data")))
        assert same(whole(ids), expected), local
        alone = lambda ids, local=local: local(ids, {})  # noqa: E731
        refused(alone, P("data"), "every device would add the same noise", ids)


def test_the_test_would_notice_a_collective():
    x = jax.device_put(X, NamedSharding(mesh(), P("data")))
    try:
        compiled(lambda x: x - x.mean(), x)
    except AssertionError:
        return
    raise AssertionError("a mean over devices takes a collective")


if __name__ == "__main__":
    assert len(jax.devices()) == 8
    for name, test in list(globals().items()):
        if name.startswith("test_"):
            test()
    print("sharded")
