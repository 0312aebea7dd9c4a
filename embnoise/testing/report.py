"""What was found: ``Result``, ``Report``, and the lines that repeat a failure."""

from __future__ import annotations

import json
import textwrap
from collections import Counter
from dataclasses import asdict, dataclass
from typing import Any

from embnoise.testing.case import Case

__all__ = ["STATUSES", "Report", "Result", "reproduction"]

STATUSES = (
    "passed", "failed", "expected_failure", "unexpected_pass", "not_claimed", "error",
)  # fmt: skip
WRONG = ("failed", "unexpected_pass", "error")
_COLOURS = {"passed": 32, "failed": 31, "error": 31, "unexpected_pass": 31, "expected_failure": 33}


@dataclass(frozen=True)
class Result:
    """What one check found.

    Attributes:
        code: such as ``"EN08"``.
        name: such as ``"support_filled"``.
        dtype: of the embeddings.
        status: one of passed, failed, expected_failure, unexpected_pass, not_claimed, error.
        message: what was seen and promised and the likely cause; or why it is not claimed.
        assertions: how many were made.
        seconds: how long it took.
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
        """Whether it makes the case fail."""
        return self.status in WRONG


@dataclass(frozen=True)
class Report:
    """What all checks of a case found.

    Attributes:
        case: what was tested.
        profile: how much was looked at.
        seed: the kit's.
        results: one for each check and dtype.
    """

    case: Case
    profile: str
    seed: int
    results: tuple[Result, ...]

    @property
    def ok(self) -> bool:
        """Whether every promise that was made and tested holds."""
        return not any(result.wrong for result in self.results)

    def summary(self) -> str:
        """The statuses counted, such as ``40 passed, 3 not claimed``."""
        counts = Counter(result.status for result in self.results)
        return ", ".join(
            f"{counts[status]} {status.replace('_', ' ')}" for status in STATUSES if counts[status]
        )

    def table(self, *, color: bool = False) -> str:
        """A readable table, a line for each check, with what is wrong in full below it."""
        groups: dict[tuple[str, str, str], list[Result]] = {}
        for each in self.results:
            reason = each.message if each.status in ("not_claimed", "expected_failure") else ""
            groups.setdefault((f"{each.code} {each.name}", each.status, reason), []).append(each)
        wide = max(len(title) for title, _, _ in groups)
        lines = [f"{self.case.name} ({self.case.driver.name}, profile {self.profile}, seed "
                 f"{self.seed})", f"  {self.case.claims}", ""]  # fmt: skip
        for (title, status, reason), group in groups.items():
            shown = f"{status.replace('_', ' '):16}"
            if color and status in _COLOURS:
                shown = f"\033[{_COLOURS[status]}m{shown}\033[0m"
            dtypes = " ".join(each.dtype for each in group)
            lines.append(f"  {title.ljust(wide)}  {shown}  {reason or dtypes}".rstrip())
        for group in groups.values():
            if group[0].wrong:
                lines += ["", group[0].message]
                lines += [f"The same in {each.dtype}." for each in group[1:]]
        seconds = sum(each.seconds for each in self.results)
        verdict = "holds" if self.ok else "does not hold"
        lines += ["", f"{self.case.name} {verdict}: {self.summary()} in {seconds:.1f} s"]
        return "\n".join(lines)

    def to_json(self) -> str:
        """The report as JSON: an object with ``ok``, ``results`` and what was tested."""
        data: dict[str, Any] = {
            "case": self.case.name,
            "driver": self.case.driver.name,
            "inputs": self.case.inputs,
            "claims": str(self.case.claims),
            "profile": self.profile,
            "seed": self.seed,
            "ok": self.ok,
            "counts": {
                status: sum(each.status == status for each in self.results) for status in STATUSES
            },
            "results": [asdict(each) for each in self.results],
        }
        return json.dumps(data, indent=2)


def reproduction(case: Case, lines: list[str]) -> str:
    """Lines to paste that repeat the calls behind a failure."""
    head = ["import numpy as np", "from embnoise.testing import driver_of"]
    for name, function in (("make_layer", case.make_layer), ("call", case.call)):
        if function is not None:
            head.append(_where(name, function))
    head.append(f"driver = driver_of({case.driver.name!r})")
    return "To repeat it:\n" + textwrap.indent("\n".join([*head, *lines]), "    ")


def _where(name: str, function: Any) -> str:
    module = getattr(function, "__module__", None)
    known = getattr(function, "__qualname__", "<lambda>")
    if "<" in known or "." in known or module in (None, "__main__"):
        return f"# {name}: that of your case"
    return f"from {module} import {known}" + ("" if known == name else f" as {name}")
