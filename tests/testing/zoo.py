"""Layers for the kit to judge: correct ones, and wrong ones with one realistic fault each."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

from embnoise.testing import Claims, case


@dataclass(frozen=True)
class Correct:
    """A layer that keeps all it claims."""

    name: str
    make: Callable[..., Any]
    driver: str
    inputs: str = "embeddings"
    call: Callable[..., Any] | None = None
    claims: Claims = field(default_factory=Claims)

    def case(self):
        return case(
            self.name, self.make, driver=self.driver, inputs=self.inputs, call=self.call,
            claims=self.claims,
        )  # fmt: skip


@dataclass(frozen=True)
class Faulty(Correct):
    """A layer with one fault."""

    caught_by: str = ""
    """The code of the check whose message names the fault."""
    says: str = ""
    """A regular expression that this message matches."""
    fault: str = ""
    """The fault in a few words, for the table in the documentation."""
