"""The batches of the exact checks: a fixed table, and batches that Hypothesis draws.

No statistic is taken over these: Hypothesis searches for failures and would find the tail.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
from numpy.typing import NDArray

from embnoise.testing.context import CheckContext
from embnoise.testing.examples import over_examples
from embnoise.testing.inputs import Inputs, left_mask, right_mask

__all__ = ["Batch", "over_batches"]


@dataclass(frozen=True)
class Batch:
    """A shape, its padding, and alpha."""

    lengths: tuple[int, ...]
    """The number of real tokens in each row."""
    width: int
    dim: int
    left: bool = False
    """Whether the padding is on the left."""
    alpha: float = 5.0

    @property
    def mask(self) -> NDArray[np.bool_]:
        """True for real tokens."""
        return (left_mask if self.left else right_mask)(list(self.lengths), self.width)

    def inputs(self, context: CheckContext, fill: str | None = None) -> Inputs:
        """The batch for a context."""
        # Hypothesis runs an example again, and must find the same values.
        context.draw = np.random.default_rng([context.seed, *self.lengths, self.width, self.dim])
        return context.batch((len(self.lengths), self.width, self.dim), fill, mask=self.mask)

    def without_empty_rows(self) -> Batch:
        """The batch with a token in every row."""
        return replace(self, lengths=tuple(max(length, 1) for length in self.lengths))

    def scaled(self, context: CheckContext) -> float:
        """Alpha for a context, whose usual alpha stands for 5."""
        return self.alpha * context.alpha / 5


TABLE = (
    Batch((7, 7, 7, 7), 7, 16),
    Batch((7, 3, 0, 1), 7, 16),
    Batch((7, 2, 5, 1), 7, 16, left=True, alpha=0.25),
    Batch((3,), 7, 16),
    Batch((3, 3, 3, 3), 7, 16),
)


def over_batches(
    context: CheckContext, body: Callable[[Batch], None], *, empty_rows: bool = True
) -> None:
    """Run a body over the table, and over what Hypothesis draws if it is installed.

    Args:
        context: The check's.
        body: The check of one batch.
        empty_rows: Whether there are rows that are all padding.
    """

    def run(batch: Batch) -> None:
        context.transcript.clear()
        if context.claims.padding == "right":
            batch = replace(batch, left=False)
        body(batch if empty_rows else batch.without_empty_rows())

    for batch in TABLE:
        run(batch)
    over_examples(_drawn, run, int(context.driver.examples * context.profile.draws))


def _drawn(draw: Any, st: Any) -> Batch:
    width = draw(st.integers(1, 9))
    lengths = tuple(draw(st.lists(st.integers(0, width), min_size=1, max_size=4)))
    return Batch(
        lengths,
        width + (len(lengths) == width),  # EN49 reports what goes wrong if B == L
        draw(st.integers(1, 33)),
        draw(st.booleans()),
        draw(st.floats(2**-4, 2**4, width=32)),
    )
