"""The running calls of NNX models, whose arguments describe the tokens of the layers inside."""

from __future__ import annotations

import threading
import weakref
from collections.abc import Callable, Hashable, Mapping
from functools import cache, wraps
from typing import Any

from embnoise.backend import TokenArrays, TokenFunctions, naming
from embnoise_jax._compat import change_class, staging_level
from embnoise_jax._nnx_modules import extended

__all__ = ["described", "record_calls"]


class _Running(threading.local):
    def __init__(self) -> None:
        self.calls: tuple[tuple[object, Mapping[str, Any]], ...] = ()
        """Each with the compilation that it is in."""


_RUNNING = _Running()
_USERS: dict[int, int] = {}
"""How many handles need the calls of a model whose class is a recording one, by its id."""


def described(functions: TokenFunctions, known: Mapping[str, Any]) -> TokenArrays:
    """What functions say of the tokens, given the arguments of the running calls.

    The innermost call counts where names are the same. Only calls in the same compilation do: a
    function that is compiled by itself would keep the arguments of its first call.

    Args:
        functions: The user's functions.
        known: More arguments.
    """
    level, calls = staging_level(), _RUNNING.calls
    merged: dict[str, Any] = {}
    for own, arguments in calls:
        merged |= arguments if own is level else {}
    try:
        return functions({**merged, **known})
    except ValueError as error:
        if not calls:
            raise ValueError(
                f"{error}. Only the arguments of calls of the model itself are known, not those of "
                "its other methods"
            ) from error
        if all(own is level for own, _ in calls):
            raise
        raise ValueError(
            f"{error}. A part of the model that is compiled or recomputed by itself (nnx.jit, "
            "nnx.remat) does not know the arguments of the calls around it: derive what it needs "
            "from ids"
        ) from error


def record_calls(model: Any) -> Callable[[], None]:
    """Let ``described`` know the arguments of a model's calls; returns a function that ends it.

    A handle may be dropped while its noise stays, so this is no context manager.
    """
    kind: Any = type(model)
    number = id(model)
    recording = kind if number in _USERS else _recording_class(kind)
    if number not in _USERS:
        change_class(model, recording)
        weakref.finalize(model, _USERS.pop, number, None)
    _USERS[number] = _USERS.get(number, 0) + 1

    def end() -> None:
        _USERS[number] -= 1
        # Noise that is attached to the model itself since then keeps the class that it found.
        if _USERS[number] == 0 and type(model) is recording:
            del _USERS[number]
            change_class(model, recording.__mro__[1])

    return end


@cache
def _recording_class(kind: Hashable) -> Any:
    """The class of a model of class ``kind`` whose calls are recorded."""
    base: Any = kind
    named = naming(base.__call__)

    @wraps(base.__call__)
    def __call__(self: Any, *args: Any, **kwargs: Any) -> Any:  # noqa: N807
        _, *arguments = named(self, *args, **kwargs).items()  # not the model
        before = _RUNNING.calls
        _RUNNING.calls = (*before, (staging_level(), dict(arguments)))
        try:
            return base.__call__(self, *args, **kwargs)
        finally:
            _RUNNING.calls = before

    return extended(base, "Recording", {"__call__": __call__})
