"""What a layer holds on to, to see whether it grows from call to call."""

from __future__ import annotations

from collections import deque
from collections.abc import Iterable
from types import BuiltinFunctionType, FunctionType, MethodType
from typing import Any

__all__ = ["held"]

_CONTAINERS = (list, tuple, set, frozenset, deque)
_NO_LAYERS = (type, FunctionType, BuiltinFunctionType, MethodType)


def held(layer: object) -> int:
    """How many objects a layer and the layers in it hold, in attributes and in containers there."""
    seen: dict[int, object] = {}
    left = [layer]
    while left:
        each = left.pop()
        if id(each) not in seen:
            seen[id(each)] = each
            left += _parts(each)
    return len(seen)


def _parts(each: Any) -> Iterable[object]:
    if isinstance(each, dict):
        return each.values()
    if isinstance(each, _CONTAINERS):
        return each
    if callable(each) and not isinstance(each, _NO_LAYERS):
        return getattr(each, "__dict__", {}).values()
    return ()
