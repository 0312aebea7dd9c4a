"""``CheckContext``: what one run of a check works with."""

from __future__ import annotations

import contextlib
import hashlib
import re
from collections.abc import Callable, Iterable, Iterator
from functools import partial
from typing import Any, TypeVar

import numpy as np
from numpy.typing import NDArray

from embnoise._distributions import Distribution
from embnoise._validation import dtype_name, format_value
from embnoise.testing._case import Case
from embnoise.testing.diagnosis import cause_of_noise
from embnoise.testing.failures import (
    ERRORS,
    ClaimViolatedError,
    NotClaimedError,
    UntestableError,
    raised_by_layer,
)
from embnoise.testing.findings import Findings
from embnoise.testing.inputs import SMALL, Array, Inputs, vocabulary_of
from embnoise.testing.layer_under_test import LayerUnderTest, seed_globally
from embnoise.testing.profiles import Profile
from embnoise.testing.transcript import Transcript

__all__ = ["GRID", "CheckContext"]

Scalar = TypeVar("Scalar", bound=np.generic)

KIT = "embnoise.testing 1"
"""The kit's version. A new version changes every seed."""

GRID = {"bfloat16": 2.0**-6, "float16": 2.0**-9}
"""The step of the coarsest grid on [-1, 1] that a correct draw in a dtype may have: a draw with as
many bits as the dtype's mantissa."""

_FINE = 2.0**-20
"""The relative error of a magnitude that is computed in float32, in any order of operations."""


