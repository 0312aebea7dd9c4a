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
            setattr(layer, name, outermost(getattr(layer, name)))
            undo.callback(delattr, layer, name)
        yield
