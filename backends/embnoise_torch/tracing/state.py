"""What a user sets on noise, also in a function that ``torch.compile`` traces."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Protocol

import torch

from embnoise.backend import NoiseState
from embnoise_torch.tracing.custom_op import call_opaque

__all__ = ["TraceableState"]


class Pausable(Protocol):
    """A source of noise: see ``embnoise_torch.source``."""

    pauses: int
    traced_pauses: int


class TraceableState(NoiseState):
    """State whose changes take effect where they stand, in compiled code too: a mixin.

    Dynamo changes attributes when a graph has run, but the noise reads them while it runs.
    """

    def _pausable(self) -> Sequence[Pausable]:
        """The sources of the noise."""
        raise NotImplementedError

    def _pauses(self) -> int:
        return max(source.pauses for source in self._pausable())

    def _set_pauses(self, pauses: int) -> None:
        for source in self._pausable():
            source.pauses = pauses

    def _start_step(self, value: int) -> None:
        call_opaque(super()._start_step, value)

    @contextmanager
    def paused(self) -> Iterator[None]:
        """As for every state; in compiled code, what is traced meanwhile has no noise."""
        if not torch.compiler.is_compiling():
            with super().paused():
                yield
            return
        sources = self._pausable()
        for source in sources:
            source.traced_pauses += 1
        try:
            yield
        finally:
            for source in sources:
                source.traced_pauses -= 1
