"""``Claims``: what a noise layer claims to do."""

from __future__ import annotations

from collections.abc import Callable, Collection
from dataclasses import dataclass, fields
from functools import cached_property
from typing import Any

from embnoise._distributions import Distribution, resolve_distribution
from embnoise._scales import ScaleRule, resolve_scale
from embnoise._schedules import Schedule
from embnoise._validation import check_amplitude, check_bool, format_value
from embnoise.testing.tables import agreement

__all__ = ["FLAGS", "NOTES", "Claims"]

_MOST_EQUAL = 0.6
"""How often two draws may be equal: whole rows are then equal less than once in 1e12."""


@dataclass(frozen=True)
class Claims:
    """What a layer claims. The kit tests every claim, and counts the checks that none covers.

    The defaults are those of a correct NEFTune (arXiv 2310.05914).

    Args:
        distribution: The distribution of the noise divided by its magnitude: the name of a
            registered distribution (``"uniform"``, ``"rademacher"`` and ``"gaussian"`` are built
            in), a ``Distribution``, a quantile function, or ``None`` for a symmetric distribution
            that is not specified.
        scale: The magnitude of a token: the name of a registered rule (``"neftune"``, alpha /
            sqrt(L * d), ``"per_token"``, alpha / sqrt(d), ``"absolute"``, alpha, and
            ``"relative"``, alpha times the RMS of the embeddings, are built in), a ``ScaleRule``,
            or a function ``(alpha, L, d)``, which may also name ``rms`` and ``xp``.
        length: L: ``"tokens"``, the real tokens of the sequence, with no noise on padding;
            ``"padded"``, the row's width; or ``None`` for a scale without L, which claims nothing
            about padding. The RMS is that of the real tokens with ``"tokens"``, else of the row.
        padding: Where padding may be: ``"anywhere"``, or ``"right"`` for a layer that is given the
            lengths of the rows. No other padding is tested then.
        seeded: ``True``: the layer draws from its own seed and leaves global random state alone.
            ``"global"``: it follows the framework's global seed, or in JAX the key that it is
            given. ``False``: nothing is claimed.
        schedule: The share of ``make_layer``'s alpha at a step: a schedule, such as
            ``linear(1, 0, 100)``, or any function of the step. ``None``: alpha is constant.
        antithetic: Whether the rows 2i and 2i + 1 of a batch get opposite noise.
        compilable: Whether the layer works under its framework's compiler.
        transformations: The transformations under which the layer adds the noise of a plain call.
            PyTorch: ``"vmap"``, ``"grad_of_grad"``, ``"remat"`` (gradient checkpointing) and
            ``"opcheck"`` (its custom operators pass ``torch.library.opcheck``). JAX: ``"vmap"``,
            ``"grad_of_grad"``, ``"remat"`` and ``"sharded"`` (a batch split over the devices).
        framework_test: Whether the layer passes its framework's own test of layers. Keras:
            ``run_layer_test``, which makes the layer again from its configuration, calls it
            symbolically, and trains it in ``fit`` and in mixed precision.
        saved_names: The names of what the layer saves on purpose: the last parts of names in the
            saved state. The weights of a layer that embeds ids, which neither calls nor alpha
            change, are allowed anyway.
        clean_without_grad: Whether there is no noise while gradients are turned off.
        distinct_ranks: Whether the ranks of a data-parallel run draw different noise from one seed.
        validates_alpha: Whether a negative, infinite or NaN alpha raises an error that names it.

    Raises:
        TypeError: An argument has the wrong type.
        ValueError: A name is unknown, the schedule is unbound or negative, or the distribution is
            not symmetric or repeats its values too often.

    Example:
        >>> Claims(distribution="gaussian", scale="absolute", length=None).magnitude(0.1, 9, 64)
        0.1
        >>> Claims(length="rows")
        Traceback (most recent call last):
            ...
        ValueError: length must be 'tokens', 'padded' or None, got 'rows'
    """

    distribution: str | Distribution | Callable[[float], float] | None = "uniform"
    scale: str | ScaleRule | Callable[..., Any] = "neftune"
    length: str | None = "tokens"
    padding: str = "anywhere"
    seeded: bool | str = True
    schedule: Callable[[int], float] | None = None
    antithetic: bool = False
    compilable: bool = True
    transformations: tuple[str, ...] = ()
    framework_test: bool = False
    saved_names: tuple[str, ...] = ()
    clean_without_grad: bool = False
    distinct_ranks: bool = False
    validates_alpha: bool = False

    def __post_init__(self) -> None:
        rule = self.distribution_rule
        if rule is not None and (equal := agreement(rule)) > _MOST_EQUAL:
            raise ValueError(
                "distribution must have varied values, or equal noise would show nothing: two "
                f"draws of {rule.name!r} are equal with probability {equal:.2g}, above "
                f"{_MOST_EQUAL}"
            )
        if self.length not in ("tokens", "padded", None):
            raise ValueError(
                f"length must be 'tokens', 'padded' or None, got {format_value(self.length)}"
            )
        if self.padding not in ("anywhere", "right"):
            raise ValueError(
                f"padding must be 'anywhere' or 'right', got {format_value(self.padding)}"
            )
        scale = self.scale_rule
        if self.length is None and scale.uses_length:
            raise ValueError(
                f"length must be 'tokens' or 'padded' with the scale {scale.name!r}, "
                "which depends on L; got None"
            )
        if not isinstance(self.seeded, bool) and self.seeded != "global":
            raise ValueError(
                f"seeded must be True, False or 'global', got {format_value(self.seeded)}"
            )
        self._check_schedule()
        for name in FLAGS:
            check_bool(name, getattr(self, name))
        for each in ("transformations", "saved_names"):
            names = getattr(self, each)
            if not _are_names(names):
                raise TypeError(f"{each} must be a tuple of names, got {format_value(names)}")
            object.__setattr__(self, each, tuple(names))

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
        if not max(self.share(step) for step in range(1000)):
            raise ValueError("schedule must be above 0 at one of its first 1000 steps")

    @cached_property
    def distribution_rule(self) -> Distribution | None:
        """The distribution, which ``distribution`` may only name; ``None`` if not specified."""
        return None if self.distribution is None else resolve_distribution(self.distribution)

    @cached_property
    def scale_rule(self) -> ScaleRule:
        """The scale rule, which ``scale`` may only name."""
        return resolve_scale(self.scale)

    @property
    def formula(self) -> str:
        """The scale as a formula, for messages."""
        anonymous = self.scale_rule.name.startswith("<")
        return "the claimed magnitude" if anonymous else self.scale_rule.formula

    @property
    def alpha_is_magnitude(self) -> bool:
        """Whether the magnitude is alpha, whatever the sizes and the embeddings are."""
        rule = self.scale_rule
        return not rule.uses_rms and self.magnitude(0.25, 3, 16) == 0.25 == self.magnitude(
            0.25, 48, 64
        )

    @property
    def repeatable(self) -> bool:
        """Whether the kit can draw the same noise twice."""
        return self.seeded is not False

    def magnitude(self, alpha: float, length: int, dim: int, rms: float = 1.0) -> float:
        """The claimed magnitude of a token; 0 in a sequence of length 0.

        Args:
            alpha: Alpha at the step.
            length: L of the token's sequence, as ``length`` defines it.
            dim: d.
            rms: The RMS of the embeddings of its sequence, for a scale that uses it.
        """
        if length == 0:
            return 0.0
        return float(self.scale_rule(float(alpha), float(length), float(dim), rms))

    def share(self, step: int) -> float:
        """The factor of alpha at a step.

        Raises:
            TypeError: The schedule does not take a step, or returns no number.
            ValueError: The factor is negative or not finite, or the schedule raised an error.
        """
        if self.schedule is None:
            return 1.0
        try:
            share = self.schedule(step)
        except Exception as error:
            raise (TypeError if isinstance(error, TypeError) else ValueError)(
                "schedule must be a function step -> share of alpha, for any step; at step "
                f"{step}, {format_value(self.schedule)} raised {type(error).__name__}: {error}"
            ) from error
        return float(check_amplitude(f"schedule at step {step}", share))

    def __str__(self) -> str:
        given = [
            f"{each.name}={_shown(getattr(self, each.name))}"
            for each in fields(self)
            if getattr(self, each.name) != each.default
        ]
        return f"Claims({', '.join(given)})"


