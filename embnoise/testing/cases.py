"""``case``: describes a layer to test, and checks the description."""

from __future__ import annotations

import difflib
import inspect
import re
from collections.abc import Callable, Mapping
from typing import Any

from embnoise._validation import check_choice, check_integer, format_value
from embnoise.testing._case import Case
from embnoise.testing.checks import CHECKS
from embnoise.testing.claims import Claims
from embnoise.testing.drivers import Driver, DriverBase, completed, named
from embnoise.testing.find_driver import driver_of
from embnoise.testing.guarded import guarded

__all__ = ["by_code", "case", "check_applies", "check_make_layer"]

_KEYWORDS = ("dim", "alpha", "seed")
_CALL_KEYWORDS = ("training", "mask", "step", "segment_ids")
"""The keywords that a layer or a user's ``call`` may name."""


def case(
    name: str,
    make_layer: Callable[..., Any],
    *,
    driver: str | Driver,
    inputs: str = "embeddings",
    padding_id: int = 0,
    call: Callable[..., Any] | None = None,
    claims: Claims | None = None,
    expected_failures: Mapping[str, str] | None = None,
) -> Case:
    """Describe a layer to test.

    Args:
        name: The name in tests and reports. The kit's seeds depend on it.
        make_layer: ``make_layer(*, dim, alpha, seed)`` returns a fresh layer, given the embedding
            size d (an int), alpha (a float) and a seed (an int). Every check calls it.
        driver: ``"numpy"``, ``"torch"``, ``"jax"``, ``"keras"``, the name of another installed
            adapter, or a ``Driver``.
        inputs: ``"embeddings"``: the layer takes floating-point [B, L, d]. ``"ids"``: it takes
            integers [B, L], 0 to 7, and embeds them itself.
        padding_id: The id of padding, for ``"ids"``. If it is above 7, it is the largest id.
        call: ``call(layer, inputs, *, training, mask, step, segment_ids)``, for a layer with
            another signature. It receives the keywords that it names (in JAX also ``key``), and
            passes ``training`` on. ``mask`` is boolean [B, L], ``segment_ids`` integers [B, L],
            ``step`` an int. ``mask`` is passed if there is padding, ``segment_ids`` if rows are
            packed, and either if it has no default.
        claims: What the layer claims. Default: ``Claims()``.
        expected_failures: Reasons for the checks that are known to fail, by code, or by code and
            dtype: ``{"EN09": "padding gets noise, see our issue 12", "EN08[float16]": "..."}``.
            The code may be followed by the name, as in reports: ``"EN09_padding_untouched"``.

    Raises:
        TypeError: An argument has the wrong type, or ``make_layer`` does not take its keywords.
        ValueError: The driver, the kind of inputs, or a code is unknown.
        ImportError: The driver's framework is not installed.

    Example:
        >>> import numpy as np
        >>> import embnoise
        >>> def make_layer(*, dim, alpha, seed):
        ...     noise = embnoise.neftune(alpha, seed=seed)
        ...     def layer(x, *, training, mask, step):
        ...         return embnoise.add_noise(x, noise, training=training, mask=mask, step=step)
        ...     return layer
        >>> from embnoise.testing import case, check_layer
        >>> mine = case("add_noise", make_layer, driver="numpy")
        >>> check_layer(mine, profile="quick").ok
        True
    """
    if not isinstance(name, str) or not name:
        raise TypeError(f"name must be a non-empty string, got {format_value(name)}")
    check_make_layer(make_layer)
    if isinstance(driver, str):
        driver = driver_of(driver)
    elif isinstance(driver, type) or not isinstance(driver, Driver):
        raise TypeError(f"driver must be a name or a Driver, got {format_value(driver)}")
    driver = guarded(completed(driver))
    check_choice("inputs", inputs, ("embeddings", "ids"))
    padding_id = check_integer("padding_id", padding_id, minimum=0)
    if padding_id and inputs != "ids":
        raise ValueError(f"padding_id={padding_id} is for inputs='ids', got inputs={inputs!r}")
    if call is not None:
        _check_call(call, driver)
    claims = Claims() if claims is None else claims
    if not isinstance(claims, Claims):
        raise TypeError(f"claims must be a Claims, got {format_value(claims)}")
    if claims.transformations and not driver.transformations:
        raise ValueError(
            f"transformations must be empty for the driver {driver.name!r}, which has none, got "
            f"{claims.transformations}"
        )
    if claims.framework_test and not driver.overrides("framework_test"):
        raise ValueError(
            f"framework_test must be False for the driver {driver.name!r}, whose framework has no "
            "test of layers, got True"
        )
    for each in claims.transformations:
        check_choice("transformations", each, driver.transformations)
    if not isinstance(expected_failures, Mapping | None):
        raise TypeError(
            "expected_failures must map codes to reasons, such as {'EN09': 'see our issue 12'}, "
            f"got {format_value(expected_failures)}"
        )
    expected = by_code(expected_failures or {})
    made = Case(name, make_layer, driver, inputs, call, claims, padding_id, expected)
    for code in expected:
        check_applies(made, code)
    return made


