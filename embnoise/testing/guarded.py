"""``guarded``: a driver whose errors name the method that raised them."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager
from typing import Any

from embnoise.testing.drivers import DriverBase
from embnoise.testing.failures import (
    ERRORS,
    ClaimViolatedError,
    NotClaimedError,
    UntestableError,
    raised_by_layer,
)

__all__ = ["guarded"]

_METHODS = ("to_numpy", "from_numpy", "gradient", "seed", "switch", "random_state", "state",
            "compile", "transform")  # fmt: skip
"""``make`` and ``call`` run the user's code, and are told apart where they are called."""
_CONTEXTS = ("kept_state", "without_gradients", "rank")


def guarded(driver: DriverBase) -> DriverBase:
    """The driver, whose methods raise ``UntestableError`` with their name for any other error."""
    if getattr(driver, "guarded", False):
        return driver
    namespace = {
        "guarded": True,
        **{name: _method(name) for name in _METHODS},
        **{name: _context(name) for name in _CONTEXTS},
        "overrides": lambda self, method: driver.overrides(method),
    }
    kind = type(type(driver).__name__, (type(driver),), namespace)
    kind.__module__ = type(driver).__module__
    made: DriverBase = object.__new__(kind)
    made.__dict__ = driver.__dict__  # one state, whichever of the two sets it
    return made


@contextmanager
def _naming(driver: DriverBase, method: str) -> Iterator[None]:
    try:
        yield
    except (ClaimViolatedError, NotClaimedError, UntestableError):
        raise
    except ERRORS as error:
        raise raised_by_layer(f"{method} of the driver {driver.name!r}", error) from None


def _method(name: str) -> Callable[..., Any]:
    def method(self: DriverBase, *arguments: Any, **keywords: Any) -> Any:
        with _naming(self, name):
            return getattr(super(type(self), self), name)(*arguments, **keywords)

    method.__name__ = name
    return method


def _context(name: str) -> Callable[..., AbstractContextManager[None]]:
    @contextmanager
    def method(self: DriverBase, *arguments: Any) -> Iterator[None]:
        with _naming(self, name):
            context = getattr(super(type(self), self), name)(*arguments)
            context.__enter__()
        try:
            yield
        finally:
            with _naming(self, name):
                context.__exit__(None, None, None)

    method.__name__ = name
    return method
