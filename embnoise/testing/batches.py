"""The batches of the exact checks: a fixed table, and what Hypothesis draws.

No statistic is ever taken over these: Hypothesis looks for failures, and would find the tail.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from importlib.util import find_spec
from typing import Any

import numpy as np
from numpy.typing import NDArray

from embnoise.testing.failures import BrokenError, MisuseError, UnclaimedError
from embnoise.testing.inputs import Inputs, left_mask, right_mask
from embnoise.testing.subject import Subject

__all__ = ["Batch", "over_batches"]


@dataclass(frozen=True)
class Batch:
    """A shape, how it is padded, and alpha."""

    lengths: tuple[int, ...]
    """The real tokens of each row."""
    width: int
    dim: int
    left: bool = False
    """Whether the padding is on the left."""
    alpha: float = 5.0

    @property
    def mask(self) -> NDArray[np.bool_]:
        """True for real tokens."""
        return (left_mask if self.left else right_mask)(list(self.lengths), self.width)

    def inputs(self, subject: Subject, fill: str | None = None) -> Inputs:
        """The batch for a subject."""
        # Hypothesis runs an example again, and must find what it found.
        subject.draw = np.random.default_rng([subject.seed, *self.lengths, self.width, self.dim])
        return subject.batch((len(self.lengths), self.width, self.dim), fill, mask=self.mask)

    def scaled(self, subject: Subject) -> float:
        """Alpha, in a subject's unit."""
        return self.alpha * subject.alpha / 5


TABLE = (
    Batch((7, 7, 7, 7), 7, 16),
    Batch((7, 3, 0, 1), 7, 16),
    Batch((7, 2, 5, 1), 7, 16, left=True, alpha=0.25),
)


def over_batches(subject: Subject, body: Callable[[Batch], None]) -> None:
    """Run a body over the table, then over what Hypothesis draws, if it is installed."""
    for batch in TABLE:
        subject.anew()
        body(batch)
    examples = int(getattr(subject.case.driver, "examples", 25) * subject.profile.draws)
    if examples and find_spec("hypothesis"):
        _drawn(subject, body, examples)


def _drawn(subject: Subject, body: Callable[[Batch], None], examples: int) -> None:
    from hypothesis import HealthCheck, given, settings  # noqa: PLC0415, optional
    from hypothesis import strategies as st  # noqa: PLC0415

    @st.composite
    def batches(draw: Any) -> Batch:
        width = draw(st.integers(1, 9))
        return Batch(
            tuple(draw(st.lists(st.integers(0, width), min_size=1, max_size=4))),
            width,
            draw(st.integers(1, 33)),
            draw(st.booleans()),
            draw(st.floats(2**-4, 2**4, width=32)),
        )

    found: list[BrokenError | MisuseError] = []

    @settings(
        max_examples=examples,
        derandomize=True,
        database=None,
        deadline=None,
        suppress_health_check=list(HealthCheck),
        report_multiple_bugs=False,
    )
    @given(batches())
    def drawn(batch: Batch) -> None:
        subject.anew()
        try:
            body(batch)
        except (BrokenError, MisuseError) as problem:
            found.append(problem)
            raise

    try:
        drawn()
    except (BrokenError, MisuseError, UnclaimedError):
        raise
    except Exception:
        if found:  # a layer that nothing fixes fails once, and then does not
            raise found[-1] from None
        raise