def check_applies(case: Case, code: str) -> None:
    """Check that an expected failure is of a check, and a dtype, that the case is tested with.

    Raises:
        ValueError: It is not.
    """
    bare, _, dtype = code.rstrip("]").partition("[")
    spec = CHECKS[bare]
    tested = spec.tested(case.dtypes)
    if dtype:
        check_choice(f"the dtype of {code}", dtype, case.dtypes)
    if case.inputs not in spec.inputs or (dtype and dtype not in tested):
        raise ValueError(
            f"{code} is stale: the check does not apply to {case.name} ({case.inputs}, "
            f"{' '.join(tested)})"
        )


def check_make_layer(make_layer: Any) -> None:
    """Check that something makes layers.

    Raises:
        TypeError: It is a layer, cannot be called, or does not take its keywords.
    """
    if not isinstance(make_layer, type) and hasattr(make_layer, "forward"):
        raise TypeError(
            "make_layer must be a function that makes layers, as in def make_layer(*, dim, alpha, "
            f"seed): return ...; got the layer {format_value(make_layer)}"
        )
    if not callable(make_layer):
        raise TypeError(
            "make_layer must be a function of dim, alpha and seed that returns a layer, got "
            f"{format_value(make_layer)}"
        )
    try:
        signature = inspect.signature(make_layer)
    except (TypeError, ValueError):  # some builtins have no signature
        return
    try:
        signature.bind(**dict.fromkeys(_KEYWORDS))
    except TypeError as error:
        raise TypeError(
            f"make_layer must take the keywords dim, alpha and seed, as in def make_layer(*, dim, "
            f"alpha, seed); got the signature {signature}: {error}"
        ) from None


def _check_call(call: Callable[..., Any], driver: DriverBase) -> None:
    if not callable(call):
        raise TypeError(f"call must be a function, got {format_value(call)}")
    keywords = [*_CALL_KEYWORDS] if driver.key is None else [*_CALL_KEYWORDS, "key"]
    given = named(call, dict.fromkeys(keywords))
    try:
        inspect.signature(call).bind(None, None, **given)
    except TypeError as error:
        raise TypeError(
            f"call must take (layer, inputs) and, by name, any of {keywords}; got the signature "
            f"{inspect.signature(call)}: {error}"
        ) from None
    except ValueError:  # some builtins have no signature
        return
    if "training" not in given and not driver.overrides("switch"):
        raise TypeError(
            f"call must take `training` and pass it on, since the driver {driver.name!r} cannot "
            f"switch a layer's mode from outside; got the signature {inspect.signature(call)}"
        )


def by_code(expected: Mapping[str, str]) -> dict[str, str]:
    """Expected failures by code, whose keys may be titles: ``EN09_padding_untouched[float16]``.

    Raises:
        ValueError: A code is unknown, or is given twice.
        TypeError: A code or a reason is not a string, or a reason is empty.
    """
    known = {
        alias: spec.title
        for spec in CHECKS.values()
        for alias in (spec.code, spec.name, spec.title)
    }
    titles = {spec.title: spec.code for spec in CHECKS.values()}
    found: dict[str, str] = {}
    for code, reason in expected.items():
        if not isinstance(code, str):
            raise TypeError(
                "expected_failures must have codes of checks as keys, such as 'EN09', got "
                f"{format_value(code)}"
            )
        title, bracket, dtype = code.partition("[")
        bare = titles.get(title, title)
        if bare not in CHECKS or not re.fullmatch(r"(\[\w+\])?", bracket + dtype):
            number = re.fullmatch(r"EN0*(\d{1,2})", code)
            same = [f"EN{int(number[1]):02}"] if number else []
            similar = difflib.get_close_matches(code, known, n=1, cutoff=0.0)
            nearest = next(known[alias] for alias in (*same, *similar) if alias in known)
            raise ValueError(
                f"expected_failures has an unknown code {code!r}; the nearest is "
                f"{nearest[:4]!r} ({nearest}). `embnoise checks` lists all codes."
            )
        if not isinstance(reason, str) or not reason:
            raise TypeError(
                f"expected_failures[{code!r}] must be the reason, a string, got "
                f"{format_value(reason)}"
            )
        if (key := f"{bare}{bracket}{dtype}") in found:
            raise ValueError(f"expected_failures has {key} twice, the second time as {code!r}")
        found[key] = reason
    return found
