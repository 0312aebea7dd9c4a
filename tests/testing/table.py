"""The documentation's table: which check catches which fault.

    python -m tests.testing.table

writes it into docs/testing.md.
"""

from __future__ import annotations

from pathlib import Path

from embnoise.testing.registry import CHECKS
from tests.testing import jax_layers, keras_layers, torch_layers

PAGE = Path(__file__).parent.parent.parent / "docs" / "testing.md"
START, END = "<!-- table of faults: python -m tests.testing.table -->", "<!-- end of the table -->"
FRAMEWORKS = {
    "PyTorch": torch_layers.FAULTY,
    "JAX": jax_layers.FAULTY,
    "Keras": keras_layers.FAULTY,
}


def table() -> str:
    """A row for each fault, in the order of the checks, with where it is tested."""
    rows: dict[tuple[str, str], list[str]] = {}
    for framework, layers in FRAMEWORKS.items():
        for layer in layers:
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
