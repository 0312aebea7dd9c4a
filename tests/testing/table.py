"""What the documentation says of the kit, from its code: the claims, the checks, the faults.

    python -m tests.testing.table

writes the table of claims into docs/testing.md, and docs/checks.md.
"""

from __future__ import annotations

import re
import textwrap
from importlib import import_module
from pathlib import Path

from embnoise.testing import Claims
from embnoise.testing.claims import NOTES
from embnoise.testing.registry import CHECKS, Spec
from tests.testing.faults.families import faulty
from tests.testing.transformation_faults import SHARDED
from tests.testing.zoo import Faulty

DOCS = Path(__file__).parent.parent.parent / "docs"
START, END = "<!-- table of claims: python -m tests.testing.table -->", "<!-- end of the table -->"
FRAMEWORKS = {"PyTorch": "torch", "JAX": "jax", "Keras": "keras"}

INTRODUCTION = """\
# Checks and faults

Look up a code of a report here: what the check demands, which layers fail it, and the faults that
it catches. [Testing your own layer](testing.md) shows how to get a report, and
`embnoise explain EN08` prints the text of a check. Each fault is a layer in
[`tests/testing`](../tests/testing/torch_scale_faults.py), written the way such layers are found in
practice; most fail other checks as well. Where frameworks are named, the fault is tested in these
only."""


def pages() -> dict[Path, str]:
    """The pages as they should be."""
    return {DOCS / "testing.md": page_with_the_claims(), DOCS / "checks.md": page_of_the_checks()}


def faults(framework: str) -> list[Faulty]:
    """The faulty layers of a framework."""
    module = FRAMEWORKS[framework]
    of_several_devices = SHARDED if framework == "JAX" else []
    layers = import_module(f"tests.testing.{module}_faults").FAULTY
    return [*layers, *of_several_devices, *faulty(module)]


def page_of_the_checks() -> str:
    """A section for each check: what it tests, and its faults with where they are tested."""
    caught: dict[str, dict[str, list[str]]] = {code: {} for code in CHECKS}
    for framework in FRAMEWORKS:
        for layer in faults(framework):
            where = caught[layer.caught_by].setdefault(layer.fault, [])
            if framework not in where:
                where.append(framework)
    sections = [section_of(CHECKS[code], caught[code]) for code in sorted(CHECKS)]
    return "\n\n".join([INTRODUCTION, *sections]) + "\n"


def section_of(check: Spec, caught: dict[str, list[str]]) -> str:
    """A check in words, and the faults that it catches."""
    paragraphs = [f"## {check.code} {check.name}"]
    for paragraph in check.explanation.split("\n\n"):
        paragraphs.append(textwrap.fill(as_markdown(" ".join(paragraph.split())), 100))
    if caught:
        lines = []
        for fault, where in caught.items():
            some = "" if len(where) == len(FRAMEWORKS) else f" ({', '.join(where)})"
            lines.append(f"- {as_markdown(fault)}{some}")
        paragraphs += ["Catches:", "\n".join(lines)]
    return "\n\n".join(paragraphs)


def as_markdown(text: str) -> str:
    """Plain text with code in double backticks, as a docstring has it."""
    parts = re.split(r"``(.*?)``", text)
    parts[::2] = [part.replace("*", r"\*") for part in parts[::2]]
    parts[1::2] = [f"`{part}`" for part in parts[1::2]]
    return "".join(parts)


def page_with_the_claims() -> str:
    """A row for each claim, with its default and its note."""
    lines = ["| Claim | Default | Meaning |", "| --- | --- | --- |"]
    for name, note in NOTES.items():
        default = getattr(Claims(), name)
        shown = f'"{default}"' if isinstance(default, str) else repr(default)
        lines.append(f"| `{name}` | `{shown}` | {note} |")
    before, _, rest = (DOCS / "testing.md").read_text().partition(START)
    return "\n".join([f"{before}{START}\n", *lines, f"\n{END}{rest.partition(END)[2]}"])


if __name__ == "__main__":
    for path, text in pages().items():
        path.write_text(text)
