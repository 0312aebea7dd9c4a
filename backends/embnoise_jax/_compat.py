"""The undocumented parts of JAX and Flax that the adapter relies on, each with its reason.

``tests/jax/test_compat.py`` fails with a clear message when one of them changes.
"""

from __future__ import annotations

from typing import Any

import jax
import jax.numpy as jnp
from jax import Array

from embnoise_jax._tracing import is_traced

__all__ = [
    "change_class",
    "is_mapped",
    "optimization_barrier",
    "seed_words",
    "set_property",
    "staging_level",
    "trace_of",
    "varying_axes",
]


def seed_words(key: Array) -> tuple[Array, Array]:
    """The low and high 32 bits of the seed that a ``jax.random.key`` was made from.

    They are the first two words of a key's data, in reverse order. JAX does not document that
    layout, but nothing else makes ``jax.random.key(n)`` the same seed as ``n``.
    """
    high, low, *_ = jax.random.key_data(key)
    return low, high


def optimization_barrier(array: Array) -> Array:
    """The same array, through which XLA does not optimize. JAX's function has no types."""
    hidden: Array = jax.lax.optimization_barrier(array)  # type: ignore[no-untyped-call]
    return hidden


def change_class(module: Any, kind: type) -> None:
    """Make an NNX module an instance of another class, with the same identity and attributes.

    Other modules and optimizers may hold the module, so a new object cannot take its place.
    ``__setattr__`` of NNX would record ``__class__`` as an attribute in the graph definition.
    """
    object.__setattr__(module, "__class__", kind)


def set_property(module: Any, name: str, value: Any) -> None:
    """Set a property of an NNX module.

    ``__setattr__`` of NNX would record it as an attribute in the graph definition, for which
    ``nnx.jit`` compiles anew.
    """
    object.__setattr__(module, name, value)


def trace_of(value: object) -> object:
    """What stands for the transformation that traces a value, or None.

    JAX does not document where a traced array keeps it.
    """
    return getattr(value, "_trace", None)


def staging_level() -> object:
    """What stands for the innermost compilation that records the running operations, or None."""
    return trace_of(jnp.zeros(()))


def is_mapped(value: object) -> bool:
    """Whether a value is one of several that ``vmap`` maps over, perhaps in a gradient.

    JAX documents neither the class of such a value, nor its array and which axis of it is mapped,
    nor where a gradient's value keeps what it is made of.
    """
    while True:
        if hasattr(value, "primal"):
            value = value.primal
        elif type(value).__name__ != "BatchTracer":
            return False
        else:
            array, axis = value.val, value.batch_dim  # type: ignore[attr-defined]
            if isinstance(axis, int) and array.shape[axis] > 1:
                return True
            value = array


def varying_axes(value: object) -> frozenset[Any]:
    """The axes of the mesh over which a value varies inside ``shard_map``.

    JAX documents ``jax.typeof(x).vma``, and from version 0.10 on has it under another name. None
    are known in a ``shard_map`` without ``check_vma``.
    """
    if not is_traced(value):
        return frozenset()
    kind = jax.typeof(value)
    if hasattr(kind, "vma"):
        return frozenset(kind.vma)
    return frozenset(getattr(getattr(kind, "manual_axis_type", None), "varying", ()))
