"""``Claims``: what a noise layer promises."""

from __future__ import annotations

import inspect
import math
from collections.abc import Callable
from dataclasses import dataclass, fields

from embnoise._scales import SCALES
from embnoise._schedules import Schedule
from embnoise._validation import check_amplitude, check_bool, check_choice, format_value

__all__ = ["Claims"]

DISTRIBUTIONS = ("uniform", "rademacher", "gaussian")


@dataclass(frozen=True)
class Claims:
    """What a layer promises. The kit tests every promise, and counts the ones that are not made.

    The defaults are those of NEFTune done right (arXiv 2310.05914).

    Attributes:
        distribution: ``"uniform"`` on +-magnitude, ``"rademacher"``, +-magnitude itself,
            ``"gaussian"`` with the magnitude as its standard deviation, or ``None``: symmetric,
            and no more is said.
        scale: the magnitude of a token: ``"neftune"``, alpha / sqrt(L * d); ``"per_token"``, alpha
            / sqrt(d); ``"absolute"``, alpha; ``"relative"``, alpha times the RMS of the sequence's
            embeddings (of the whole row's, unless ``length`` is "tokens"); or a function ``(alpha,
            L, d) -> magnitude``.
        length: what L is: ``"tokens"``, the real tokens of the sequence, padding being left
            alone; ``"padded"``, the row's width; ``None`` for a scale without lengths, with
            nothing said of padding.
        seeded: ``True``, the layer draws from its own seed and leaves global random state alone;
            ``"global"``, it follows the framework's global seed, or in JAX the key that it is
            given; ``False``, nothing is said.
        schedule: alpha at a step as a share of the alpha that ``make_layer`` got: a schedule, such
            as ``linear(1, 0, 100)``, or any function of the step. ``None``: constant.
        antithetic: whether the rows 2i and 2i + 1 of a batch get opposite noise.
        compilable: whether the layer works under its framework's compiler.
        saved_names: the names of what the layer means to save: the last parts of their names in the
            saved state. A layer that embeds ids saved_names its tables besides.
        clean_without_grad: whether there is no noise where gradients are switched off.
        distinct_ranks: whether the ranks of a data-parallel run draw different noise from one seed.
        validates_alpha: whether a negative, infinite or NaN alpha is refused with an error that names it.

    Raises:
        TypeError: an argument of the wrong type.
        ValueError: an unknown name, or an unbound schedule.

    Example:
        >>> Claims(distribution="gaussian", scale="absolute", length=None).magnitude(0.1, 9, 64)
        0.1
        >>> Claims(scale="neftun")
        Traceback (most recent call last):
            ...
        ValueError: scale must be one of ['neftune', 'per_token', 'absolute', 'relative'] or a
        function (alpha, L, d) -> magnitude, got 'neftun'
    """

    distribution: str | None = "uniform"
    scale: str | Callable[[float, int, int], float] = "neftune"
    length: str | None = "tokens"
    seeded: bool | str = True
    schedule: Callable[[int], float] | None = None
    antithetic: bool = False
    compilable: bool = True
    saved_names: tuple[str, ...] = ()
    clean_without_grad: bool = False
    distinct_ranks: bool = False
    validates_alpha: bool = False

    def __post_init__(self) -> None:
        if self.distribution is not None:
            check_choice("distribution", self.distribution, DISTRIBUTIONS)
        if self.scale not in SCALES.names() and not callable(self.scale):
            kind = ValueError if isinstance(self.scale, str) else TypeError
            raise kind(
                f"scale must be one of {SCALES.names()} or a function (alpha, L, d) -> magnitude, "
                f"got {format_value(self.scale)}"
            )
        if callable(self.scale):
            try:
                inspect.signature(self.scale).bind(1.0, 1, 1)
            except TypeError:
                raise TypeError(
                    "scale must be a function (alpha, L, d) -> magnitude, got one of the signature "
                    f"{inspect.signature(self.scale)}"
                ) from None
        if self.length not in ("tokens", "padded", None):
            raise ValueError(
                f"length must be 'tokens', 'padded' or None, got {format_value(self.length)}"
            )
        if self.length is None and self.scale == "neftune":
            raise ValueError(
                "length must be 'tokens' or 'padded' with the scale 'neftune', which needs it; "
                "got None"
            )
        if not isinstance(self.seeded, bool) and self.seeded != "global":
            raise ValueError(
                f"seeded must be True, False or 'global', got {format_value(self.seeded)}"
            )
        self._check_schedule()
        for name in (
            "antithetic",
            "compilable",
            "clean_without_grad",
            "distinct_ranks",
            "validates_alpha",
        ):
            check_bool(name, getattr(self, name))
        if isinstance(self.saved_names, str) or not all(
            isinstance(name, str) for name in self.saved_names
        ):
            raise TypeError(
                f"saved_names must be a tuple of names, got {format_value(self.saved_names)}"
            )
        object.__setattr__(self, "saved_names", tuple(self.saved_names))

    def _check_schedule(self) -> None:
        if self.schedule is None:
            return
        if not callable(self.schedule):
            raise TypeError(
                "schedule must be a function step -> share of alpha, got "
                f"{format_value(self.schedule)}"
            )
        if isinstance(self.schedule, Schedule) and not self.schedule.bound:
            raise ValueError(
                f"schedule must be bound: give {self.schedule} its steps, or call .bind(n)"
            )
        for step in range(1000):
            share = check_amplitude(f"schedule at step {step}", self.schedule(step))
            if share > 0:
                return
        raise ValueError("schedule must be above 0 at one of its first 1000 steps")

    @property
    def uses_length(self) -> bool:
        """Whether the magnitude depends on L."""
        return self.scale == "neftune" or callable(self.scale)

    @property
    def repeatable(self) -> bool:
        """Whether the kit can draw the same noise twice."""
        return self.seeded is not False

    def magnitude(self, alpha: float, length: int, dim: int, rms: float = 1.0) -> float:
        """The magnitude that a token is promised, 0 in a sequence of length 0.

        Args:
            alpha: the amplitude now.
            length: L of the token's sequence, as ``length`` says.
            dim: d.
            rms: the RMS of the embeddings of its sequence, for the scale "relative".
        """
        if length == 0:
            return 0.0
        if callable(self.scale):
            return float(self.scale(alpha, length, dim))
        return {
            "neftune": alpha / math.sqrt(length * dim),
            "per_token": alpha / math.sqrt(dim),
            "absolute": alpha,
            "relative": alpha * rms,
        }[self.scale]

    def share(self, step: int) -> float:
        """What the schedule multiplies alpha with at a step."""
        return 1.0 if self.schedule is None else float(self.schedule(step))

    def rule(self) -> str:
        """The scale as a formula, for messages."""
        if callable(self.scale):
            return "the claimed magnitude"
        return {
            "neftune": "alpha/sqrt(L*d)",
            "per_token": "alpha/sqrt(d)",
            "absolute": "alpha",
            "relative": "alpha*RMS(x)",
        }[self.scale]

    def __str__(self) -> str:
        given = [
            f"{field.name}={getattr(self, field.name)!r}"
            for field in fields(self)
            if getattr(self, field.name) != field.default
        ]
        return f"Claims({', '.join(given)})"
