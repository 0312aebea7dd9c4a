"""NEFTune in NumPy, with a hook for every fault, and ``Fault``, which names the changed ones.

B rows, L tokens, d channels. A hook takes the right value and the ``Call``, and returns the wrong
value. A framework's part is small: arrays in and out, and the sum.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from embnoise.testing import Claims
from tests.testing.zoo import Correct, Faulty

CLAIMS = Claims(compilable=False)
"""NumPy draws, so a compiler would freeze the noise, which other faults show."""


@dataclass
class Call:
    """One call of a layer, and what the layer keeps."""

    layer: NumpyLayer
    shape: tuple[int, int, int]
    mask: np.ndarray
    """What the layer was given, [B, L] of any dtype; ones without a mask."""
    step: int
    training: bool
    told: bool
    """Whether the layer was given a mask."""
    segments: np.ndarray | None
    """The segment ids that the layer was given."""
    x: Any
    """The embeddings, the framework's."""
    arrays: Any
    """As for the layer's call."""

    @property
    def values(self) -> np.ndarray:
        """The embeddings."""
        found: np.ndarray = self.arrays.numpy(self.x)
        return found

    @property
    def memory(self) -> dict[str, Any]:
        """What the layer keeps from call to call."""
        return self.layer.memory

    @property
    def calls(self) -> int:
        """The number of training calls before this one."""
        return self.layer.calls

    @property
    def evals(self) -> int:
        """The number of calls in evaluation mode before this one."""
        return self.layer.evals


@dataclass(frozen=True)
class Fault:
    """A fault, the check that must name it, and the hooks that make it."""

    name: str
    code: str
    """The check whose message names the fault."""
    says: str
    """A regular expression that this message matches."""
    text: str
    """The fault in a few words, for the documentation."""
    hooks: dict[str, Callable[..., Any]] = field(default_factory=dict)
    claims: Claims = CLAIMS
    takes_step: bool = True
    """Whether the layer is given the step, or counts its training calls."""
    frameworks: tuple[str, ...] = ("torch", "jax", "keras")
    packs: bool = False
    """Whether the layer takes segment ids; it is given the step then."""
    profile: str = "quick"
    repeatable: bool = True
    """Both as for a ``Faulty``."""

    def layer(self, framework: str, make: Callable[..., Any]) -> Faulty:
        """The fault as a layer of a framework, given ``make(NumpyLayer)``."""
        return Faulty(
            f"{framework}: {self.name}", _maker(self, make), framework, "embeddings", None,
            self.claims, self.code, self.says, self.text, self.repeatable, self.profile,
        )  # fmt: skip


def fault(name: str, code: str, says: str, text: str, **options: Any) -> Fault:
    """A ``Fault``; keywords that are none of its fields are hooks."""
    fields = "claims", "takes_step", "frameworks", "packs", "profile", "repeatable"
    known = {key: options.pop(key) for key in fields if key in options}
    unknown = set(options) - set(HOOKS)
    assert not unknown, unknown
    return Fault(name, code, says, text, options, **known)


def correct(framework: str, make: Callable[..., Any]) -> list[Correct]:
    """The layer without a fault, with a step, without one, and with segment ids."""
    kinds: dict[str, dict[str, Any]] = {
        "given a step": {}, "counting": {"takes_step": False}, "given documents": {"packs": True},
    }  # fmt: skip
    return [
        Correct(
            f"{framework}: NumPy, {which}",
            _maker(Fault("", "", "", "", **options), make),
            framework,
            claims=CLAIMS,
        )
        for which, options in kinds.items()
    ]


def _maker(fault: Fault, make: Callable[..., Any]) -> Callable[..., Any]:
    return lambda *, dim, alpha, seed: make(NumpyLayer(fault, alpha, seed))


HOOKS = (
    "seed", "step", "alpha", "draw", "units", "mask", "length", "magnitude", "noise", "output",
    "evaluation", "after_evaluation",
)  # fmt: skip


class NumpyLayer:
    """The layer: what it adds to the embeddings, in NumPy."""

    def __init__(self, fault: Fault, alpha: float, seed: int) -> None:
        self.fault, self.alpha, self.seed = fault, alpha, seed
        self.takes_step, self.packs = fault.takes_step, fault.packs
        self.memory: dict[str, Any] = {}
        self.calls = self.evals = 0

    def hooked(self, name: str, value: Any, call: Call) -> Any:
        hook = self.fault.hooks.get(name)
        return value if hook is None else hook(value, call)

    def __call__(
        self,
        arrays: Any,
        x: Any,
        mask: Any,
        step: int | None,
        training: bool,
        segment_ids: Any = None,
    ) -> Any:
        """The output.

        Args:
            arrays: The framework's ``numpy(array)``, ``array(numpy, like)`` and ``stop(array)``.
            x: The embeddings, [B, L, d].
            mask: [B, L], or ``None``.
            step: The step, or ``None`` for a layer that counts its calls.
            training: Whether noise is added.
            segment_ids: [B, L], or ``None``.
        """
        shape = tuple(int(size) for size in x.shape)
        real = np.ones(shape[:2], bool) if mask is None else arrays.numpy(mask)
        segments = None if segment_ids is None else arrays.numpy(segment_ids)
        real = real if segments is None else segments > 0
        step = self.calls if step is None else step
        call = Call(self, shape, real, step, training, mask is not None, segments, x, arrays)
        if not training:
            self.hooked("evaluation", None, call)
            self.evals += 1
            left = self.hooked("after_evaluation", None, call)
            return x if left is None or left.shape != shape else x + arrays.array(left, x)
        noise = self.noise(call)
        self.calls += 1
        output = self.fault.hooks.get("output")
        if output is not None:
            return output(arrays, x, mask, noise, call)
        return x + arrays.array(noise, x)

    def noise(self, call: Call) -> np.ndarray:
        """[B, L, d]."""
        seed = self.hooked("seed", self.seed, call)
        step = self.hooked("step", call.step, call)
        draw = self.fault.hooks.get("draw", _draw)
        units = self.hooked("units", draw(call, seed, step), call)
        mask = self.hooked("mask", call.mask != 0, call)
        length = mask.sum(axis=1)
        if call.segments is not None:
            same = call.segments[:, :, None] == call.segments[:, None, :]
            length = same.sum(axis=2)
        length = self.hooked("length", length, call)
        length = np.maximum(length, 1)
        length = length[:, None] if length.ndim == 1 else length  # a hook may give [B, L]
        alpha = self.hooked("alpha", self.alpha, call)
        magnitude = alpha / np.sqrt(length * call.shape[2]) * mask
        magnitude = self.hooked("magnitude", magnitude, call)
        return self.hooked("noise", units * magnitude[..., None], call)


def _draw(call: Call, seed: int, step: int) -> np.ndarray:
    return np.random.default_rng([seed, step]).uniform(-1, 1, call.shape)