class CheckContext:
    """One check's view of a case: fresh layers, batches and assertions.

    Args:
        case: What to test.
        check: The check's code, from which its seeds come.
        dtype: The dtype of the embeddings.
        profile: How much to test.
        seed: The kit's seed.
        findings: What the checks of the case have found so far; this adds to it.
    """

    def __init__(
        self,
        case: Case,
        check: str,
        dtype: str,
        profile: Profile,
        seed: int,
        findings: Findings,
    ) -> None:
        self.case = case
        self.findings = findings
        self.claims = case.claims
        self.driver = case.driver
        self.dtype = dtype
        self.profile = profile
        name = f"{KIT}/{case.name}/{check}/{dtype}/{seed}"
        digest = hashlib.sha256(name.encode()).digest()
        self.seed = int.from_bytes(digest[:4], "little") % 2**31
        self.world = int.from_bytes(digest[4:8], "little") % 2**31
        self.draw = np.random.default_rng(int.from_bytes(digest[8:16], "little"))
        # With ids the noise is a difference of embeddings, so it must be far above their rounding.
        self.alpha = 5.0 if case.inputs == "embeddings" else 640.0
        if self.claims.alpha_is_magnitude:  # some layers (Keras's GaussianNoise) accept 1 at most
            self.alpha = 0.25
        self.assertions = 0
        self.premises: tuple[str, ...] = ()
        """The premises of the assertion that did not hold, besides those of the check."""
        self.depends: set[str] = set()
        """The codes of checks without which a pass shows nothing either."""
        self.note = ""
        """What a passing check did not look at."""
        self.where = ""
        """Which path of the layer is looked at, as messages begin; "" for the plain one."""
        self.transcript = Transcript()
        self._last: Any = None

    @property
    def distribution(self) -> Distribution:
        """The claimed distribution, for the checks that need one."""
        rule = self.claims.distribution_rule
        assert rule is not None
        return rule

    @property
    def grid(self) -> float:
        """The step of the coarsest grid that a correct draw may have, and its sum be rounded to.

        A layer that embeds ids may have embeddings of another dtype than its table.
        """
        return max(GRID.get(dtype, 2.0**-22) for dtype in (self.dtype, self._output_dtype()))

    def expect(
        self,
        holds: bool,
        seen: str,
        likely: str | Callable[[], str],
        premises: tuple[str, ...] | Callable[[], tuple[str, ...]] = (),
    ) -> None:
        """Count an assertion, and raise if it does not hold.

        Args:
            holds: Whether it holds.
            seen: What was observed and what was expected.
            likely: The likely cause, or a function that works it out.
            premises: More checks without which this assertion shows nothing, or a function that
                works them out.
        """
        self.assertions += 1
        if not holds:
            self.premises += premises if isinstance(premises, tuple) else premises()
            likely = likely if isinstance(likely, str) else likely()
            raise ClaimViolatedError(f"{self.where}{seen}", likely)

    def layer(
        self,
        *,
        dim: int = SMALL[2],
        alpha: float | None = None,
        seed: int | None = None,
        world: int | None = None,
        name: str = "layer",
    ) -> LayerUnderTest:
        """A fresh layer.

        Args:
            dim: The embedding size d. Default: that of ``SMALL``.
            alpha: The amplitude. Default: that of the context.
            seed: The layer's own seed. Default: that of the context.
            world: Determines the framework's global random state. Default: that of the context.
            name: The layer's name in the transcript.
        """
        alpha = self.alpha if alpha is None else alpha
        seed = self.seed if seed is None else seed
        world = self.world if world is None else world
        layer = partial(self._layer, dim=dim, seed=seed, world=world)
        reference = None
        self._output_dtype()  # finding it seeds, which must not happen between the layer's calls
        if self.case.inputs == "ids" and self._has_reference():
            reference = layer(alpha=0.0, name="reference")
        return layer(alpha=alpha, name=name, reference=reference)

    def refused(self, alpha: float) -> str | None:
        """Why ``make_layer`` refuses an alpha, with a ValueError or a TypeError; else ``None``."""
        try:
            with self.transcript.paused():
                self._layer(
                    dim=SMALL[2], alpha=alpha, seed=self.seed, world=self.world, name="refused"
                )
        except UntestableError as error:
            return str(error) if re.search(r" raised (ValueError|TypeError)", str(error)) else None
        return None

    def _layer(
        self,
        *,
        dim: int,
        alpha: float,
        seed: int,
        world: int,
        name: str,
        reference: LayerUnderTest | None = None,
    ) -> LayerUnderTest:
        seed_globally(self.driver, self.transcript, world, "make")
        return LayerUnderTest(
            self.make(dim, alpha, seed, name=name),
            case=self.case,
            dtype=self.dtype,
            transcript=self.transcript,
            alpha=alpha,
            world=world,
            name=name,
            reference=reference,
            findings=self.findings,
        )

    def _output_dtype(self) -> str:
        """The dtype of the embeddings, which a layer that embeds ids chooses itself."""
        if self.case.inputs == "embeddings":
            return self.dtype
        if self.dtype not in self.findings.output_dtypes:
            with self.transcript.paused():
                self.findings.output_dtypes[self.dtype] = self._finds_output_dtype()
        return self.findings.output_dtypes[self.dtype]

    def _finds_output_dtype(self) -> str:
        inputs = self.case.batch(SMALL, seed=self.seed)
        try:
            layer = self._layer(
                dim=SMALL[2], alpha=self.alpha, seed=self.seed, world=self.world, name="layer"
            )
            output = layer.raw(inputs, layer.prepared(inputs), training=False, step=0)
            layer.checked(output, inputs)
        except UntestableError:  # which EN01 reports
            return self.dtype
        return dtype_name(output)

    def _has_reference(self) -> bool:
        """Whether a layer with alpha = 0 shows the embeddings of a layer that embeds ids.

        If not, they are taken from the layer itself in evaluation mode, which EN02 vouches for.
        """
        if self.dtype not in self.findings.references:
            with self.transcript.paused():
                self.findings.references[self.dtype] = self._finds_reference()
        if not self.findings.references[self.dtype]:
            self.depends.add("EN02")
        return self.findings.references[self.dtype]

    def _finds_reference(self) -> bool:
        """Whether layers with alpha = 0 agree with each other, and with this one's table."""
        if self.claims.magnitude(0.0, SMALL[1], SMALL[2]) != 0:
            return False
        inputs = self.case.batch(SMALL, seed=self.seed)
        made = partial(self._layer, dim=SMALL[2], seed=self.seed, world=self.world)
        try:
            layers = [made(alpha=0.0, name="reference") for _ in range(2)]
            seen = [
                each.run(inputs, training=False, step=step) for each in layers for step in (0, 1)
            ]
            layer = made(alpha=self.alpha, name="layer")
            own = layer.eval(inputs)
        except UntestableError:  # an alpha of 0 is refused, for example
            return False
        if any(each.tobytes() != seen[0].tobytes() for each in seen):
            return False
        if own.tobytes() == seen[0].tobytes() or self._have_one_table(layer, layers[0]):
            return True
        # Another table, or noise in evaluation: only the latter changes from step to step.
        return layer.run(inputs, training=False, step=1).tobytes() != own.tobytes()

    def _have_one_table(self, layer: LayerUnderTest, reference: LayerUnderTest) -> bool:
        try:
            states = [self.driver.state(each.native) for each in (layer, reference)]
        except NotClaimedError:
            return False
        own, other = ({k: v for k, v in state.items() if v.ndim > 1} for state in states)
        return own.keys() == other.keys() != set() and all(
            np.array_equal(own[name], other[name]) for name in own
        )

    @contextlib.contextmanager
    def without_gradients(self) -> Iterator[None]:
        """A context in which the framework records no gradients, if the driver has one."""
        if not self.driver.overrides("without_gradients"):
            yield
            return
        with (
            self.transcript.block("with driver.without_gradients():"),
            self.driver.without_gradients(),
        ):
            yield

    def make(self, dim: int, alpha: float, seed: int, *, name: str = "layer") -> Any:
        """What ``make_layer`` returns.

        Raises:
            UntestableError: It raises, or returns something that cannot be called (without
                ``call``), or the same object twice.
        """
        self.transcript.write(
            f"{name} = driver.make(make_layer, dtype={self.dtype!r}, dim={dim}, alpha={alpha}, "
            f"seed={seed})"
        )
        made: list[Any] = []  # what make_layer returned: after that, an error is the driver's

        def make_layer(**given: Any) -> Any:
            made.append(self.case.make_layer(**given))
            return made[0]

        try:
            layer = self.driver.make(make_layer, dtype=self.dtype, dim=dim, alpha=alpha, seed=seed)
        except ERRORS as error:
            what = f"make_layer(dim={dim}, alpha={alpha}, seed={seed})"
            if made:
                what = f"make of the driver {self.driver.name!r}, after {what},"
            raise raised_by_layer(what, error) from None
        if not (callable(layer) or self.case.call):
            raise UntestableError(
                f"make_layer returned {format_value(layer)}, which cannot be called; it must "
                "return a layer, or the case needs call=, which calls it"
            )
        if isinstance(layer, type):
            raise UntestableError(
                f"make_layer returned the class {layer.__name__}; it must return a layer, an "
                "instance of it"
            )
        if layer is self._last:
            raise UntestableError(
                "make_layer returned the same object twice; it must make a fresh layer each time, "
                "so that no check sees what another left behind"
            )
        self._last = layer
        return layer

    def cause(self, units: Array, inputs: Inputs) -> str:
        """Why the units of a batch are wrong."""
        batch, length, dim = inputs.shape
        ids = self.case.inputs == "ids"
        vocabulary = vocabulary_of(self.case.padding_id) if ids else None
        return cause_of_noise(
            units, self.distribution, batch=batch, length=length, dim=dim, vocabulary=vocabulary
        )

    def batch(
        self,
        shape: tuple[int, int, int] = SMALL,
        fill: str | None = None,
        **options: Any,
    ) -> Inputs:
        """A batch of the case's kind.

        Args:
            shape: B, the row's width and d.
            fill: The values of embeddings, as for ``inputs_of``. Default: zeros, which show the
                noise as it is; ones if the scale depends on the embeddings.
            **options: As for ``inputs_of``.
        """
        if fill is None:
            fill = "ones" if self.claims.scale_rule.uses_rms else "zeros"
        seed = int(self.draw.integers(2**31))
        return self.case.batch(shape, fill=fill, seed=seed, **options)

    def sample(self) -> Inputs:
        """The profile's batch, for statistics."""
        return self.batch(self.profile.shape(self.dtype))

    def sampled(self) -> Array:
        """The units of a fresh layer on the profile's batch, at the first step that has noise."""
        inputs = self.sample()
        return self.layer(dim=inputs.dim).units(inputs, self.first_step())

    def independent(self, units: NDArray[Scalar]) -> NDArray[Scalar]:
        """The rows that do not repeat others: every second one if the noise is antithetic."""
        return units[::2] if self.claims.antithetic else units

    def first_step(self) -> int:
        """The first step at which the schedule is above 0."""
        return next(step for step in range(1000) if self.claims.share(step) > 0)

    def loud(self, steps: Iterable[int]) -> list[int]:
        """The steps whose noise is far above its rounding: at least a tenth of the most."""
        shares = {step: self.claims.share(step) for step in steps}
        least = max(shares.values(), default=0.0) / 10
        return [step for step, share in shares.items() if share > 0 and share >= least]

    def slack(self, clean: Array, magnitude: float) -> float:
        """How much rounding to the dtype may change a unit, relative to the larger of 1 and it.

        Args:
            clean: The embeddings.
            magnitude: The smallest magnitude of the noise on them.
        """
        ratio = float(abs(clean).max(initial=0.0)) / magnitude if magnitude else 0.0
        return max(self.grid, _FINE) * (1 + ratio)

    def usual_slack(self, inputs: Inputs) -> float:
        """``slack`` for a batch without padding, at the first step that has noise."""
        magnitude = self.claims.magnitude(
            self.alpha * self.claims.share(self.first_step()), *inputs.shape[1:]
        )
        # Below the noise of ids there are embeddings of a few units.
        clean = 0.0 if self.case.inputs == "embeddings" else 4.0
        return self.slack(np.array([clean]), magnitude)
