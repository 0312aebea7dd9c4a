"""A function under each of JAX's transformations that keep its values, in the manner of Chex."""

import jax
import jax.numpy as jnp
from jax import export
from jax.sharding import PartitionSpec as P


def eager(function, *arguments):
    return function(*arguments)


def compiled(function, *arguments):
    return jax.jit(function)(*arguments)


def on_a_device(function, *arguments):
    return jax.jit(function)(*jax.device_put(arguments, jax.devices()[-1]))


def over_rows(function, table, ids, step, sample_ids):
    def row(ids, sample):
        return function(table, ids[None], step, sample[None])[0]

    return jax.vmap(row)(ids, sample_ids)


def row_by_row(function, table, ids, step, sample_ids):
    def body(carry, row):
        ids, sample = row
        return carry, function(table, ids[None], step, sample[None])[0]

    return jax.lax.scan(body, 0, (ids, sample_ids))[1]


def on_a_mesh(function, table, ids, step, sample_ids):
    mesh = jax.make_mesh((1,), ("data",), axis_types=(jax.sharding.AxisType.Auto,))
    specs = (P(), P("data"), P(), P("data"))
    mapped = jax.shard_map(function, mesh=mesh, in_specs=specs, out_specs=P("data"))
    return jax.jit(mapped)(table, ids, jnp.int32(step), sample_ids)


def recomputed(function, *arguments):
    return jax.jit(jax.checkpoint(function))(*arguments)


def exported(function, *arguments):
    arguments = tuple(map(jnp.asarray, arguments))
    saved = export.export(jax.jit(function))(*arguments).serialize()
    return export.deserialize(saved).call(*arguments)


def without_promotion(function, *arguments):
    with jax.numpy_dtype_promotion("strict"), jax.numpy_rank_promotion("raise"):
        return jax.vjp(jax.jit(function), *map(jnp.asarray, arguments))[0]


def by_its_shape(function, *arguments):
    """Without a value of its own: the shape is checked, and the value is the eager one."""
    made = function(*arguments)
    shape = jax.eval_shape(function, *arguments)
    assert (shape.shape, shape.dtype) == (made.shape, made.dtype)
    return made


VARIANTS = [
    eager,
    compiled,
    on_a_device,
    over_rows,
    row_by_row,
    on_a_mesh,
    recomputed,
    exported,
    without_promotion,
    by_its_shape,
]
