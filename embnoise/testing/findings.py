"""``Findings``: what the checks of a case have found so far."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field

from embnoise.testing.report import Result

__all__ = ["Findings"]


@dataclass(eq=False)
class Findings:
    """What the checks of one case have found so far; its checks share it."""

    results: dict[tuple[object, ...], Result] = field(default_factory=dict)
    """By code, dtype, profile and seed."""
    references: dict[str, bool] = field(default_factory=dict)
    """Whether a layer with alpha = 0 shows the embeddings without noise, by dtype."""
    output_dtypes: dict[str, str] = field(default_factory=dict)
    """The dtype of the output of a layer that embeds ids, by the dtype of its table."""
    refused: set[str] = field(default_factory=set)
    """The keywords that the layer refused although its signature takes any."""
    required: set[str] = field(default_factory=set)
    """The masks and segment ids that the layer turned out to require, which it takes as any."""
    not_finite: list[str] = field(default_factory=list)
    """The codes of the checks that found NaN or infinite values."""
    apart: dict[tuple[object, ...], bool] = field(default_factory=dict)
    """Whether some rows, tokens or channels differ from the rest, by dtype, profile and seed."""
    running: list[tuple[object, ...]] = field(default_factory=list)
    """The checks that failed and whose premises are being looked at.

    They are no premises meanwhile, so that of two checks that build on each other one is reported.
    """

    @contextmanager
    def in_progress(self, key: tuple[object, ...]) -> Iterator[None]:
        """A context in which the premises of a check are looked at."""
        self.running.append(key)
        try:
            yield
        finally:
            self.running.remove(key)
