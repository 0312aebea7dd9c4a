"""``Subject``: a case in the hands of one check, which makes its layers and calls them.

All that a check sees of a framework goes through here: outputs are looked at before they are
measured, and every call is written down as the line that repeats it.
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable
from typing import Any

import numpy as np
from numpy.typing import NDArray

from embnoise import _check
from embnoise.testing.case import Case
from embnoise.testing.drivers import named, needs, signature_of
from embnoise.testing.failures import BrokenError, MisuseError, UnclaimedError, raised_by_layer
from embnoise.testing.inputs import SMALL, Inputs, inputs_of
from embnoise.testing.profiles import Profile

__all__ = ["Layer", "Subject"]

KIT = "embnoise.testing 1"
"""The kit's version. Another one is another choice of every seed."""

GRID = {"bfloat16": 2.0**-6, "float16": 2.0**-9}
"""The step of the coarsest grid on [-1, 1] that a correct draw of a dtype may have: that of draws
with as many bits as the dtype's mantissa."""

_FINE = 2.0**-20
"""What float32 arithmetic in any order leaves of a magnitude: a few units in the last place."""

Array = NDArray[np.float64]


class Subject:
    """One check's view of a case: fresh layers, batches and expectations."""

    def __init__(self, case: Case, check: str, dtype: str, profile: Profile, seed: int) -> None:
        self.case = case
        self.claims = case.claims
        self.dtype = dtype
        self.profile = profile
        name = f"{KIT}/{case.name}/{check}/{dtype}/{seed}"
        digest = hashlib.sha256(name.encode()).digest()
        self.seed = int.from_bytes(digest[:4], "little") % 2**31
        self.world = int.from_bytes(digest[4:8], "little") % 2**31
        self.draw = np.random.default_rng(int.from_bytes(digest[8:16], "little"))
        # Of ids the noise is a difference of embeddings, so it must be far above their rounding; as
        # an absolute size some layers (Keras's GaussianNoise) accept 1 at most.
        self.alpha = 5.0 if case.inputs == "embeddings" else 640.0
        if self.claims.scale == "absolute":
            self.alpha = 0.25
        self.assertions = 0
        self.lines: list[str] = []
        self.outputs = 0
        self._last: Any = None

    @property
    def grid(self) -> float:
        """The step of the coarsest grid that a correct draw of this dtype may have."""
        return GRID.get(self.dtype, 2.0**-22)

    def expect(self, holds: bool, seen: str, likely: str | Callable[[], str]) -> None:
        """Count an assertion; raise if it does not hold. A cause may be worked out then."""
        self.assertions += 1
        if not holds:
            raise BrokenError(seen, likely if isinstance(likely, str) else likely())

    def able(self, name: str) -> Any:
        """A capability that a driver may lack; without it nothing is said of the layer."""
        method = getattr(self.case.driver, name, None)
        if method is None:
            raise UnclaimedError(f"the driver {self.case.driver.name!r} has no {name}")
        return method

    def layer(
        self,
        *,
        dim: int = SMALL[2],
        alpha: float | None = None,
        seed: int | None = None,
        world: int | None = None,
    ) -> Layer:
        """A fresh layer.

        Args:
            dim: d; that of ``SMALL`` by default.
            alpha: the case's usual one by default.
            seed: its own; the check's by default.
            world: the seed of the framework's global random state, before every call.
        """
        return Layer(
            self,
            dim,
            self.alpha if alpha is None else alpha,
            self.seed if seed is None else seed,
            self.world if world is None else world,
        )

    def make(self, dim: int, alpha: float, seed: int) -> Any:
        """What ``make_layer`` returns, which must be another object each time."""
        try:
            layer = self.case.driver.make(
                self.case.make_layer, dtype=self.dtype, dim=dim, alpha=alpha, seed=seed
            )
        except Exception as error:
            raise raised_by_layer(
                f"make_layer(dim={dim}, alpha={alpha}, seed={seed})", error
            ) from None
        if not callable(layer):
            raise MisuseError(
                f"make_layer returned {_check.shown(layer)}, which cannot be called; "
                "it must return a layer"
            )
        if layer is self._last:
            raise MisuseError(
                "make_layer returned the same object twice; it must make a fresh layer each time, "
                "so that no check sees what another left behind"
            )
        self._last = layer
        self.lines.append(
            f"layer = driver.make(make_layer, dtype={self.dtype!r}, dim={dim}, alpha={alpha}, "
            f"seed={seed})"
        )
        return layer

    def write(self, line: str) -> None:
        """A line that sets a name, unless it is set to that already."""
        name = line.partition(" = ")[0]
        known = [each for each in self.lines if each.startswith(f"{name} = ")]
        if known[-1:] != [line]:
            self.lines.append(line)

    def anew(self) -> None:
        """Forget the lines so far: what comes next does not depend on them."""
        self.lines.clear()
        self.outputs = 0

    def batch(
        self,
        shape: tuple[int, int, int] = SMALL,
        fill: str | None = None,
        **options: Any,
    ) -> Inputs:
        """A batch of the case's kind; embeddings of zeros show the noise as it is."""
        if fill is None:
            fill = "ones" if self.claims.scale == "relative" else "zeros"
        seed = int(self.draw.integers(2**31))
        return inputs_of(self.case.inputs, shape, fill=fill, seed=seed, **options)

    def sample(self) -> Inputs:
        """The batch of the profile, for statistics."""
        return self.batch(self.profile.shape(self.dtype))

    def first_step(self) -> int:
        """The first step at which the schedule is above 0."""
        return next(step for step in range(1000) if self.claims.share(step) > 0)

    def magnitudes(self, inputs: Inputs, clean: Array, alpha: float, step: int) -> Array:
        """The magnitude that every token is promised, [B, L]; 0 for padding."""
        batch, width, dim = inputs.shape
        alpha_now = alpha * self.claims.share(step)
        own = inputs.lengths()
        magnitudes = np.zeros((batch, width))
        for b in range(batch):
            for length, segment in {
                (int(own[b, i]), int(inputs.segments[b, i])) for i in range(width) if own[b, i]
            }:
                where = inputs.segments[b] == segment
                rms = float(np.sqrt(np.square(clean[b, where]).mean()))
                used = length if self.claims.length == "tokens" else width
                magnitudes[b, where] = self.claims.magnitude(alpha_now, used, dim, rms)
        return magnitudes

    def slack(self, clean: Array, magnitude: float) -> float:
        """What rounding to the dtype may do to a unit value, relative to 1."""
        ratio = float(abs(clean).max(initial=0.0)) / magnitude if magnitude else 0.0
        return max(self.grid, _FINE) * (1 + ratio)


