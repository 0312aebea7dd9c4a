"""The documentation's tables: the claims, and which check catches which fault.

    python -m tests.testing.table

writes them into docs/testing.md.
"""

from __future__ import annotations

from importlib import import_module
from pathlib import Path

from embnoise.testing import Claims
from embnoise.testing.claims import NOTES
from embnoise.testing.registry import CHECKS
from tests.testing.faults.families import faulty
from tests.testing.transformation_faults import SHARDED
from tests.testing.zoo import Faulty

PAGE = Path(__file__).parent.parent.parent / "docs" / "testing.md"
END = "<!-- end of the table -->"
FRAMEWORKS = {"PyTorch": "torch", "JAX": "jax", "Keras": "keras"}


def faults(framework: str) -> list[Faulty]:
    """The faulty layers of a framework."""
    module = FRAMEWORKS[framework]
    of_several_devices = SHARDED if framework == "JAX" else []
    layers = import_module(f"tests.testing.{module}_layers").FAULTY
    return [*layers, *of_several_devices, *faulty(module)]


def table_of_faults() -> str:
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


def table_of_claims() -> str:
    """A row for each claim, with its default and its note."""
    lines = ["| Claim | Default | Meaning |", "| --- | --- | --- |"]
    for name, note in NOTES.items():
        default = getattr(Claims(), name)
        shown = f'"{default}"' if isinstance(default, str) else repr(default)
        lines.append(f"| `{name}` | `{shown}` | {note} |")
    return "\n".join(lines)


TABLES = {
    "<!-- table of claims: python -m tests.testing.table -->": table_of_claims,
    "<!-- table of faults: python -m tests.testing.table -->": table_of_faults,
}


def page_with_the_table() -> str:
    """The page as it should be."""
    page = PAGE.read_text()
    for start, table in TABLES.items():
        before, _, rest = page.partition(start)
        after = rest.partition(END)[2]
        page = f"{before}{start}\n\n{table()}\n\n{END}{after}"
    return page


if __name__ == "__main__":
    PAGE.write_text(page_with_the_table())
