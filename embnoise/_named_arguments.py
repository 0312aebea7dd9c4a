"""Arguments by name: of a call, and those that a user's function is to be called with."""

from __future__ import annotations

import inspect
from collections.abc import Callable, Mapping
from typing import Any, TypeAlias

__all__ = ["CallByName", "bind_by_name", "call_with_named", "naming"]

CallByName: TypeAlias = Callable[[Mapping[str, Any]], Any]


def bind_by_name(role: str, function: Callable[..., Any]) -> CallByName:
    """Wrap a user's function so that it takes a mapping of all arguments that are available.

    Its signature is read once, here.

    Args:
        role: The argument that the function was passed as, for errors.
        function: It may name any of the available arguments.

    Returns:
        A function of the available arguments by name, which passes on those that are named. It
        raises a ValueError if a required one is not available.

    Raises:
        TypeError: ``function`` is not callable, or has parameters without a name.

    Example:
        >>> chosen = bind_by_name("where", lambda labels: [label != -100 for label in labels])
        >>> chosen({"ids": [1, 0], "labels": [3, -100]})
        [True, False]
    """
    if not callable(function):
        raise TypeError(f"{role} must be a callable, got {function!r}")
    try:
        parameters = inspect.signature(function).parameters.values()
    except ValueError as error:  # some builtins have no signature
        raise TypeError(f"{role} must have a readable signature, got {function!r}") from error
    if any(each.kind in (each.POSITIONAL_ONLY, each.VAR_POSITIONAL) for each in parameters):
        raise TypeError(f"{role} must name its parameters, got {inspect.signature(function)}")
    takes_all = any(each.kind is each.VAR_KEYWORD for each in parameters)
    names = [each.name for each in parameters if each.kind is not each.VAR_KEYWORD]
    required = [
        each.name for each in parameters if each.name in names and each.default is each.empty
    ]

    def call(available: Mapping[str, Any]) -> Any:
        for name in required:
            if name not in available:
                raise ValueError(
                    f"{role} must name its parameters among {sorted(available)}, got {name!r}; "
                    "give it a default if some calls leave it out"
                )
        if takes_all:
            return function(**available)
        return function(**{name: available[name] for name in names if name in available})

    return call


def call_with_named(role: str, function: Callable[..., Any], available: Mapping[str, Any]) -> Any:
    """Call a user's function with those of the available arguments that it names.

    The arguments and errors are those of ``bind_by_name``.
    """
    return bind_by_name(role, function)(available)


def naming(function: Callable[..., Any]) -> Callable[..., dict[str, Any]]:
    """What names the arguments of a call of ``function``.

    Its signature is read once, here.

    Args:
        function: It has a readable signature.

    Returns:
        A function of the same arguments that returns them by name. Those that ``*inputs`` takes are
        a tuple, "inputs"; those that ``**others`` takes have their own names.

    Example:
        >>> named = naming(lambda *inputs, training=None, **others: None)
        >>> named(1, 2, mask=3)
        {'inputs': (1, 2), 'mask': 3}
    """
    signature = inspect.signature(function)
    parameters = signature.parameters.values()
    rest = {each.name for each in parameters if each.kind is each.VAR_KEYWORD}

    def named(*args: Any, **kwargs: Any) -> dict[str, Any]:
        found = signature.bind_partial(*args, **kwargs).arguments
        for name in rest & found.keys():
            found.update(found.pop(name))
        return found

    return named
