"""``Subject``: a case in the hands of one check, which makes layers and batches of it.

What it does is written down as the lines that repeat it.
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable
from typing import Any

import numpy as np

from embnoise._validation import format_value
from embnoise.testing.case import Case
from embnoise.testing.failures import BrokenError, MisuseError, UnclaimedError, raised_by_layer
from embnoise.testing.inputs import SMALL, Inputs, inputs_of
from embnoise.testing.layer import Array, Layer
from embnoise.testing.profiles import Profile

__all__ = ["Subject"]

KIT = "embnoise.testing 1"
"""The kit's version. Another one is another choice of every seed."""

GRID = {"bfloat16": 2.0**-6, "float16": 2.0**-9}
"""The step of the coarsest grid on [-1, 1] that a correct draw of a dtype may have: that of draws
with as many bits as the dtype's mantissa."""

_FINE = 2.0**-20
"""What float32 arithmetic in any order leaves of a magnitude: a few units in the last place."""


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
            world: what the framework's global random state is seeded with.
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
                f"make_layer returned {format_value(layer)}, which cannot be called; "
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

    def sampled(self) -> Array:
        """The units of a fresh layer on that batch, at the first step that has noise."""
        inputs = self.sample()
        return self.layer(dim=inputs.dim).units(inputs, self.first_step())

    def independent(self, units: Array) -> Array:
        """Of antithetic noise the even rows: the others are these again."""
        return units[::2] if self.claims.antithetic else units

    def first_step(self) -> int:
        """The first step at which the schedule is above 0."""
        return next(step for step in range(1000) if self.claims.share(step) > 0)

    def magnitudes(self, inputs: Inputs, clean: Array, alpha: float, share: float) -> Array:
        """The magnitude that every token is promised, [B, L]; 0 for padding."""
        batch, width, dim = inputs.shape
        alpha_now = alpha * share
        own = inputs.lengths()
        magnitudes = np.zeros((batch, width))
        for b in range(batch):
            for length, segment in {
                (int(own[b, i]), int(inputs.segments[b, i])) for i in range(width) if own[b, i]
            }:
                where = inputs.segments[b] == segment
                of = where if self.claims.length == "tokens" else slice(None)
                rms = float(np.sqrt(np.square(clean[b, of]).mean()))
                used = length if self.claims.length == "tokens" else width
                magnitudes[b, where] = self.claims.magnitude(alpha_now, used, dim, rms)
        return magnitudes

    def slack(self, clean: Array, magnitude: float) -> float:
        """What rounding to the dtype may do to a unit value, relative to 1."""
        ratio = float(abs(clean).max(initial=0.0)) / magnitude if magnitude else 0.0
        return max(self.grid, _FINE) * (1 + ratio)
