"""Every way in which Keras runs a layer, wrapped: ``call`` is one of several."""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from functools import wraps
from typing import Any

__all__ = ["around_calls", "is_wrapped"]

# A layer with a quantized dtype policy runs `quantized_call` in place of `call`.
_ENTRIES = ("call", "quantized_call")


def is_wrapped(layer: Any) -> bool:
    """Whether a layer runs something else than its class says."""
    return any(name in vars(layer) for name in _ENTRIES)


def _restore(layer: Any, name: str, own: Any) -> None:
    """Give a layer the method back that it had of its own, or that of its class."""
    if own is None:
        delattr(layer, name)
    else:
        setattr(layer, name, own)


@contextmanager
def around_calls(layer: Any, wrap: Callable[[Any], Any]) -> Iterator[None]:
    """Have ``wrap`` around each of the methods that run a layer; the outermost alone counts."""
    running = threading.local()

    def outermost(method: Any) -> Any:
        wrapped = wrap(method)

        @wraps(method)
        def entered(*args: Any, **kwargs: Any) -> Any:
            if getattr(running, "inside", False):
                return method(*args, **kwargs)
            running.inside = True
            try:
                return wrapped(*args, **kwargs)
            finally:
                running.inside = False

        return entered

    with ExitStack() as undo:
        for name in _ENTRIES:
            own = vars(layer).get(name)
            setattr(layer, name, outermost(getattr(layer, name)))
            undo.callback(_restore, layer, name, own)
        yield