def _are_names(value: object) -> bool:
    return (
        isinstance(value, Collection)
        and not isinstance(value, str)
        and all(isinstance(name, str) for name in value)
    )


def _shown(value: object) -> str:
    return value.name if isinstance(value, Distribution | ScaleRule) else repr(value)


NOTES = {
    "distribution": '`"uniform"`: on +-magnitude; `"rademacher"`: +-magnitude; `"gaussian"`: the '
    "magnitude is the standard deviation; another registered name, a `Distribution` or a quantile "
    "function; `None`: symmetric.",
    "scale": '`"neftune"`: alpha / sqrt(L * d); `"per_token"`: alpha / sqrt(d); `"absolute"`: '
    'alpha; `"relative"`: alpha * RMS; another registered name, a `ScaleRule` or a function '
    "`(alpha, L, d)`.",
    "length": '`"tokens"`: L counts real tokens, and padding gets no noise; `"padded"`: L is the '
    "width of the row; `None`: the scale does not use L.",
    "padding": '`"anywhere"`; `"right"`: the layer is given the lengths of the rows, and no other '
    "padding is tested.",
    "seeded": "`True`: the layer has its own seed and does not use global random state; "
    '`"global"`: it follows the global seed; `False`: no claim.',
    "schedule": "Alpha at a step, relative to the alpha of `make_layer`; `None`: alpha is "
    "constant.",
    "antithetic": "Rows 2i and 2i + 1 have opposite noise.",
    "compilable": "The layer works under `torch.compile`, `jax.jit`, `tf.function`.",
    "transformations": "The layer adds the same noise under these transformations, by name: "
    '`("vmap", "remat")`, for example.',
    "framework_test": "The layer passes its framework's own test of layers, Keras's "
    "`run_layer_test`.",
    "saved_names": "The names of the entries that the layer saves on purpose.",
    "clean_without_grad": "No noise if gradients are disabled, as in `generate()` and reference "
    "passes.",
    "distinct_ranks": "The ranks of a data-parallel run draw different noise.",
    "validates_alpha": "A negative, infinite or NaN alpha raises an error that names it.",
}
"""What each claim means, in Markdown, for the documentation, the command line and test files."""

FLAGS = tuple(each.name for each in fields(Claims) if each.type == "bool")
"""The claims that are True or False."""
