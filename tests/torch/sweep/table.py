"""The documentation's tables of model types.

    python -m tests.torch.sweep.table

writes them into docs/models.md.
"""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path

from tests.torch.sweep import expectations

PAGE = Path(__file__).parents[3] / "docs" / "models.md"
END = "<!-- end of the table -->"


def code(names: Iterable[str]) -> str:
    """Names in alphabetical order."""
    return ", ".join(f"`{name}`" for name in sorted(names))


def summary() -> str:
    """How many types there are of each kind."""
    types = set(expectations.TYPES)
    asked = {*expectations.REFUSED, *expectations.WITHOUT_A_MASK}
    lines = [
        f"| transformers {expectations.VERSION} | Model types |",
        "| --- | --- |",
        f"| Need no argument | {len(types - asked - set(expectations.WRONG))} |",
        f"| Need `layer=` or `tokens=` | {len(asked)} |",
    ]
    if expectations.WRONG:
        lines.append(f"| Get wrong noise in padded batches | {len(expectations.WRONG)} |")
    return "\n".join([*lines, f"| Not run | {len(expectations.NOT_RUN)} |"])


def arguments() -> str:
    """What to pass for the types that need an argument."""
    lines = ["| Model types | Pass | Without it |", "| --- | --- | --- |"]
    by_layer: dict[str, list[str]] = {}
    for name, refusal in expectations.REFUSED.items():
        if "layer" in refusal.arguments:
            by_layer.setdefault(refusal.arguments["layer"], []).append(name)
    for layer, names in sorted(by_layer.items()):
        warned = any(expectations.REFUSED[name].message == "got no noise" for name in names)
        without = "a warning: no noise" if warned else "an error"
        lines.append(f'| {code(names)} | `layer="{layer}"` | {without} |')
    lines.append(
        f'| {code(expectations.WITHOUT_A_MASK)} | `tokens=lambda ids: {{"mask": ids != pad}}` | '
        "L is the width of the row: their forward takes no mask |"
    )
    lines.extend(
        f"| `{name}` | nothing helps | wrong noise: {why} |"
        for name, why in expectations.WRONG.items()
    )
    return "\n".join(lines)


def all_types() -> str:
    """Every type that is run."""
    return code(expectations.TYPES)


def not_run() -> str:
    """The types that are not run, by the reason."""
    reasons: dict[str, list[str]] = {}
    for name, reason in expectations.NOT_RUN.items():
        reasons.setdefault(reason, []).append(name)
    return "\n".join(f"- {code(names)}: {reason}." for reason, names in reasons.items())


TABLES = {
    f"<!-- {table.__name__}: python -m tests.torch.sweep.table -->": table
    for table in (summary, arguments, all_types, not_run)
}


def page_with_the_tables() -> str:
    """The page as it should be."""
    page = PAGE.read_text()
    for start, table in TABLES.items():
        before, _, rest = page.partition(start)
        page = f"{before}{start}\n{table()}\n{END}{rest.partition(END)[2]}"
    return page


if __name__ == "__main__":
    PAGE.write_text(page_with_the_tables())
