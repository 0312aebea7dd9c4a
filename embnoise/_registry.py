"""Registries of named rules: distributions, scale rules and schedules."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any, Generic, TypeVar

from embnoise._validation import check_choice

__all__ = ["Registry"]

Rule = TypeVar("Rule")


class Registry(Generic[Rule]):
    """Rules of one kind by name.

    Args:
        kind: What the rules are, as arguments and errors call them, such as ``"distribution"``.
    """

    def __init__(self, kind: str) -> None:
        self.kind = kind
        self._rules: dict[str, Rule] = {}
        self._origins: dict[str, tuple[str, str]] = {}

    def add(self, name: str, rule: Rule, defined_by: Callable[..., Any]) -> None:
        """Register a rule under a name.

        A definition that runs again, as a notebook cell does, replaces what it registered before.

        Args:
            name: Its name.
            rule: The rule.
            defined_by: The function or class that defines it.

        Raises:
            ValueError: A rule that is defined elsewhere has that name.
        """
        origin = (
            getattr(defined_by, "__module__", ""),
            getattr(defined_by, "__qualname__", repr(defined_by)),
        )
        taken = self._origins.get(name, origin)
        if taken != origin:
            raise ValueError(
                f"name must be one that no other {self.kind} has, got {name!r}, which "
                f"{taken[0]} has registered"
            )
        self._rules[name] = rule
        self._origins[name] = origin

    def __getitem__(self, name: str) -> Rule:
        """The rule of a name.

        Raises:
            TypeError: ``name`` is not a string.
            ValueError: No rule has that name.
        """
        check_choice(self.kind, name, list(self._rules))
        return self._rules[name]

    def __iter__(self) -> Iterator[Rule]:
        return iter(self._rules.values())

    def holds(self, name: str, rule: Rule) -> bool:
        """Whether ``rule`` is what is registered under ``name``."""
        return self._rules.get(name) == rule

    def names(self) -> list[str]:
        """The registered names, in the order of registration."""
        return list(self._rules)
