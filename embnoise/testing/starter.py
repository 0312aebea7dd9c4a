"""A test file to start from."""

from __future__ import annotations

import textwrap

from embnoise._distributions import Distribution
from embnoise._scales import ScaleRule
from embnoise.testing._case import Case
from embnoise.testing.claims import NOTES

__all__ = ["starter"]


def starter(case: Case, target: str, call: str | None) -> str:
    """A pytest file that tests a case, with every claim written out.

    Args:
        case: What to test.
        target: The factory, as ``module:name``.
        call: How the layer is called, as ``module:name``; ``None`` for the driver's way.
    """
    imports, names = [], {}
    for role, path in (("make_layer", target), ("call", call)):
        if path is not None:
            module, _, name = path.partition(":")
            names[role] = name
            imports.append(f"from {module} import {name.partition('.')[0]}")
    claims = "\n".join(
        f"{_commented(note)}\n    {name}={_written(getattr(case.claims, name))},"
        for name, note in NOTES.items()
    )
    given = f"\n    padding_id={case.padding_id}," if case.padding_id else ""
    if call is not None:
        given += f"\n    call={names['call']},"
    return f'''"""Property tests of the noise layer that {names["make_layer"]} makes.

The claims below say what the layer does; `embnoise explain EN08` explains a check.
"""

{chr(10).join(imports)}

from embnoise.testing import Claims, case, parametrize_with_checks

CLAIMS = Claims(
{claims}
)

LAYER = case(
    "{case.name}",
    {names["make_layer"]},  # {names["make_layer"]}(*, dim, alpha, seed) -> a fresh layer
    driver="{case.driver.name}",
    inputs="{case.inputs}",{given}
    claims=CLAIMS,
    expected_failures={{}},  # such as {{"EN09": "padding gets noise, see our issue 12"}}
)


@parametrize_with_checks([LAYER])
def test_{case.name.replace(".", "_")}(check):
    check()
'''


def _commented(note: str) -> str:
    return textwrap.fill(
        note.replace("`", ""), 88, initial_indent="    # ", subsequent_indent="    # "
    )


def _written(value: object) -> str:
    if isinstance(value, Distribution | ScaleRule):
        value = value.name
    return f'"{value}"' if isinstance(value, str) else repr(value)
