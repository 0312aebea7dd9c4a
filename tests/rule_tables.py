"""The tables of built-in rules in docs/configuration.md, from the registries.

    python -m tests.rule_tables

writes them into the page.
"""

from __future__ import annotations

import inspect
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import embnoise
from embnoise import _distributions, _scales, _schedules

PAGE = Path(__file__).parent.parent / "docs" / "configuration.md"
START, END = "<!-- {}: python -m tests.rule_tables -->", "<!-- end of the table -->"


def distributions() -> Iterator[list[str]]:
    yield ["`distribution`", "RMS of the unit values", "Largest unit value"]
    for rule in _distributions.DISTRIBUTIONS:
        if rule.quantile.__module__ == _distributions.__name__:
            largest = float(rule.table.max())
            yield [f'`"{rule.name}"`', f"{rule.rms:.6g}", f"{largest:.7g}"]


def scales() -> Iterator[list[str]]:
    yield ["`scale`", "Magnitude of a token"]
    for rule in _scales.SCALES:
        if rule.function.__module__ == _scales.__name__:
            yield [f'`"{rule.name}"`', first_line(rule.function)]


def schedules() -> Iterator[list[str]]:
    yield ["Schedule", "Alpha at a step"]
    for name in _schedules.SCHEDULES.names():
        function = getattr(embnoise, name, None)
        if function is not None:
            parameters = inspect.signature(function).parameters
            alpha = first_line(function).removesuffix(" with `t = min(step / steps, 1)`")
            yield [f"`{name}({', '.join(parameters)})`", alpha]


def first_line(function: Any) -> str:
    """The first sentence of a docstring, as Markdown."""
    line = inspect.getdoc(function).partition("\n")[0].rstrip(".")
    return line.replace("``", "`")


TABLES = {"distributions": distributions, "scale rules": scales, "schedules": schedules}


def page_with_the_tables() -> str:
    """The page with the tables as they should be."""
    page = PAGE.read_text()
    for name, rows in TABLES.items():
        head, *body = ("| " + " | ".join(row) + " |" for row in rows())
        ruler = re.sub(r"[^|]+", " --- ", head)
        table = "\n".join([head, ruler, *body])
        start = START.format(name)
        assert start in page, start
        before, _, rest = page.partition(start)
        page = f"{before}{start}\n\n{table}\n\n{END}{rest.partition(END)[2]}"
    return page


if __name__ == "__main__":
    PAGE.write_text(page_with_the_tables())
