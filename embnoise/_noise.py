"""``Noise``, the one configuration object, and the published recipes that make it."""

from __future__ import annotations

import hashlib
import inspect
from collections.abc import Callable, Mapping
from dataclasses import MISSING, dataclass, fields, replace
from functools import cached_property
from typing import Any, TypeAlias

import numpy as np

from embnoise._arrays import NUMPY, ArrayNamespace
from embnoise._distributions import DISTRIBUTIONS, UNIFORM, Distribution, resolve_distribution
from embnoise._scales import SCALES, ScaleRule, resolve_scale
from embnoise._schedules import Schedule, schedule_from_dict
from embnoise._validation import (
    can_take,
    check_amplitude,
    check_bool,
    check_choice,
    check_integer,
    check_keys,
    check_seed,
    format_value,
    is_array,
)

__all__ = ["Noise", "as_noise", "check_noise", "neftune", "symnoise"]

_FORMAT = 1
_ALPHA = "a number, a schedule or a function of the step"

Alpha: TypeAlias = float | Schedule | Callable[[Any], Any]


@dataclass(frozen=True)
class Noise:
    """What noise to add: frozen, hashable, and written to JSON by ``to_dict``.

    Args:
        alpha: The amplitude, at least 0: a number, a schedule, or any callable step -> alpha (such
            as an Optax schedule or a Keras ``LearningRateSchedule``). In compiled code it may be a
            traced 0-d array.
        distribution: The name of a registered distribution (``"uniform"``, ``"rademacher"`` and
            ``"gaussian"`` are built in), a ``Distribution``, or a quantile function.
        scale: The magnitude of a token, with L its sequence's length and d the embedding size: the
            name of a registered rule, a ``ScaleRule``, or a function ``(alpha, L, d)``. Built in
            are ``"neftune"``, alpha / sqrt(L * d) (arXiv 2310.05914, algorithm 1);
            ``"per_token"``, alpha / sqrt(d); ``"absolute"``, alpha; and ``"relative"``, alpha
            times the RMS of the embeddings of the token's sequence, with no gradient through it.
        length: L: ``"tokens"``, the real tokens of the sequence, or of its segment in a packed
            row; ``"padded"``, the row's width; or a number.
        match: ``"support"``: the magnitude multiplies the unit values as published (the uniform
            distribution's half-width, the Gaussian's standard deviation). ``"rms"``: every
            distribution has the RMS of the uniform one, magnitude / sqrt(3).
        antithetic: Samples 2i and 2i + 1 share the draw of sample 2i, with opposite signs
            (SymNoise, arXiv 2312.01523).
        seed: Any int, counted modulo 2**64; in JAX also a ``jax.random.key``, traced or not, where
            ``jax.random.key(n)`` is the same seed as n. ``None`` means the run's own seed, which a
            trainer integration fills in through ``bind``; elsewhere it counts as 0.
        stream: A name that makes an independent noise of the same seed.

    Raises:
        TypeError: An argument of the wrong type.
        ValueError: An argument out of range, or an unknown name.

    Example:
        >>> from embnoise import Noise
        >>> noise = Noise(5.0, distribution="gaussian", seed=7)
        >>> Noise.from_dict(noise.to_dict()) == noise
        True
    """

    alpha: Alpha
    distribution: str | Distribution | Callable[[float], float] = "uniform"
    scale: str | ScaleRule | Callable[..., Any] = "neftune"
    length: str | int = "tokens"
    match: str = "support"
    antithetic: bool = False
    seed: Any = None
    stream: str = ""

    def __post_init__(self) -> None:
        if not callable(self.alpha):
            alpha = check_amplitude("alpha", self.alpha, accepted=_ALPHA)
            object.__setattr__(self, "alpha", alpha)
        elif not can_take(self.alpha, 0):
            raise TypeError(
                f"alpha must be a function of the step, got {format_value(self.alpha)} of the "
                f"signature {inspect.signature(self.alpha)}"
            )
        _ = self._distribution, self._scale  # those that have the names now; raises if none has
        if isinstance(self.length, str):
            if self.length not in ("tokens", "padded"):
                raise ValueError(
                    f"length must be 'tokens', 'padded' or an integer, got {self.length!r}"
                )
        else:
            object.__setattr__(self, "length", check_integer("length", self.length, minimum=1))
        check_choice("match", self.match, ("support", "rms"))
        check_bool("antithetic", self.antithetic)
        object.__setattr__(self, "seed", check_seed("seed", self.seed))
        if not isinstance(self.stream, str):
            raise TypeError(f"stream must be a string, got {format_value(self.stream)}")
        try:
            self.stream.encode()
        except UnicodeEncodeError:
            raise ValueError(f"stream must be text in Unicode, got {self.stream!r}") from None

    def __eq__(self, other: object) -> bool:
        """Whether settings are equal, and names mean the same: a rule may be registered again.

        A ``jax.random.key`` is equal to no number.
        """
        if type(other) is not type(self):
            return NotImplemented
        return self._compared == other._compared and _are_equal(self.seed, other.seed)

    def __hash__(self) -> int:
        # Without the seed: a key of JAX has no hash.
        rules = self.alpha, self.distribution, self.scale, self.length
        return hash((rules, self.match, self.antithetic, self.stream))

    @property
    def _compared(self) -> tuple[Any, ...]:
        """All settings but the seed, which may be an array."""
        settings = (getattr(self, field.name) for field in fields(self) if field.name != "seed")
        return (*settings, self._distribution, self._scale)

    def alpha_at(self, step: Any, xp: ArrayNamespace = NUMPY) -> Any:
        """Alpha at a step.

        Args:
            step: An int of at least 0, or an integer array of the namespace ``xp``.
            xp: The array namespace of ``step`` if that is an array; NumPy by default.

        Returns:
            A float for an int; for an array, what the schedule returns.

        Raises:
            TypeError: ``step`` is neither an int nor an array.
            ValueError: The schedule is unbound, ``step`` is negative, or alpha is negative, NaN or
                infinite there.

        Example:
            >>> from embnoise import linear, neftune
            >>> neftune(alpha=linear(5.0, 0.0, 100)).alpha_at(50)
            2.5
        """
        if not is_array(step) or isinstance(step, np.generic):
            step = check_integer("step", step, minimum=0)
        return self._alpha_at(step, xp)

    def _alpha_at(self, step: Any, xp: ArrayNamespace) -> Any:
        """``alpha_at`` for an int or an array, checked."""
        if not callable(self.alpha):
            return self.alpha
        value = self.alpha(step, xp) if isinstance(self.alpha, Schedule) else self.alpha(step)
        one_number = isinstance(step, int)
        return check_amplitude(f"alpha at step {step}", value) if one_number else value

    def bind(self, total_steps: int | None = None, *, seed: int | None = None) -> Noise:
        """The noise of one run: what the run alone knows is filled in.

        Args:
            total_steps: How many steps the run has: the end of a schedule with ``steps=None``.
            seed: The run's seed, taken where ``self.seed`` is ``None``.

        Raises:
            TypeError: An argument of the wrong type.
            ValueError: ``total_steps`` leaves no step for a schedule with ``steps=None``.

        Example:
            >>> from embnoise import linear, neftune
            >>> noise = neftune(alpha=linear(5.0, 0.0)).bind(1000, seed=42)
            >>> noise.alpha_at(500), noise.seed
            (2.5, 42)
        """
        filled: dict[str, Any] = {}
        if total_steps is not None:
            total_steps = check_integer("total_steps", total_steps, minimum=1)
            if isinstance(self.alpha, Schedule):
                filled["alpha"] = self.alpha.bind(total_steps)
        if seed is not None and self.seed is None:
            filled["seed"] = check_integer("seed", seed)
        return replace(self, **filled)

    def to_dict(self) -> dict[str, Any]:
        """A JSON-ready description, which ``from_dict`` reads back.

        Raises:
            TypeError: Alpha, the distribution or the scale is a callable that is not registered.
        """
        values = {field.name: getattr(self, field.name) for field in fields(self)}
        if isinstance(self.alpha, Schedule):
            values["alpha"] = self.alpha.to_dict()
        elif callable(self.alpha):
            raise TypeError(
                f"alpha must be a number or a registered schedule to be saved, got {self.alpha!r}"
            )
        values["distribution"] = self._saved_name("distribution", self._distribution, DISTRIBUTIONS)
        values["scale"] = self._saved_name("scale", self._scale, SCALES)
        if self.seed is not None:
            check_integer("seed", self.seed)
        return {"embnoise": _FORMAT, **values}

    def _saved_name(self, field: str, rule: Any, registry: Any) -> str:
        if not registry.holds(rule.name, rule):
            raise TypeError(
                f"{field} must be registered to be saved, got {getattr(self, field)!r}; call "
                f"embnoise.register on it"
            )
        return str(rule.name)

    @classmethod
    def from_dict(cls, data: Mapping[str, Any]) -> Noise:
        """The noise that ``to_dict`` described.

        Raises:
            TypeError: ``data`` is not a mapping, or a value is of the wrong type.
            ValueError: An unknown or missing key, another format, or a value out of range.
        """
        if not isinstance(data, Mapping):
            raise TypeError(f"data must be a mapping, got {format_value(data)}")
        values = dict(data)
        version = values.pop("embnoise", None)
        if isinstance(version, bool) or version != _FORMAT:
            hint = "" if version is not None else ". To make a noise, use neftune() or Noise()"
            raise ValueError(
                f"embnoise, the format version that Noise.to_dict() writes, must be {_FORMAT}, got "
                f"{version!r}{hint}"
            )
        required = [field.name for field in fields(cls) if field.default is MISSING]
        check_keys("data", values, [field.name for field in fields(cls)], required)
        if isinstance(values["alpha"], Mapping):
            values["alpha"] = schedule_from_dict(values["alpha"])
        return cls(**values)

    @property
    def _scheduled(self) -> bool:
        """Whether alpha depends on the step."""
        return callable(self.alpha)

    @cached_property
    def _distribution(self) -> Distribution:
        return resolve_distribution(self.distribution)

    @cached_property
    def _scale(self) -> ScaleRule:
        return resolve_scale(self.scale)

    @cached_property
    def _rms_factor(self) -> float:
        """What ``match`` multiplies the magnitude by: 1 for "support" and for the uniform."""
        if self.match == "support" or self._distribution is UNIFORM:
            return 1.0
        return float(np.float32(3**-0.5 / self._distribution.rms))

    @cached_property
    def _key(self) -> tuple[int, int]:
        """The Philox key (k0, k1) of ``seed`` and ``stream``."""
        seed = 0 if self.seed is None else check_integer("seed", self.seed) % 2**64
        low, high = self._stream_key
        return seed % 2**32 ^ low, seed >> 32 ^ high

    @cached_property
    def _stream_key(self) -> tuple[int, int]:
        """The Philox key of seed 0 and ``stream``."""
        if not self.stream:
            return 0, 0
        digest = hashlib.sha256(self.stream.encode()).digest()
        return int.from_bytes(digest[:4], "little"), int.from_bytes(digest[4:8], "little")


