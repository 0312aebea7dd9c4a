"""What the checks found: ``Result``, ``Report``, and the lines that repeat a failure."""

from __future__ import annotations

import json
import textwrap
from collections import Counter
from dataclasses import asdict, dataclass
from typing import Any

from embnoise.testing._case import Case
from embnoise.testing.failures import CheckFailedError

__all__ = ["STATUSES", "Findings", "Report", "Result", "reproduction"]

STATUSES = (
    "passed", "failed", "expected_failure", "unexpected_pass", "not_claimed", "not_tested", "error",
)  # fmt: skip
WRONG = ("failed", "unexpected_pass", "error")
EXPLAINED = ("passed", "not_claimed", "not_tested", "expected_failure")
"""The statuses whose message, if there is one, is the reason in a word."""
_COLORS = {"passed": 32, "failed": 31, "error": 31, "unexpected_pass": 31, "expected_failure": 33}


@dataclass(frozen=True)
class Result:
    """What one check found.

    Attributes:
        code: The check's code, such as ``"EN08"``.
        name: The check's name, such as ``"support_filled"``.
        dtype: The dtype of the embeddings.
        status: passed, failed, expected_failure, unexpected_pass, not_claimed, not_tested or error.
        message: What was observed and expected, and the likely cause; or why it is not claimed, or
            not tested; or what a check that passed did not look at.
        assertions: How many assertions the check made.
        seconds: How long it took.
    """

    code: str
    name: str
    dtype: str
    status: str
    message: str
    assertions: int
    seconds: float

    @property
    def wrong(self) -> bool:
        """Whether it makes the report fail."""
        return self.status in WRONG


class Findings:
    """Results with a title; the base class of reports."""

    results: tuple[Result, ...]

    @property
    def title(self) -> str:
        """What was tested, in a word."""
        raise NotImplementedError

    def header(self) -> list[str]:
        """The first lines of the table."""
        raise NotImplementedError

    def about(self) -> dict[str, Any]:
        """The first entries of the JSON object."""
        raise NotImplementedError

    @property
    def ok(self) -> bool:
        """Whether no check failed."""
        return not any(result.wrong for result in self.results)

    def summary(self) -> str:
        """The number of results with each status, such as ``40 passed, 3 not claimed``."""
        counts = Counter(result.status for result in self.results)
        return ", ".join(
            f"{counts[status]} {status.replace('_', ' ')}" for status in STATUSES if counts[status]
        )

    def raise_if_wrong(self) -> None:
        """Raise an ``ExceptionGroup`` with one ``CheckFailedError`` for each failure, if any."""
        __tracebackhide__ = True
        if not self.ok:
            raise ExceptionGroup(
                f"{self.title}: {self.summary()}",
                [CheckFailedError(result.message) for result in self.results if result.wrong],
            )

    def table(self, *, color: bool = False) -> str:
        """A readable table with a line for each check, and the messages of failures below it."""
        groups: dict[tuple[str, str, str], list[Result]] = {}
        for each in self.results:
            reason = each.message if each.status in EXPLAINED else ""
            groups.setdefault((f"{each.code} {each.name}", each.status, reason), []).append(each)
        wide = max(len(title) for title, _, _ in groups)
        lines = [*self.header(), ""]
        for (title, status, reason), group in groups.items():
            shown = f"{status.replace('_', ' '):16}"
            if color and status in _COLORS:
                shown = f"\033[{_COLORS[status]}m{shown}\033[0m"
            dtypes = " ".join(each.dtype for each in group)
            lines.append(f"  {title.ljust(wide)}  {shown}  {reason or dtypes}".rstrip())
        for group in groups.values():
            if group[0].wrong:
                lines += ["", group[0].message]
                lines += [f"The same in {each.dtype}." for each in group[1:]]
        seconds = sum(each.seconds for each in self.results)
        verdict = "holds" if self.ok else "does not hold"
        lines += ["", f"{self.title} {verdict}: {self.summary()} in {seconds:.1f} s"]
        return "\n".join(lines)

    def to_json(self) -> str:
        """The report as a JSON object: what was tested, ``ok``, ``counts`` and ``results``."""
        counts = {
            status: sum(each.status == status for each in self.results) for status in STATUSES
        }
        data = {
            **self.about(),
            "ok": self.ok,
            "counts": counts,
            "results": [asdict(each) for each in self.results],
        }
        return json.dumps(data, indent=2)


@dataclass(frozen=True)
class Report(Findings):
    """What the checks of a case found.

    Attributes:
        case: What was tested.
        profile: How much was tested.
        seed: The kit's seed.
        results: One for each check and dtype.
    """

    case: Case
    profile: str
    seed: int
    results: tuple[Result, ...]

    @property
    def title(self) -> str:
        """The case's name."""
        return self.case.name

    def header(self) -> list[str]:
        """The case and its claims."""
        name, driver = self.case.name, self.case.driver.name
        return [
            f"{name} ({driver}, profile {self.profile}, seed {self.seed})",
            f"  {self.case.claims}",
        ]

    def about(self) -> dict[str, Any]:
        """The case and its claims."""
        return {
            "case": self.case.name,
            "driver": self.case.driver.name,
            "inputs": self.case.inputs,
            "claims": str(self.case.claims),
            "profile": self.profile,
            "seed": self.seed,
        }


def reproduction(case: Case, lines: list[str]) -> str:
    """Lines to paste that repeat the calls behind a failure."""
    head = ["import numpy as np", "from embnoise.testing import driver_of"]
    for name, function in (("make_layer", case.make_layer), ("call", case.call)):
        if function is not None:
            head.append(_imported(name, function))
    head.append(f"driver = driver_of({case.driver.name!r})")
    return "To repeat it:\n" + textwrap.indent("\n".join([*head, *lines]), "    ")


def _imported(name: str, function: Any) -> str:
    module = getattr(function, "__module__", None)
    known = getattr(function, "__qualname__", "<lambda>")
    if "<" in known or "." in known or module in (None, "__main__"):
        return f"# {name}: the one in your case"
    return f"from {module} import {known}" + ("" if known == name else f" as {name}")
