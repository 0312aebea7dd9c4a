"""``Case``: a layer to test, and what it promises."""

from __future__ import annotations

import difflib
import inspect
import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any

from embnoise._validation import check_choice, format_value
from embnoise.testing.claims import Claims
from embnoise.testing.drivers import Driver, driver_of, named

__all__ = ["Case", "case"]

_KEYWORDS = ("dim", "alpha", "seed")
CALL_KEYWORDS = ("training", "mask", "step", "segment_ids")
"""What a layer, or a ``call``, is given by name."""


@dataclass(frozen=True, eq=False)
class Case:
    """A layer and its claims, made by ``case``."""

    name: str
    make_layer: Callable[..., Any]
    driver: Driver
    inputs: str
    call: Callable[..., Any] | None
    claims: Claims
    expected_failures: Mapping[str, str] = field(default_factory=dict)


def case(
    name: str,
    make_layer: Callable[..., Any],
    *,
    driver: str | Driver,
    inputs: str = "embeddings",
    call: Callable[..., Any] | None = None,
    claims: Claims | None = None,
    expected_failures: Mapping[str, str] | None = None,
) -> Case:
    """A layer to test.

    Args:
        name: what tests and reports call it. The kit's seeds depend on it.
        make_layer: ``make_layer(*, dim, alpha, seed)`` gives a fresh layer: ``dim``, the embedding
            size d, an int; ``alpha``, a float; ``seed``, an int. It is called anew for every check.
        driver: ``"numpy"``, ``"torch"``, ``"jax"``, ``"keras"``, the name of another adapter that
            is installed, or a ``Driver``.
        inputs: ``"embeddings"``, the layer takes floating-point [B, L, d]; ``"ids"``, it takes
            integers [B, L] and embeds them itself (ids of 0 to 7, 0 being padding).
        call: ``call(layer, inputs, *, training, mask, step, segment_ids)``, for a layer with
            another signature; it is given those keywords that it names, in JAX ``key`` as well, and
            hands ``training`` on. ``mask`` is boolean [B, L], ``segment_ids`` integers [B, L],
            ``step`` an int. A mask is given where there is padding, and documents where rows are
            packed, or where they have no default.
        claims: what the layer promises; ``Claims()`` by default.
        expected_failures: reasons for the checks that are known to fail, by code, or by code and
            dtype: ``{"EN09": "padding gets noise, see our issue 12", "EN08[float16]": "..."}``.

    Raises:
        TypeError: an argument of the wrong type, or a ``make_layer`` that does not take its
        keywords.
        ValueError: an unknown driver, kind of inputs or code.
        ImportError: the driver's framework is not installed.

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
        raise TypeError(f"name must be a string that is not empty, got {format_value(name)}")
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
    _takes_its_keywords(make_layer)
    if isinstance(driver, str):
        driver = driver_of(driver)
    elif isinstance(driver, type) or not isinstance(driver, Driver):
        raise TypeError(f"driver must be a name or a Driver, got {format_value(driver)}")
    check_choice("inputs", inputs, ("embeddings", "ids"))
    if call is not None:
        _can_be_called_so(call, driver)
    claims = Claims() if claims is None else claims
    if not isinstance(claims, Claims):
        raise TypeError(f"claims must be a Claims, got {format_value(claims)}")
    if not isinstance(expected_failures, Mapping | None):
        raise TypeError(
            "expected_failures must map codes to reasons, such as {'EN09': 'see our issue 12'}, "
            f"got {format_value(expected_failures)}"
        )
    expected = dict(expected_failures or {})
    _are_codes(expected)
    return Case(name, make_layer, driver, inputs, call, claims, expected)


def _takes_its_keywords(make_layer: Callable[..., Any]) -> None:
    try:
        signature = inspect.signature(make_layer)
    except (TypeError, ValueError):  # some builtins have none
        return
    try:
        signature.bind(**dict.fromkeys(_KEYWORDS))
    except TypeError as error:
        raise TypeError(
            f"make_layer must take the keywords dim, alpha and seed, as in def make_layer(*, dim, "
            f"alpha, seed); got the signature {signature}: {error}"
        ) from None


def _can_be_called_so(call: Callable[..., Any], driver: Driver) -> None:
    if not callable(call):
        raise TypeError(f"call must be a function, got {format_value(call)}")
    keywords = [*CALL_KEYWORDS, "key"] if hasattr(driver, "key") else [*CALL_KEYWORDS]
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
    if "training" not in given and not hasattr(driver, "switch"):
        raise TypeError(
            f"call must take `training` and hand it on, for the driver {driver.name!r} cannot "
            f"switch a layer's mode from outside; got the signature {inspect.signature(call)}"
        )


def _are_codes(expected: Mapping[str, str]) -> None:
    from embnoise.testing.registry import CHECKS  # noqa: PLC0415, the checks need this module

    known = {
        alias: spec.title
        for spec in CHECKS.values()
        for alias in (spec.code, spec.name, spec.title)
    }
    for code, reason in expected.items():
        if re.sub(r"\[\w+\]$", "", str(code)) not in CHECKS:
            number = re.fullmatch(r"EN0*(\d{1,2})", str(code))
            same = [f"EN{int(number[1]):02}"] if number else []
            similar = difflib.get_close_matches(str(code), known, n=1, cutoff=0.0)
            nearest = next(known[alias] for alias in (*same, *similar) if alias in known)
            raise ValueError(
                f"expected_failures has an unknown code {code!r}; the nearest is "
                f"{nearest[:4]!r} ({nearest}). `embnoise checks` lists them all."
            )
        if not isinstance(reason, str) or not reason:
            raise TypeError(
                f"expected_failures[{code!r}] must be the reason, a string, got "
                f"{format_value(reason)}"
            )
