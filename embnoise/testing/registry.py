"""The checks by their codes, which are stable: a code is never given to another check."""

from __future__ import annotations

import inspect
from collections.abc import Callable
from dataclasses import dataclass

from embnoise.testing.claims import Claims
from embnoise.testing.subject import Subject

__all__ = ["CHECKS", "Spec", "check"]


@dataclass(frozen=True)
class Spec:
    """A check, and when it applies."""

    code: str
    name: str
    run: Callable[[Subject], None]
    inputs: tuple[str, ...]
    """The kinds of inputs that it is for."""
    dtypes: str
    """"all" that the driver has, or "float32" alone."""
    claimed: Callable[[Claims], str | None]
    """Why its promise is not made, or ``None``."""
    random: bool
    """Whether a correct layer may fail it by chance, once in 1 / RATE runs."""

    @property
    def title(self) -> str:
        """Code and name: ``EN05_same_seed_same_noise``."""
        return f"{self.code}_{self.name}"

    @property
    def explanation(self) -> str:
        """What is promised, and what makes a layer fail."""
        return inspect.cleandoc(self.run.__doc__ or "")

    @property
    def promise(self) -> str:
        """What is promised, in a line."""
        return (self.run.__doc__ or "").partition("\n")[0]


CHECKS: dict[str, Spec] = {}


def check(
    code: str,
    *,
    inputs: tuple[str, ...] = ("embeddings", "ids"),
    dtypes: str = "float32",
    claimed: Callable[[Claims], str | None] = lambda claims: None,
    random: bool = False,
) -> Callable[[Callable[[Subject], None]], Callable[[Subject], None]]:
    """Register a function as a code's check: its name is the check's, its docstring explains."""

    def register(run: Callable[[Subject], None]) -> Callable[[Subject], None]:
        CHECKS[code] = Spec(code, run.__name__, run, inputs, dtypes, claimed, random)
        return run

    return register


def needs_repeats(claims: Claims) -> str | None:
    """For promises that need the same noise twice."""
    return None if claims.repeatable else "seeded=False: the same noise cannot be drawn twice"


def needs_distribution(claims: Claims) -> str | None:
    """For promises about single values."""
    return None if claims.distribution else "distribution=None"
