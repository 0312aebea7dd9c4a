"""The running calls of NNX models, whose arguments describe the tokens of the layers inside."""

from __future__ import annotations

import inspect
import threading
from collections.abc import Callable, Hashable, Mapping
from functools import cache, wraps
from typing import Any
from weakref import WeakKeyDictionary

from embnoise_jax._compat import change_class

__all__ = ["record_calls", "running_arguments"]


class _Running(threading.local):
    def __init__(self) -> None:
        self.arguments: tuple[Mapping[str, Any], ...] = ()


_RUNNING = _Running()
_USERS: WeakKeyDictionary[Any, int] = WeakKeyDictionary()
"""How many handles need the calls of a model whose class is a recording one."""


def running_arguments() -> dict[str, Any]:
    """The arguments of the running calls by name; of the innermost, where names are the same."""
    merged: dict[str, Any] = {}
    for arguments in _RUNNING.arguments:
        merged |= arguments
    return merged


def record_calls(model: Any) -> Callable[[], None]:
    """Let ``running_arguments`` have those of a model; returns a function that ends it.

    A handle may be dropped while its noise stays, so this is no context manager.
    """
    kind: Any = type(model)
    recording = kind if model in _USERS else _recording_class(kind)
    if model not in _USERS:
        change_class(model, recording)
    _USERS[model] = _USERS.get(model, 0) + 1

    def end() -> None:
        _USERS[model] -= 1
        # Noise that is attached to the model itself since then keeps the class that it found.
        if _USERS[model] == 0 and type(model) is recording:
            del _USERS[model]
            change_class(model, recording.__mro__[1])

    return end


@cache
def _recording_class(kind: Hashable) -> Any:
    """The class of a model of class ``kind`` whose calls are recorded."""
    base: Any = kind
    signature = inspect.signature(base.__call__)
    _, *names = signature.parameters

    @wraps(base.__call__)
    def __call__(self: Any, *args: Any, **kwargs: Any) -> Any:  # noqa: N807
        bound = signature.bind(self, *args, **kwargs)
        arguments = dict(zip(names, bound.args[1:], strict=False)) | bound.kwargs
        before = _RUNNING.arguments
        _RUNNING.arguments = (*before, arguments)
        try:
            return base.__call__(self, *args, **kwargs)
        finally:
            _RUNNING.arguments = before

    return type(base)(f"Recording{base.__name__}", (base,), {"__call__": __call__})
