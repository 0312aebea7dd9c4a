"""A file of expected failures: one check a line, with the reason."""

from __future__ import annotations

import re
from collections.abc import Collection, Iterator
from dataclasses import replace
from pathlib import Path

from embnoise._validation import did_you_mean
from embnoise.testing._case import Case
from embnoise.testing.cases import by_code, check_applies

__all__ = ["misspelled_cases", "with_expected_failures"]

_LINE = re.compile(r"(?:(?P<case>.+):)?(?P<code>EN\w+(?:\[\w+\])?)(?:\s+(?P<reason>\S.*))?")


def with_expected_failures(case: Case, path: Path) -> Case:
    """The case, with the expected failures of a file in addition to its own.

    A line is ``EN09 reason``, for every case, or ``MyNoise:EN09[float16] reason``; the code may be
    followed by the check's name, as in reports. Empty lines and those that start with ``#`` are
    left out, and so are those of other cases.

    Raises:
        ValueError: A line is not of this form, has no reason or an unknown code, occurs twice, or
            names a check or a dtype that does not apply to the case.
        OSError: The file cannot be read.
    """
    found: dict[str, str] = {}
    for where, name, code, reason in _lines(path):
        if name not in (None, case.name):
            continue
        if code in found or code in case.expected_failures:
            raise ValueError(f"{where}: {code} is expected to fail twice")
        try:
            check_applies(case, code)
        except ValueError as error:
            raise ValueError(f"{where}: {error}. Remove the line") from None
        found[code] = reason
    return replace(case, expected_failures={**case.expected_failures, **found})


def misspelled_cases(path: Path, names: Collection[str]) -> list[str]:
    """A note on each line whose case a run does not have, if one of the run has such a name.

    No error, and nothing on the other cases, since a file may serve several runs.

    Args:
        path: The file.
        names: The names of the cases of the run.
    """
    return [
        f"{where} is of no case in this run: {name!r}{hint}"
        for where, name, _, _ in _lines(path)
        if name and name not in names and (hint := did_you_mean(name, names, cutoff=0.75))
    ]


def _lines(path: Path) -> Iterator[tuple[str, str | None, str, str]]:
    """The lines with a code: where each stands, its case if it names one, its code and reason."""
    for number, line in enumerate(path.read_text(encoding="utf-8-sig").splitlines(), 1):
        text = line.strip()
        if not text or text.startswith("#"):
            continue
        where = f"{path}, line {number}"
        parts = _LINE.fullmatch(text)
        if parts is None or not parts["reason"]:
            raise ValueError(
                f"{where}: expected a code and a reason, such as 'EN09 padding gets noise' or "
                f"'MyNoise:EN09[float16] padding gets noise', got {text!r}"
            )
        try:
            ((code, reason),) = by_code({parts["code"]: parts["reason"]}).items()
        except ValueError as error:
            raise ValueError(f"{where}: {error}") from None
        yield where, parts["case"], code, reason
