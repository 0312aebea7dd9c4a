"""Running an exact check over the examples that Hypothesis draws."""

from __future__ import annotations

from collections.abc import Callable
from importlib.util import find_spec
from typing import Any

from embnoise.testing.failures import ClaimViolatedError, NotClaimedError, UntestableError

__all__ = ["over_examples"]


def over_examples(
    draw: Callable[[Any, Any], Any], body: Callable[[Any], None], examples: int
) -> None:
    """Run a body over drawn examples; does nothing if Hypothesis is not installed.

    Args:
        draw: Draws an example, given Hypothesis's ``draw`` and its module ``strategies``.
        body: What to run; it raises if the check fails.
        examples: How many examples to draw.
    """
    if not examples or not find_spec("hypothesis"):
        return
    from hypothesis import HealthCheck, given, settings  # noqa: PLC0415, optional
    from hypothesis import strategies as st  # noqa: PLC0415, optional

    found: list[ClaimViolatedError | UntestableError] = []

    @settings(
        max_examples=examples,
        derandomize=True,
        database=None,
        deadline=None,
        suppress_health_check=list(HealthCheck),
        report_multiple_bugs=False,
    )
    @given(st.composite(lambda drawn: draw(drawn, st))())
    def run(example: Any) -> None:
        try:
            body(example)
        except (ClaimViolatedError, UntestableError) as problem:
            found.append(problem)
            raise

    try:
        run()
    except (ClaimViolatedError, UntestableError, NotClaimedError):
        raise
    except Exception:
        if found:  # a layer that nothing seeds fails once, and passes when it is run again
            raise found[-1] from None
        raise
