"""Whether there was a lookup: what tells calls and steps of which no embedding got noise."""

from __future__ import annotations

import threading

__all__ = ["SeenLookups"]


class _InThread(threading.local):
    """Several threads may call one model at a time."""

    since_call = False


class SeenLookups:
    """Whether there was a lookup since the last call of the model, and since the last step.

    One in ``paused()`` is a lookup too: that it got no noise is no surprise.

    Attributes:
        since_step: Whether there was one since the optimizer's last step, in any thread.
    """

    def __init__(self) -> None:
        self.since_step = False
        self._in_thread = _InThread()

    def add(self) -> None:
        """There was a lookup in this thread."""
        self.since_step = self._in_thread.since_call = True

    def end_call(self) -> bool:
        """A call has returned; returns whether there was a lookup in this thread."""
        seen = self._in_thread.since_call
        self._in_thread.since_call = False
        return seen

    def end_step(self) -> bool:
        """The optimizer has made a step; returns whether there was a lookup."""
        seen, self.since_step = self.since_step, False
        return seen
