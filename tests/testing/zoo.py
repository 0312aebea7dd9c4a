"""Layers for the kit to judge: correct ones, and wrong ones with one realistic fault each."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable
from dataclasses import dataclass, field
from typing import Any

from embnoise.testing import Claims, case, check_layer, iter_checks


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


def holds(layer: Correct) -> None:
    """Every promise of the layer holds, and all that should be tested is."""
    report = check_layer(layer.case(), profile="quick", raises=False)
    assert report.ok, report.table()
    passed = sum(result.status == "passed" for result in report.results)
    assert passed > 25, report.table()


def raises_no_alarm(layer: Correct, seeds: Iterable[int]) -> None:
    """Nothing that is left to chance fails, whatever the kit's seed is."""
    for seed in seeds:
        for check in iter_checks(layer.case(), profile="quick", seed=seed):
            if check.spec.random:
                assert not check.run().wrong, (check.id, seed)


def is_caught(layer: Faulty) -> None:
    """The check that is meant for the fault fails, and its message names the fault."""
    checks = iter_checks(layer.case(), profile="quick")
    results = [check.run() for check in checks if check.spec.code == layer.caught_by]
    messages = [result.message for result in results if result.status in ("failed", "error")]
    assert messages, f"{layer.caught_by} passes"
    seen = [message.partition("\nTo repeat it:")[0] for message in messages]
    assert any(re.search(layer.says, message, re.DOTALL) for message in seen), seen
