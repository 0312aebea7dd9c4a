"""Scale rules: the magnitude of a token's noise as a function of alpha, L and d.

L is the length of the token's sequence, d the embedding size. The order of the operations is part
of the specification: in float32 it gives the same bits on every backend.

This file holds the class and all built-in rules.
"""

from __future__ import annotations

import inspect
from collections.abc import Callable
from dataclasses import dataclass
from functools import cached_property
from typing import Any

from embnoise._arrays import NUMPY, Array, ArrayNamespace, Scalar
from embnoise._registry import Registry
from embnoise._validation import can_take, check_amplitude, check_callable, format_value

__all__ = ["SCALES", "ScaleRule", "resolve_scale"]

SCALES: Registry[ScaleRule] = Registry("scale")


@dataclass(frozen=True)
class ScaleRule:
    """How large a token's noise is.

    Args:
        name: What configurations, errors and ``repr`` call it.
        function: ``function(alpha, L, d)``, the magnitude. It may also take the keywords ``rms``,
            the root mean square of the embeddings of the token's sequence, and ``xp``, the array
            namespace of its arguments: float32 arrays, or plain floats.
        formula: The rule as text, for messages and documentation.

    Example:
        >>> import embnoise
        >>> per_length = embnoise.ScaleRule("per_length", lambda alpha, L, d: alpha / L)
        >>> per_length(5.0, 10.0, 64.0)
        0.5
        >>> noise = embnoise.Noise(5.0, scale=per_length)
    """

    name: str
    function: Callable[..., Any]
    formula: str = ""

    def __post_init__(self) -> None:
        if not isinstance(self.name, str) or not self.name:
            raise TypeError(f"name must be a non-empty string, got {format_value(self.name)}")
        check_callable("function", self.function)
        if not can_take(self.function, 1.0, 1.0, 1.0, **dict.fromkeys(self._keywords)):
            raise TypeError(
                "scale must be a function (alpha, L, d) -> magnitude, which may also take rms and "
                f"xp by name, got one of the signature {inspect.signature(self.function)}"
            )
        if not isinstance(self.formula, str):
            raise TypeError(f"formula must be a string, got {format_value(self.formula)}")
        check_amplitude(f"{self.name}(alpha=1, L=8, d=64)", self._example())
        object.__setattr__(self, "formula", self.formula or f"{self.name}(alpha, L, d)")

    def _example(self) -> Any:
        try:
            return self(1.0, 8.0, 64.0, rms=1.0)
        except Exception as error:
            raise (TypeError if isinstance(error, TypeError) else ValueError)(
                "scale must be a function (alpha, L, d) -> magnitude; called with alpha=1, L=8, "
                f"d=64, {self.name!r} raised {type(error).__name__}: {error}"
            ) from error

    @cached_property
    def _keywords(self) -> tuple[str, ...]:
        try:
            parameters = inspect.signature(self.function).parameters
        except (TypeError, ValueError):  # some builtins have no signature
            return ()
        return tuple(name for name in ("rms", "xp") if name in parameters)

    def __reduce__(self) -> Any:
        # A registered rule is pickled by name: its function may be a lambda.
        if SCALES.holds(self.name, self):
            return resolve_scale, (self.name,)
        return ScaleRule, (self.name, self.function, self.formula)

    def __call__(
        self,
        alpha: Scalar,
        length: Scalar,
        dim: Scalar,
        rms: Scalar | None = None,
        xp: ArrayNamespace = NUMPY,
    ) -> Any:
        """The magnitude of a token's noise.

        Args:
            alpha: The amplitude.
            length: L.
            dim: d.
            rms: The RMS of the embeddings of the token's sequence, for a rule that uses it.
            xp: The array namespace of the arguments.
        """
        available = {"rms": rms, "xp": xp}
        keywords = {name: available[name] for name in self._keywords}
        return self.function(alpha, length, dim, **keywords)

    @property
    def uses_rms(self) -> bool:
        """Whether the magnitude depends on the embeddings."""
        return "rms" in self._keywords

    @cached_property
    def uses_length(self) -> bool:
        """Whether the magnitude depends on L."""
        short, long = (float(self(1.0, length, 16.0, rms=1.0)) for length in (3.0, 48.0))
        return short != long


def _neftune(alpha: Array, length: Array, dim: Array, *, xp: ArrayNamespace) -> Array:
    """``alpha / sqrt(L * d)`` (Jain et al., arXiv 2310.05914, algorithm 1)."""
    return xp.divide(alpha, xp.sqrt(length * dim))


def _per_token(alpha: Array, length: Array, dim: Array, *, xp: ArrayNamespace) -> Array:
    """``alpha / sqrt(d)``: the same whatever the length."""
    return xp.divide(alpha, xp.sqrt(dim))


def _absolute(alpha: Array, length: Array, dim: Array) -> Array:
    """``alpha`` itself."""
    return alpha


def _relative(alpha: Array, length: Array, dim: Array, *, rms: Array) -> Array:
    """``alpha`` times the RMS of the embeddings of the token's sequence, without a gradient."""
    return alpha * rms


for _name, _function, _formula in (
    ("neftune", _neftune, "alpha/sqrt(L*d)"),
    ("per_token", _per_token, "alpha/sqrt(d)"),
    ("absolute", _absolute, "alpha"),
    ("relative", _relative, "alpha*RMS(x)"),
):
    SCALES.add(_name, ScaleRule(_name, _function, _formula), defined_by=_function)


def resolve_scale(value: object) -> ScaleRule:
    """The scale rule of a registered name, of a function ``(alpha, L, d)``, or the one given.

    Raises:
        TypeError: ``value`` is none of these.
        ValueError: The name is not registered.
    """
    if isinstance(value, ScaleRule):
        return value
    if callable(value):
        return ScaleRule(getattr(value, "__name__", type(value).__name__), value)
    if not isinstance(value, str):
        raise TypeError(
            f"scale must be one of {SCALES.names()}, a ScaleRule or a function (alpha, L, d), got "
            f"{format_value(value)}"
        )
    return SCALES[value]
