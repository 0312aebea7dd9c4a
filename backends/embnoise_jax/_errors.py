"""An error that is raised only where a transformation of JAX does not replace the operation."""

from __future__ import annotations

from typing import Any, NoReturn, cast

from jax import Array
from jax.extend.core import Primitive
from jax.interpreters import mlir

__all__ = ["raise_unless_replaced"]

_unless_replaced: Any = Primitive("embnoise_error")


def raise_unless_replaced(x: Array, message: str) -> Array:
    """Stand for an array of x's shape; raise when the program is compiled or run with it.

    In a function of ``jax.custom_batching.custom_vmap``, ``jax.vmap`` takes the function's rule in
    its place.
    """
    return cast("Array", _unless_replaced.bind(x, message=message))


def _raise(*args: Any, message: str, **_: Any) -> NoReturn:
    raise ValueError(message)


_unless_replaced.def_impl(_raise)
_unless_replaced.def_abstract_eval(lambda x, *, message: x)
mlir.register_lowering(_unless_replaced, _raise)
