"""``Noise``: the one configuration object, and the published recipes that make it."""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Mapping
from dataclasses import MISSING, dataclass, fields, replace
from functools import cached_property
from typing import Any

import numpy as np

from embnoise import _check
from embnoise.distributions import UNIFORM, Distribution, distribution_of
from embnoise.schedules import Schedule, schedule_from_dict

__all__ = ["SCALES", "Noise", "neftune", "symnoise"]

SCALES = ("neftune", "per_token", "absolute", "relative")

_FORMAT = 1


@dataclass(frozen=True)
class Noise:
    """What noise to add: frozen, hashable, and written to JSON by ``to_dict``.

    Attributes:
        alpha: the amplitude, at least 0: a number, a schedule, or any callable step -> alpha (an
            Optax schedule or a Keras LearningRateSchedule, say). In compiled code it may be a
            traced 0-d array.
        distribution: ``"uniform"``, ``"rademacher"``, ``"gaussian"``, or a ``Distribution``.
        scale: the magnitude of a token, with L its sequence's length and d the embedding size:
            ``"neftune"``, alpha / sqrt(L * d) (arXiv 2310.05914, algorithm 1); ``"per_token"``,
            alpha / sqrt(d); ``"absolute"``, alpha; ``"relative"``, alpha times the RMS of the
            embeddings of the token's sequence, with no gradient through it.
        length: L: ``"tokens"``, the real tokens of the sequence or of its segment in a packed
            row; ``"padded"``, the row's width; or a number.
        match: ``"support"``, the magnitude multiplies the unit values as published (the uniform's
            half-width, the Gaussian's standard deviation); ``"rms"``, every distribution has the
            RMS of the uniform one, magnitude / sqrt(3).
        antithetic: samples 2i and 2i + 1 share the draw of sample 2i, with opposite signs
            (SymNoise, arXiv 2312.01523).
        seed: any int; it counts modulo 2**64. In JAX also a ``jax.random.key``, traced or not:
            ``jax.random.key(n)`` is the same seed as n.
        stream: a name that makes an independent noise of the same seed.

    Raises:
        TypeError: an argument of the wrong type.
        ValueError: an argument out of range, or an unknown name.

    Example:
        >>> noise = Noise(5.0, distribution="gaussian", seed=7)
        >>> Noise.from_dict(noise.to_dict()) == noise
        True
    """

    alpha: float | Schedule | Callable[[Any], Any]
    distribution: str | Distribution = "uniform"
    scale: str = "neftune"
    length: str | int = "tokens"
    match: str = "support"
    antithetic: bool = False
    seed: Any = 0
    stream: str = ""

    def __post_init__(self) -> None:
        if not callable(self.alpha):
            object.__setattr__(self, "alpha", _check.amplitude("alpha", self.alpha))
        distribution_of(self.distribution)
        _check.choice("scale", self.scale, SCALES)
        if isinstance(self.length, str):
            if self.length not in ("tokens", "padded"):
                raise ValueError(
                    f"length must be 'tokens', 'padded' or an integer, got {self.length!r}"
                )
        else:
            object.__setattr__(self, "length", _check.integer("length", self.length, least=1))
        _check.choice("match", self.match, ("support", "rms"))
        _check.flag("antithetic", self.antithetic)
        object.__setattr__(self, "seed", _check.seed("seed", self.seed))
        if not isinstance(self.stream, str):
            raise TypeError(f"stream must be a string, got {_check.shown(self.stream)}")

    @cached_property
    def key(self) -> tuple[int, int]:
        """The Philox key (k0, k1) of ``seed`` and ``stream``.

        Raises:
            TypeError: the seed is a ``jax.random.key``, which ``embnoise_jax`` alone can read.
        """
        seed = _check.integer("seed", self.seed) % 2**64
        low, high = self.stream_key
        return seed % 2**32 ^ low, seed >> 32 ^ high

    @cached_property
    def stream_key(self) -> tuple[int, int]:
        """What ``stream`` alone makes of the key of the seed 0."""
        if not self.stream:
            return 0, 0
        digest = hashlib.sha256(self.stream.encode()).digest()
        return int.from_bytes(digest[:4], "little"), int.from_bytes(digest[4:8], "little")

    @cached_property
    def law(self) -> Distribution:
        """The distribution itself, where ``distribution`` may be its name."""
        return distribution_of(self.distribution)

    @cached_property
    def rms_factor(self) -> float:
        """What ``match`` multiplies the magnitude with: 1 for "support" and for the uniform."""
        if self.match == "support" or self.law is UNIFORM:
            return 1.0
        return float(np.float32(3**-0.5 / self.law.rms))

    @property
    def scheduled(self) -> bool:
        """Whether alpha depends on the step."""
        return callable(self.alpha)

    def alpha_at(self, step: Any, xp: Any = np) -> Any:
        """Alpha at a step.

        Args:
            step: an int of at least 0, or an integer array of the namespace ``xp``.
            xp: the array namespace of ``step`` where that is an array.

        Returns:
            A float for an int; for an array, what the schedule returns.

        Raises:
            ValueError: the schedule is unbound, or alpha is negative, NaN or infinite there.
        """
        if not callable(self.alpha):
            return self.alpha
        traced = hasattr(step, "shape") and not isinstance(step, np.generic)
        if isinstance(self.alpha, Schedule):
            return self.alpha(step, xp)
        value = self.alpha(step)
        return value if traced else _check.amplitude(f"alpha at step {step}", value)

    def bind(self, total_steps: int) -> Noise:
        """The noise for a run of ``total_steps`` steps: fills in a schedule's ``steps=None``."""
        if not isinstance(self.alpha, Schedule):
            _check.integer("total_steps", total_steps, least=1)
            return self
        return replace(self, alpha=self.alpha.bind(total_steps))

    def to_dict(self) -> dict[str, Any]:
        """A JSON-ready description, which ``from_dict`` reads back.

        Raises:
            TypeError: alpha is a callable, or distribution an object, that JSON has no form for.
        """
        values = {field.name: getattr(self, field.name) for field in fields(self)}
        if isinstance(self.alpha, Schedule):
            values["alpha"] = self.alpha.to_dict()
        elif callable(self.alpha):
            raise TypeError(f"alpha must be a number or a schedule to be saved, got {self.alpha!r}")
        if isinstance(self.distribution, Distribution):
            raise TypeError(f"distribution must be a name to be saved, got {self.distribution!r}")
        _check.integer("seed", self.seed)
        return {"embnoise": _FORMAT, **values}

    @classmethod
    def from_dict(cls, data: Mapping[str, Any]) -> Noise:
        """The noise that ``to_dict`` described.

        Raises:
            TypeError: not a mapping, or a value of the wrong type.
            ValueError: an unknown or missing key, another format, or a value out of range.
        """
        if not isinstance(data, Mapping):
            raise TypeError(f"data must be a mapping, got {_check.shown(data)}")
        values = dict(data)
        version = values.pop("embnoise", None)
        if version != _FORMAT:
            raise ValueError(f"embnoise, the format's number, must be {_FORMAT}, got {version!r}")
        required = [field.name for field in fields(cls) if field.default is MISSING]
        _check.keys("data", values, [field.name for field in fields(cls)], required)
        if isinstance(values["alpha"], Mapping):
            values["alpha"] = schedule_from_dict(values["alpha"])
        return cls(**values)


def neftune(alpha: float | Schedule | Callable[[Any], Any] = 5.0, **options: Any) -> Noise:
    """NEFTune as published: uniform in +-alpha / sqrt(L * d) (Jain et al., arXiv 2310.05914).

    Args:
        alpha: 5 by default; the paper chose among 5, 10 and 15.
        **options: any other field of ``Noise``.
    """
    return Noise(alpha, **options)


def symnoise(alpha: float | Schedule | Callable[[Any], Any] = 5.0, **options: Any) -> Noise:
    """SymNoise: +-alpha / sqrt(L * d) in antithetic pairs (arXiv 2312.01523).

    Args:
        alpha: 5 by default.
        **options: any other field of ``Noise``.
    """
    return Noise(alpha, **{"distribution": "rademacher", "antithetic": True, **options})
