"""The noise on a mesh of 8 host devices; run by ``test_sharding``, which sets the devices up."""

import itertools
import re
from functools import cache

import jax
import jax.numpy as jnp
import numpy as np
from jax.sharding import NamedSharding
from jax.sharding import PartitionSpec as P

from embnoise import Noise, neftune
from embnoise_jax import add_noise

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
    for part, (noise, about) in itertools.product(PARTS, BATCHES):
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

        mapped = jax.shard_map(local, mesh=mesh(), in_specs=part, out_specs=part)
        x = jax.device_put(X, NamedSharding(mesh(), part))
        assert same(compiled(mapped, x), expected), part


def test_the_test_would_notice_a_collective():
    x = jax.device_put(X, NamedSharding(mesh(), P("data")))
    try:
        compiled(lambda x: x - x.mean(), x)
    except AssertionError:
        return
    raise AssertionError("a mean over devices takes a collective")


if __name__ == "__main__":
    assert len(jax.devices()) == 8
    test_automatic()
    test_shard_map()
    test_the_test_would_notice_a_collective()
    print("sharded")
