"""The documentation's table: which check catches which fault.

    python -m tests.testing.table

writes it into docs/testing.md.
"""

from __future__ import annotations

from importlib import import_module
from pathlib import Path

from embnoise.testing.registry import CHECKS
from tests.testing.zoo import Faulty

PAGE = Path(__file__).parent.parent.parent / "docs" / "testing.md"
START, END = "<!-- table of faults: python -m tests.testing.table -->", "<!-- end of the table -->"
FRAMEWORKS = {"PyTorch": "torch", "JAX": "jax", "Keras": "keras"}


def faults(framework: str) -> list[Faulty]:
    """The faulty layers of a framework."""
    return import_module(f"tests.testing.{FRAMEWORKS[framework]}_layers").FAULTY


def table() -> str:
    """A row for each fault, in the order of the checks, with where it is tested."""
    rows: dict[tuple[str, str], list[str]] = {}
    for framework in FRAMEWORKS:
        for layer in faults(framework):
            rows.setdefault((layer.caught_by, layer.fault), []).append(framework)
    lines = ["| Check | Fault | Tested in |", "| --- | --- | --- |"]
    for (code, fault), where in sorted(rows.items(), key=lambda row: row[0][0]):
        name = f"{code} `{CHECKS[code].name}`"
        lines.append(f"| {name} | {fault} | {', '.join(dict.fromkeys(where))} |")
    return "\n".join(lines)


def page_with_the_table() -> str:
    """The page as it should be."""
    before, _, rest = PAGE.read_text().partition(START)
    after = rest.partition(END)[2]
    return f"{before}{START}\n\n{table()}\n\n{END}{after}"


if __name__ == "__main__":
    PAGE.write_text(page_with_the_table())
