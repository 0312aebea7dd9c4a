"""Layers for the kit to judge: correct ones, and wrong ones with one realistic fault each."""

from __future__ import annotations

import re
from collections.abc import Callable, Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any
from unittest import mock

import numpy as np
import pytest

from embnoise.testing import Claims, case, check_layer, iter_checks
from embnoise.testing.layer_under_test import LayerUnderTest


@dataclass(frozen=True)
class Correct:
    """A layer that keeps all it claims."""

    name: str
    make: Callable[..., Any]
    driver: str
    inputs: str = "embeddings"
    call: Callable[..., Any] | None = None
    claims: Claims = field(default_factory=Claims)
    expected_failures: Mapping[str, str] = field(default_factory=dict, kw_only=True)
    """What the framework does not keep, with the reason."""

    def case(self):
        return case(
            self.name, self.make, driver=self.driver, inputs=self.inputs, call=self.call,
            claims=self.claims, expected_failures=self.expected_failures,
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
    repeatable: bool = True
    """Whether nothing but the kit's seeds decides what the layer draws."""
    profile: str = "quick"
    """The profile that catches it."""


PROFILES = ["quick", pytest.param("default", marks=pytest.mark.sweep)]
"""In which a correct layer keeps its promises."""


def some(values: Sequence[Any], every: int, slow: Collection[str] = ()) -> list[Any]:
    """Parameters of a test: every so many values are tested, and the others are for the sweep.

    So are all layers with the slow names.
    """
    return [
        pytest.param(value, marks=pytest.mark.sweep)
        if number % every or getattr(value, "name", None) in slow
        else value
        for number, value in enumerate(values)
    ]


def without_slow(layers: list[Correct], slow: set[str]) -> list[Any]:
    """Parameters of a test: the layers, of which those with these names are for the sweep."""
    return [
        pytest.param(layer, marks=pytest.mark.sweep) if layer.name in slow else layer
        for layer in layers
    ]


def holds(layer: Correct, profile: str = "quick") -> None:
    """Every promise of the layer holds, and all that should be tested is."""
    report = check_layer(layer.case(), profile=profile, raises=False)
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
    checks = iter_checks(layer.case(), profile=layer.profile)
    messages = []
    for check in checks:
        if check.spec.code == layer.caught_by:
            outputs, result = outputs_of(check)
            if result.status in ("failed", "error"):
                message, _, lines = result.message.partition("\nTo repeat it:\n")
                messages.append(message)
                repeat(lines, layer, outputs)
    assert messages, f"{layer.caught_by} passes"
    assert any(re.search(layer.says, message, re.DOTALL) for message in messages), messages


def outputs_of(check: Any) -> tuple[dict[str, np.ndarray], Any]:
    """The outputs that the transcript names, by name, and the result of a check."""
    outputs, raw, transcripts = {}, LayerUnderTest.raw, []

    def recorded(self, *arguments, **keywords):
        if not self.transcript._paused:
            transcripts.append(self.transcript)
        try:
            output = raw(self, *arguments, **keywords)
        except Exception:
            forget_from(self.transcript._calls)  # the call is written down, and has no output
            raise
        if self.transcript._paused:
            return output
        if self.transcript is not transcripts[0]:  # that of a check that this one builds on
            return output
        number = self.transcript._calls  # it starts again when the transcript is cleared
        forget_from(number)
        outputs[f"y{number}"] = self.driver.to_numpy(output)
        return output

    def forget_from(number):
        for name in [name for name in outputs if int(name[1:]) >= number]:
            del outputs[name]

    with mock.patch.object(LayerUnderTest, "raw", recorded):
        return outputs, check.run()


def repeat(lines: str, layer: Correct, outputs: dict[str, np.ndarray]) -> None:
    """Paste the lines of a failure: they give what the check saw."""
    lines = re.sub("^    ", "", lines, flags=re.MULTILINE)
    names = {"make_layer": layer.make, "call": layer.call}
    state = np.random.get_state()  # noqa: NPY002
    raised, program = None, compile(lines, "lines to repeat a failure", "exec")
    try:
        exec(program, names)  # noqa: S102, what a user would paste
    except Exception as error:  # what the check has seen last, perhaps
        raised = error
    finally:
        np.random.set_state(state)  # noqa: NPY002
    for name, output in outputs.items():
        if f"{name} = " not in lines:
            continue  # what a premise of the check called
        assert name in names, (name, lines, raised)
        if layer.repeatable:
            np.testing.assert_array_equal(names[name], output, err_msg=lines)