def _are_equal(seed: Any, other: Any) -> bool:
    """Whether seeds are equal: numbers, ``None``, or keys of JAX."""
    if is_array(seed) != is_array(other):
        return False
    try:
        return seed is other or bool(seed == other)
    except TypeError:  # keys of two generators, or of a value that is not known yet
        return False


def check_noise(noise: object) -> Noise:
    """``noise`` if it is a ``Noise``.

    Raises:
        TypeError: It is not; for a number, the message hints at ``neftune``.
    """
    if isinstance(noise, Noise):
        return noise
    number = isinstance(noise, int | float) and not isinstance(noise, bool)
    hint = f"; did you mean neftune(alpha={noise!r})?" if number else ""
    raise TypeError(f"noise must be a Noise, got {format_value(noise)}{hint}")


def as_noise(noise: object) -> Noise:
    """``noise`` if it is a ``Noise``, or the one that ``to_dict`` described.

    Raises:
        TypeError: It is neither.
        ValueError: As for ``Noise.from_dict``.
    """
    return Noise.from_dict(noise) if isinstance(noise, Mapping) else check_noise(noise)


def neftune(
    alpha: Alpha = 5.0,
    *,
    distribution: str | Distribution | Callable[[float], float] = "uniform",
    scale: str | ScaleRule | Callable[..., Any] = "neftune",
    length: str | int = "tokens",
    match: str = "support",
    antithetic: bool = False,
    seed: Any = None,
    stream: str = "",
) -> Noise:
    """NEFTune as published: uniform noise in +-alpha / sqrt(L * d).

    Jain et al., "NEFTune: Noisy Embeddings Improve Instruction Finetuning", arXiv 2310.05914.

    Args:
        alpha: The amplitude, 5 by default; the paper chose among 5, 10 and 15. A schedule will do.
        distribution: As for ``Noise``; the paper also tried ``"gaussian"``.
        scale: As for ``Noise``.
        length: As for ``Noise``.
        match: As for ``Noise``.
        antithetic: As for ``Noise``.
        seed: As for ``Noise``.
        stream: As for ``Noise``.

    Raises:
        TypeError: An argument of the wrong type.
        ValueError: An argument out of range, or an unknown name.

    Example:
        >>> from embnoise import neftune
        >>> neftune().alpha, neftune(10.0, seed=3).seed
        (5.0, 3)
    """
    return Noise(alpha, distribution, scale, length, match, antithetic, seed, stream)


def symnoise(
    alpha: Alpha = 5.0,
    *,
    scale: str | ScaleRule | Callable[..., Any] = "neftune",
    length: str | int = "tokens",
    seed: Any = None,
    stream: str = "",
) -> Noise:
    """SymNoise: +-alpha / sqrt(L * d), Rademacher noise in antithetic pairs of samples.

    "SymNoise: Advancing Language Model Fine-tuning with Symmetric Noise", arXiv 2312.01523.

    Args:
        alpha: The amplitude, 5 by default. A schedule will do.
        scale: As for ``Noise``.
        length: As for ``Noise``.
        seed: As for ``Noise``.
        stream: As for ``Noise``.

    Raises:
        TypeError: An argument of the wrong type.
        ValueError: An argument out of range, or an unknown name.

    Example:
        >>> from embnoise import symnoise
        >>> symnoise(5.0).distribution, symnoise(5.0).antithetic
        ('rademacher', True)
    """
    return Noise(alpha, "rademacher", scale, length, antithetic=True, seed=seed, stream=stream)
