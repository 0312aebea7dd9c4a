"""A test file to start from."""

from __future__ import annotations

from dataclasses import fields

from embnoise.testing._case import Case

__all__ = ["starter"]

_NOTES = {
    "distribution": '"uniform", "gaussian", "rademacher" or None',
    "scale": '"neftune", "per_token", "absolute", "relative", or f(alpha, L, d)',
    "length": 'L is the real "tokens" or the "padded" width; None: the scale has no L',
    "seeded": 'its own seed (True), the "global" one, or nothing said (False)',
    "schedule": "alpha at a step as a share of alpha, such as linear(1, 0, 100)",
    "antithetic": "rows 2i and 2i + 1 have opposite noise",
    "compilable": "it works under the framework's compiler",
    "saved_names": "what it means to save, by name",
    "clean_without_grad": "no noise where gradients are switched off",
    "distinct_ranks": "ranks of a data-parallel run draw different noise",
    "validates_alpha": "a negative, infinite or NaN alpha is an error",
}


def starter(case: Case, target: str, call: str | None) -> str:
    """A pytest file that tests a case, with every claim written out.

    Args:
        case: what to test.
        target: the factory, as ``module:name``.
        call: how the layer is called, as ``module:name``, if that is not the driver's way.
    """
    imports, names = [], {}
    for role, path in (("make_layer", target), ("call", call)):
        if path is not None:
            module, _, name = path.partition(":")
            names[role] = name
            imports.append(f"from {module} import {name.partition('.')[0]}")
    claims = "\n".join(
        f"    {field.name}={_written(getattr(case.claims, field.name))},  # {_NOTES[field.name]}"
        for field in fields(case.claims)
    )
    given = "" if call is None else f"\n    call={names['call']},"
    return f'''"""Property tests of the noise layer that {names["make_layer"]} makes.

`embnoise explain EN08` says what a check tests; the claims below say what the layer promises.
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


def _written(value: object) -> str:
    return f'"{value}"' if isinstance(value, str) else repr(value)
