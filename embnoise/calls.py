"""Where the calls of a layer that counts for itself stand in the noise."""

from __future__ import annotations

from typing import Any, NamedTuple

__all__ = ["Calls"]


class Calls(NamedTuple):
    """The training calls of a layer so far, as two integers that a framework keeps as its state.

    A step of the optimizer may take several calls, each with a micro-batch of its own. Their
    samples are numbered on, so that they get the noise of one large batch.

    Example:
        >>> import numpy as np
        >>> calls = Calls(0, 0)
        >>> for batch in (8, 8, 8):
        ...     print(*calls.place(per_step=2, xp=np))
        ...     calls = calls.after(batch, per_step=2, xp=np)
        0 0
        0 8
        1 0
    """

    count: Any
    """how many calls there were."""
    samples: Any
    """how many samples the current step has had."""

    def place(self, *, per_step: int, xp: Any) -> tuple[Any, Any]:
        """The step of the next call, and the id of its first sample."""
        begins = self.count % per_step == 0
        return self.count // per_step, xp.where(begins, 0 * self.samples, self.samples)

    def after(self, batch: Any, *, per_step: int, xp: Any) -> Calls:
        """The calls after one more, with ``batch`` samples."""
        _, first = self.place(per_step=per_step, xp=xp)
        return Calls(self.count + 1, first + batch)
