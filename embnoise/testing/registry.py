"""The checks by their codes, which are stable: a code is never given to another check."""

from __future__ import annotations

import inspect
from collections.abc import Callable, Collection
from dataclasses import dataclass

from embnoise.testing.claims import Claims
from embnoise.testing.context import CheckContext
from embnoise.testing.profiles import PROFILES, Profile

__all__ = [
    "ALPHA",
    "CHECKS",
    "DISTRIBUTION",
    "DRAWS",
    "NOISE",
    "SEEDS",
    "SEVERAL",
    "SIZE",
    "Spec",
    "check",
    "needs_distribution",
    "needs_length",
    "needs_repeats",
]

# What checks build on, the most basic first.
NOISE = ("EN03", "EN24")
"""For checks that need noise, and embeddings that nothing else changes."""
DRAWS = (*NOISE, "EN25", "EN26", "EN27")
"""For checks that need as many draws as there are elements."""
ALPHA = (*DRAWS, "EN12", "EN21")
"""For checks that need alpha to be what it is claimed to be at the step."""
SIZE = (*ALPHA, "EN11", "EN08", "EN10")
"""For checks that need noise of the claimed size."""
SEEDS = (*NOISE, "EN05", "EN07")
"""For checks that compare the noise of several seeds."""
SEVERAL = ("EN07", "EN44")
"""For assertions about the draws of several seeds, taken together."""
DISTRIBUTION = ("EN31",)
"""For assertions about the size of single rows, which is measured by the claimed distribution."""


@dataclass(frozen=True)
class Spec:
    """A check, and when it applies."""

    code: str
    name: str
    run: Callable[[CheckContext], None]
    inputs: tuple[str, ...]
    """The kinds of inputs that it applies to."""
    dtypes: str
    """Those that it tests: "all", "usual" or "float32", as for ``check``."""
    claimed: Callable[[Claims], str | None]
    """Why the claims do not include it, or ``None`` if they do."""
    random: bool
    """Whether a correct layer may fail it by chance, once in 1 / RATE runs."""
    premises: tuple[str, ...] = ()
    """The checks that a layer must pass for a failure of this one to say anything."""

    def tested(
        self, declared: Collection[str], profile: Profile = PROFILES["default"]
    ) -> tuple[str, ...]:
        """The dtypes that it tests in a profile, of those that a driver declares."""
        if self.dtypes == "all":
            return tuple(declared)
        if self.dtypes == "usual":
            return tuple(dtype for dtype in profile.usual if dtype in {"float32", *declared})
        return ("float32",)

    @property
    def title(self) -> str:
        """Code and name: ``EN05_same_seed_same_noise``."""
        return f"{self.code}_{self.name}"

    @property
    def explanation(self) -> str:
        """What it tests, and what makes a layer fail."""
        return inspect.cleandoc(self.run.__doc__ or "")

    @property
    def promise(self) -> str:
        """What it tests, in one line."""
        return (self.run.__doc__ or "").partition("\n")[0]


CHECKS: dict[str, Spec] = {}


def check(
    code: str,
    *,
    inputs: tuple[str, ...] = ("embeddings", "ids"),
    dtypes: str = "float32",
    claimed: Callable[[Claims], str | None] = lambda claims: None,
    random: bool = False,
    premises: tuple[str, ...] = NOISE,
) -> Callable[[Callable[[CheckContext], None]], Callable[[CheckContext], None]]:
    """Register a function as the check of a code.

    The function's name becomes the check's name, and its docstring the explanation.

    Args:
        code: The check's code.
        inputs: The kinds of inputs that it applies to.
        dtypes: "all" that the driver declares; "usual": float32, and in all profiles but the quick
            one bfloat16 if declared, which layers may have a path of their own for; or "float32"
            only.
        claimed: Why the claims do not include it, or ``None`` if they do.
        random: Whether a correct layer may fail it by chance.
        premises: The checks without which it shows nothing. If it fails and one of these fails too,
            it is reported as ``not_tested``, so that one fault gives one message.
    """

    def register(run: Callable[[CheckContext], None]) -> Callable[[CheckContext], None]:
        CHECKS[code] = Spec(code, run.__name__, run, inputs, dtypes, claimed, random, premises)
        return run

    return register


def needs_repeats(claims: Claims) -> str | None:
    """For checks that draw the same noise twice."""
    return None if claims.repeatable else "seeded=False: the same noise cannot be drawn twice"


def needs_distribution(claims: Claims) -> str | None:
    """For checks of single values."""
    return None if claims.distribution_rule else "distribution=None"


def needs_length(claims: Claims) -> str | None:
    """For checks of L."""
    return None if claims.length else "length=None"
