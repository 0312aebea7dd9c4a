"""The ``tokens=`` and ``where=`` of an ``attach``: functions that describe what is looked up."""

from __future__ import annotations

import inspect
from collections.abc import Callable, Mapping
from typing import Any

from embnoise._named_arguments import CallByName, bind_by_name
from embnoise._tokens import TokenArrays
from embnoise._validation import check_keys, format_value

__all__ = ["TokenFunctions"]


class TokenFunctions:
    """The functions of a user that describe the tokens of a lookup.

    They take their arguments by name: ``ids``, what is looked up, and whatever else the adapter
    makes available.

    Args:
        tokens: Returns token arguments of ``add_noise`` as a dict, such as
            ``lambda ids: {"mask": ids != 0}``; ``None`` if there is nothing to say.
        where: ``"all"`` real tokens get noise, or a function that returns booleans [B, L].
        choices: What further strings ``where`` may be, each with its function of all available
            arguments.

    Attributes:
        describes: Whether ``tokens`` was given.
        choice: Which of ``choices`` ``where`` is; "" if none.
        where_names: The parameters of ``where``, if it is a function.

    Raises:
        TypeError: An argument of the wrong type, or a function with parameters without a name.
        ValueError: ``where`` is an unknown string.

    Example:
        >>> functions = TokenFunctions(lambda ids: {"mask": ids}, "all")
        >>> functions({"ids": [1, 1, 0]}).mask
        [1, 1, 0]
    """

    def __init__(
        self,
        tokens: Callable[..., Mapping[str, Any]] | None,
        where: str | Callable[..., Any],
        choices: Mapping[str, CallByName] | None = None,
    ) -> None:
        self.describes = tokens is not None
        self.choice = ""
        self.where_names: frozenset[str] = frozenset()
        self._tokens = None if tokens is None else bind_by_name("tokens", tokens)
        self._where: CallByName | None = None
        accepted = {"all": None, **(choices or {})}
        if callable(where):
            self._where = bind_by_name("where", where)
            self.where_names = frozenset(inspect.signature(where).parameters)
        elif isinstance(where, str) and where in accepted:
            self._where = accepted[where]
            self.choice = "" if where == "all" else where
        else:
            error = ValueError if isinstance(where, str) else TypeError
            names = ", ".join(map(repr, accepted))
            raise error(f"where must be {names} or a callable, got {format_value(where)}")

    def __bool__(self) -> bool:
        """Whether there is anything to call."""
        return self._tokens is not None or self._where is not None

    def __call__(self, available: Mapping[str, Any]) -> TokenArrays:
        """The arrays that describe the tokens of a lookup.

        Args:
            available: The arguments that the functions may name.

        Raises:
            TypeError: ``tokens`` did not return a dict, or ``where`` returned nothing.
            ValueError: A function names an argument that is not available, ``tokens`` returned an
                unknown key, or ``where`` comes from both.
        """
        given: dict[str, Any] = {}
        if self._tokens is not None:
            returned = self._tokens(available)
            if not isinstance(returned, Mapping):
                raise TypeError(f"tokens must return a dict, got {format_value(returned)}")
            check_keys("the dict that tokens returned", returned, TokenArrays._fields)
            given.update(returned)
        if self._where is not None:
            if given.get("where") is not None:
                raise ValueError("where must come from tokens= or where=, got it from both")
            given["where"] = self._where(available)
            if given["where"] is None:  # a return that was forgotten would mean all tokens
                raise TypeError("where must return an array [B, L], got None")
        return TokenArrays(**given)
