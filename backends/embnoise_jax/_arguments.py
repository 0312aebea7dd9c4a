"""The first argument of a layer's call, and the first result: token ids, or hidden states."""

from __future__ import annotations

import inspect
from collections.abc import Callable, Iterable, Mapping
from typing import Any, cast

import jax
import jax.numpy as jnp
import numpy as np

from embnoise.backend import TokenArrays, no_hidden_states
from embnoise_jax._compat import is_mapped, trace_of
from embnoise_jax._tracing import is_traced

__all__ = [
    "are_other_ids",
    "checked_hidden",
    "first_argument",
    "is_hidden",
    "refuse_untold_rows",
    "with_first_argument",
    "with_output",
]


def is_hidden(argument: Any) -> bool:
    """Whether an argument is hidden states, and not ids that an embedding looks up."""
    return isinstance(argument, jax.Array) and jnp.issubdtype(argument.dtype, jnp.inexact)


def are_other_ids(ids: Any, first: Any) -> bool:
    """Whether ids are known to differ from those of the first lookup.

    In one trace, another tracer is taken for other ids. In two traces, as where a lookup is
    recomputed, different tracers may stand for the same ids.
    """
    if ids is first:
        return False
    if jnp.shape(ids) != jnp.shape(first):
        return True
    if is_traced(ids) or is_traced(first):
        return trace_of(ids) is trace_of(first)
    # No process can read all of an array that several hold.
    known = all(getattr(each, "is_fully_addressable", True) for each in (ids, first))
    return known and not np.array_equal(ids, first)


def refuse_untold_rows(
    argument: Any, tokens: TokenArrays, own: Callable[[], Iterable[object]], remedy: str
) -> None:
    """Raise if ``vmap`` maps over rows, and nothing tells their samples apart.

    Args:
        argument: What an embedding looks up, or hidden states.
        tokens: What is said of the tokens. Sample ids that the rows share are meant to be shared.
        own: What else tells noise apart, and the parameters: the members of an ensemble have
            parameters of their own, and may share noise.
        remedy: What to do, for the error.

    Raises:
        ValueError: The rows would all have the same noise.
    """
    if tokens.sample_ids is not None or not is_mapped(argument):
        return
    if not any(map(is_mapped, (tokens.positions, *own()))):
        raise ValueError(
            f"the rows that vmap maps over would all have the noise of sample 0: {remedy}"
        )


def checked_hidden(argument: Any) -> jax.Array:
    """An argument that is hidden states.

    Raises:
        TypeError: It is something else.
    """
    if not is_hidden(argument):
        raise no_hidden_states(argument)
    return cast("jax.Array", argument)


def first_argument(
    call: Callable[..., Any], args: tuple[Any, ...], kwargs: Mapping[str, Any]
) -> Any:
    """The first argument of a call.

    Args:
        call: The method of the layer, whose first parameter is ``self``.
        args: The positional arguments without the layer.
        kwargs: The arguments by name.
    """
    return args[0] if args else kwargs.get(_first_name(call))


def with_first_argument(
    call: Callable[..., Any], value: Any, args: tuple[Any, ...], kwargs: Mapping[str, Any]
) -> tuple[tuple[Any, ...], dict[str, Any]]:
    """The arguments of a call with another value for the first one."""
    if args:
        return (value, *args[1:]), dict(kwargs)
    return args, {**kwargs, _first_name(call): value}


def with_output(result: Any, change: Callable[[jax.Array], Any]) -> Any:
    """A layer's result with its hidden states changed; in a tuple they are the first entry."""
    if isinstance(result, tuple) and type(result) is tuple:
        return (change(checked_hidden(result[0])), *result[1:])
    return change(checked_hidden(result))


def _first_name(call: Callable[..., Any]) -> str:
    _, *names = inspect.signature(call).parameters
    return names[0] if names else ""