class Layer:
    """A fresh layer, and the calls made to it.

    A layer that takes no ``step`` advances by being called: its training calls are its steps.
    """

    def __init__(self, subject: Subject, dim: int, alpha: float, seed: int, world: int) -> None:
        self.subject = subject
        self.alpha = alpha
        self.world = world
        self.calls = 0
        self.driver = subject.case.driver
        self.seed("make")
        self.native = subject.make(dim, alpha, seed)
        self.call: Callable[..., Any] = subject.case.call or self.driver.call
        self._signature = subject.case.call or signature_of(self.native)

    def takes(self, keyword: str) -> bool:
        """Whether the layer is given a keyword."""
        return bool(named(self._signature, {keyword: None}))

    def train(self, inputs: Inputs, step: int | None = None) -> Array:
        """The output in training mode, at the next step or at a later one."""
        return self.run(inputs, training=True, step=self.advance(inputs, step))

    def eval(self, inputs: Inputs) -> Array:
        """The output in evaluation mode."""
        return self.run(inputs, training=False, step=self.calls)

    def noise(self, inputs: Inputs, step: int | None = None) -> Array:
        """The noise of a training call, [B, L, d]."""
        return self.train(inputs, step) - self.clean(inputs)

    def clean(self, inputs: Inputs) -> Array:
        """The embeddings without noise."""
        if self.subject.case.inputs == "ids":
            return self.eval(inputs)
        native = self.driver.from_numpy(inputs.values, self.subject.dtype)
        return np.asarray(self.driver.to_numpy(native), np.float64)

    def units(self, inputs: Inputs, step: int | None = None) -> Array:
        """The noise over the magnitude that it should have; padding counts as 0."""
        at = self.calls if step is None else step
        noise = self.noise(inputs, step)
        magnitude = self.subject.magnitudes(inputs, self.clean(inputs), self.alpha, at)
        return np.divide(
            noise, magnitude[..., None], out=np.zeros_like(noise), where=magnitude[..., None] > 0
        )

    def advance(self, inputs: Inputs, step: int | None) -> int:
        """Go to a step: by calling the layer, if it takes no step."""
        if step is None:
            step = self.calls
        if not self.takes("step"):
            first = inputs_of(self.subject.case.inputs, (1, 1, inputs.dim))
            written = list(self.subject.lines)
            while self.calls < step:
                self.run(first, training=True, step=self.calls)
                self.calls += 1
            if self.subject.lines != written:
                self.subject.lines[len(written) + 1 :] = [
                    f"for _ in range({step}):  # without a step, a layer advances by being called",
                    "    driver.call(layer, x, training=True)",
                ]
        self.calls = step + 1
        return step

    def run(self, inputs: Inputs, *, training: bool, step: int) -> Array:
        """The output of one call, looked at and copied."""
        native = self.prepared(inputs)
        return self.checked(self.raw(inputs, native, training=training, step=step), inputs)

    def prepared(self, inputs: Inputs) -> Any:
        """The inputs as the framework's array."""
        dtype = None if self.subject.case.inputs == "ids" else self.subject.dtype
        return self.driver.from_numpy(inputs.values, dtype)

    def keywords(self, inputs: Inputs, *, training: bool, step: int) -> dict[str, Any]:
        """What the layer may be given besides its inputs.

        Documents are told where rows are packed, and to a layer that cannot do without them.
        """
        keywords = {
            "training": training,
            "mask": self.driver.from_numpy(inputs.mask),
            "step": step,
        }
        if self.told(inputs):
            keywords["segment_ids"] = self.driver.from_numpy(inputs.segments)
        return keywords

    def told(self, inputs: Inputs) -> bool:
        """Whether the layer is given ``segment_ids`` with these inputs."""
        packed = bool(inputs.segments.max(initial=0) > 1)
        return packed or needs(self._signature, "segment_ids")

    def raw(self, inputs: Inputs, native: Any, *, training: bool, step: int) -> Any:
        """The output as the framework has it, of inputs as the framework has them."""
        if self.subject.claims.seeded is not True:  # else what is global does not matter: EN05
            self.seed(step)
        self._write(inputs, training=training, step=step)
        keywords = self.keywords(inputs, training=training, step=step)
        if self.subject.case.call:
            keywords = named(self.subject.case.call, keywords)
        try:
            return self.call(self.native, native, **keywords)
        except Exception as error:
            mode = "training" if training else "evaluation"
            raise raised_by_layer(
                f"the layer, called with {_check.shown(inputs.values)} in {mode} mode,", error
            ) from None

    def checked(self, output: Any, inputs: Inputs) -> Array:
        """An output's values, if it is one."""
        batch, width, dim = inputs.shape
        expected = (batch, width, dim)
        if not hasattr(output, "shape") or not hasattr(output, "dtype"):
            raise MisuseError(
                f"the layer returned {_check.shown(output)}; it must return an array of shape "
                f"{expected}"
            )
        if tuple(output.shape) != expected:
            raise MisuseError(
                f"the layer returned an array of shape {tuple(output.shape)} for inputs of shape "
                f"{inputs.values.shape}; it must be {expected}"
            )
        if not _check.dtype_name(output).startswith(("float", "bfloat")):
            raise MisuseError(
                f"the layer returned an array of dtype {_check.dtype_name(output)}; it must be of "
                "a floating-point dtype"
            )
        values = np.asarray(self.driver.to_numpy(output), np.float64)
        wrong = values.size - int(np.isfinite(values).sum())
        if wrong:
            raise MisuseError(
                f"the layer returned {wrong} values of {values.size} that are NaN or infinite, for "
                f"finite inputs of shape {inputs.values.shape} and dtype {self.subject.dtype}. "
                "Likely: a division by a length of 0 (a row that is all padding), or an overflow."
            )
        return values

    def seed(self, moment: int | str) -> None:
        """Set the framework's global random state to that of a step's calls."""
        digest = hashlib.sha256(f"{self.world}/{moment}".encode()).digest()
        state = int.from_bytes(digest[:4], "little") % 2**31
        self.subject.lines.append(f"driver.seed({state})")
        self.driver.seed(state)

    def _write(self, inputs: Inputs, *, training: bool, step: int) -> None:
        kind = "" if self.subject.case.inputs == "ids" else f", {self.subject.dtype!r}"
        given = [f"training={training}"]
        if self.takes("mask"):
            given.append("mask=driver.from_numpy(mask)")
        if self.takes("step"):
            given.append(f"step={step}")
        documents = "mask.astype(int)"
        if inputs.segments.max(initial=0) > 1:
            documents = f"np.array({inputs.segments.tolist()})"
        if self.takes("segment_ids") and self.told(inputs):
            given.append(f"segment_ids=driver.from_numpy({documents})")
        call = "call" if self.subject.case.call else "driver.call"
        self.subject.outputs += 1
        if not inputs.mask.all() or len(given) > 1:
            self.subject.write(f"mask = {inputs.mask_source}")
        self.subject.write(f"x = driver.from_numpy({inputs.source}{kind})")
        self.subject.lines.append(
            f"y{self.subject.outputs} = driver.to_numpy({call}(layer, x, {', '.join(given)}))"
        )
