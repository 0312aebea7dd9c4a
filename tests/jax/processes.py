"""Two processes with ``jax.distributed``; run by ``test_sharding``, which starts them.

Each has two devices, and holds its part of one global array.
"""

import sys
from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
from jax.sharding import NamedSharding
from jax.sharding import PartitionSpec as P

from embnoise import neftune
from embnoise_jax import add_noise

SHAPE = BATCH, LENGTH, DIM = 8, 16, 24
X = np.random.default_rng(0).standard_normal(SHAPE).astype(np.float32)
MASK = np.arange(LENGTH) < 3 + np.arange(BATCH)[:, None]
PARTS = [
    P("data"),
    P(None, "data"),
    P(None, None, "data"),
    P("data", "model"),
    P("model", None, "data"),
]


def spread(mesh, array, part):
    """A global array of which each process makes the parts of its devices."""
    sharding = NamedSharding(mesh, part)
    return jax.make_array_from_callback(array.shape, sharding, lambda index: array[index])


def check(noisy, expected, part):
    """Every part that this process holds has the bits of one process."""
    assert not noisy.is_fully_addressable
    for shard in noisy.addressable_shards:
        assert np.asarray(shard.data).tobytes() == expected[shard.index].tobytes(), part


def automatic(mesh, expected):
    noise = jax.jit(lambda x, mask: add_noise(x, neftune(), step=5, mask=mask))
    for part in PARTS:
        noisy = noise(spread(mesh, X, part), spread(mesh, MASK, P(*part[:1])))
        assert noisy.sharding.is_equivalent_to(NamedSharding(mesh, part), 3)
        check(noisy, expected, part)


def over_rows(x, mask):
    rows = x.shape[0] * jax.lax.axis_index("data") + jnp.arange(x.shape[0])
    return add_noise(x, neftune(), step=5, mask=mask, sample_ids=rows)


def over_channels(x, mask):
    first = x.shape[-1] * jax.lax.axis_index("data")
    return add_noise(x, neftune(), step=5, mask=mask, channels=(first, DIM))


def in_shard_map(mesh, expected):
    for local, part in ((over_rows, P("data")), (over_channels, P(None, None, "data"))):
        rows = P(*part[:1])
        mapped = jax.shard_map(local, mesh=mesh, in_specs=(part, rows), out_specs=part)
        noisy = jax.jit(mapped)(spread(mesh, X, part), spread(mesh, MASK, rows))
        check(noisy, expected, part)


def main(address, index):
    jax.config.update("jax_cpu_collectives_implementation", "gloo")
    jax.distributed.initialize(address, num_processes=2, process_id=index)
    assert (len(jax.devices()), len(jax.local_devices())) == (4, 2)
    whole = jax.jit(partial(add_noise, noise=neftune(), step=5, mask=MASK))
    expected = np.asarray(whole(jnp.asarray(X)))
    # The first dimension is that of the processes.
    axes = (jax.sharding.AxisType.Auto,) * 2
    mesh = jax.make_mesh((2, 2), ("data", "model"), axis_types=axes)
    assert [each.process_index for each in mesh.devices[:, 0]] == [0, 1]
    automatic(mesh, expected)
    in_shard_map(mesh, expected)
    jax.distributed.shutdown()
    print("processes")


if __name__ == "__main__":
    main(sys.argv[1], int(sys.argv[2]))
