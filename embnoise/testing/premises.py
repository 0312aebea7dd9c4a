"""Which check is at the root of a failure: a check says nothing if one that it builds on failed."""

from __future__ import annotations

from collections.abc import Callable, Iterable

from embnoise.testing._case import Case
from embnoise.testing.registry import CHECKS, Spec
from embnoise.testing.report import Result

__all__ = ["FIRST", "ONE_SIZE", "is_statistic", "premises_of", "root_of"]

FIRST = "EN01"
"""The check that all others build on."""

_OF_IDS = "EN17"
"""The check that all others of layers that embed ids build on: the table stays as it was."""


_OF_PAIRS = "EN36"
"""The check of pairs of rows, which is at the root of what else is wrong with one of a pair."""


ONE_SIZE = "EN52"
"""The check of single rows, tokens and channels. If some of them differ from the rest, it is at the
root of what is wrong with all noise."""

_OF_VALUES = ("EN40", "EN42")
"""The exact checks that nevertheless rest on how the values are distributed."""


def is_statistic(spec: Spec) -> bool:
    """Whether a check measures all noise, and so is misled by single rows, tokens or channels."""
    return spec.code != ONE_SIZE and (spec.random or spec.code in _OF_VALUES)


def premises_of(spec: Spec, case: Case) -> tuple[str, ...]:
    """The codes of the checks that a check of a case builds on, the most basic first."""
    implied = (FIRST, _OF_IDS) if case.inputs == "ids" else (FIRST,)
    if spec.code in implied:
        return implied[: implied.index(spec.code)]
    paired = case.claims.antithetic and spec.code not in _with_premises(_OF_PAIRS)
    pairs = (_OF_PAIRS,) if paired else ()
    return tuple(dict.fromkeys((*implied, *spec.premises, *pairs)))


def _with_premises(code: str) -> set[str]:
    """A check, and all that it builds on."""
    return {code}.union(*(_with_premises(each) for each in CHECKS[code].premises))


def root_of(codes: Iterable[str], result_of: Callable[[Spec], Result | None]) -> str | None:
    """Which of these checks failed, as a reason; ``None`` if all of them hold.

    Args:
        codes: The codes of the checks.
        result_of: The result of a check; ``None`` if it does not apply.
    """
    for code in codes:
        result = result_of(CHECKS[code])
        if result is None:
            continue
        if result.status == "not_tested":
            return result.message
        if result.status in ("failed", "error", "expected_failure"):
            return f"{result.code} {result.name} failed"
    return None
