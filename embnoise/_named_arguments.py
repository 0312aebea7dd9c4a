"""Calling a function with those of some arguments that its signature names."""

from __future__ import annotations

import inspect
from collections.abc import Callable, Mapping
from typing import Any

__all__ = ["call_with_named", "parameter_names"]


def parameter_names(function: Callable[..., Any]) -> list[str] | None:
    """The names of a function's parameters; ``None`` if it has no readable signature."""
    try:
        return list(inspect.signature(function).parameters)
    except (TypeError, ValueError):
        return None


def call_with_named(role: str, function: Callable[..., Any], available: Mapping[str, Any]) -> Any:
    """Call a user's function with those of the available arguments that it names.

    Args:
        role: The argument that the function was passed as, for errors.
        function: It may name any of the available arguments, by keyword or ``**kwargs``.
        available: The arguments by name.

    Raises:
        ValueError: The function has a required parameter that is not available.

    Example:
        >>> available = {"ids": [1, 0], "labels": [3, -100]}
        >>> call_with_named("where", lambda labels: [label != -100 for label in labels], available)
        [True, False]
    """
    parameters = inspect.signature(function).parameters
    if any(each.kind is each.VAR_KEYWORD for each in parameters.values()):
        return function(**available)
    missing = [
        name
        for name, each in parameters.items()
        if name not in available
        and each.default is each.empty
        and each.kind is not each.VAR_POSITIONAL
    ]
    if missing:
        raise ValueError(
            f"{role} must name its parameters among {sorted(available)}, got {missing[0]!r}"
        )
    return function(**{name: available[name] for name in parameters if name in available})
