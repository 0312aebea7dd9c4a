"""The compiled layer does what the uncompiled one does."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from embnoise.testing.checks.gradients import gradient_passes, tracked_batch
from embnoise.testing.checks.ragged import FULL, expect_as_good
from embnoise.testing.context import CheckContext
from embnoise.testing.failures import ClaimViolatedError, NotClaimedError, UntestableError
from embnoise.testing.inputs import SMALL, Inputs, right_mask
from embnoise.testing.registry import NOISE, check
from embnoise.testing.right_rows import expect_right_rows, in_units, units_of
from embnoise.testing.statistics import RATE

LARGER = (5, 40, SMALL[2])
"""A batch with rows of usual lengths."""

DRAWS = 8
"""So many steps show the size of the noise, if the layer follows a global seed."""


@check(
    "EN22",
    claimed=lambda claims: None if claims.compilable else "compilable=False",
    random=True,
    premises=(*NOISE, "EN02", "EN05", "EN06", "EN15", "EN55", "EN63", "EN64"),
)
def compiled_equals_eager(context: CheckContext) -> None:
    """Under the framework's compiler the noise equals that of uncompiled calls, step by step.

    For a layer that follows a global seed, which a compiler may read in another way, the compiled
    noise must have the claimed size and distribution instead, and differ from step to step. The
    gradient passes through a compiled call unchanged, and an input that needs one gets the noise.
    Fails for layers whose noise is drawn while tracing and frozen, that are compiled once for both
    modes, or that add other noise in compiled training.
    """
    both = _Both(context)
    both.agree(context.batch(both.shape))
    layer = both.compiled
    batches = {}
    segments = both.segments()
    if layer.gets("mask"):
        mask = segments == 1
        if context.claims.padding == "anywhere":
            mask[::2] = mask[::2, ::-1]  # on the left in every second row
        batches["a mask"] = context.batch(both.shape, mask=mask)
    if layer.may_lack("mask"):
        batches["a mask of ones"] = context.batch(both.shape).telling("mask")
    if layer.takes("segment_ids") and context.profile.draws:  # compiling takes long
        batches["segment_ids"] = context.batch(both.shape, segments=segments)
    for what, inputs in batches.items():
        try:
            both.agree(inputs)
        except ClaimViolatedError as error:
            raise ClaimViolatedError(
                f"with {what}, {error.seen}",
                f"{error.likely}; without {what} it is right, so look for what depends on its "
                "values: mask.any(), x[mask], an int() of a length",
            ) from None
    both.agree_if_tracked()


class _Both:
    """A layer and a compiled one, which are called alike."""

    def __init__(self, context: CheckContext) -> None:
        self.context = context
        start = context.first_step()
        self.steps = context.loud(range(start, start + 60))
        if len(self.steps) < 2:
            raise NotClaimedError("the schedule is above 0 at one step only")
        self.alpha = 0.7 * context.alpha
        """Another one than usual, which may be fixed in compiled code."""
        self.shape = LARGER if context.profile.draws else SMALL
        self.one_table = False
        """Whether the compiled layer is known to return the embeddings of the other one."""
        self._make()

    def segments(self) -> NDArray[np.int64]:
        """Two documents in every row, and padding behind them in most."""
        batch, width, _ = self.shape
        lengths = [width - 2 * row for row in range(batch)]
        first = right_mask([length - row - 1 for row, length in enumerate(lengths)], width)
        return 2 * right_mask(lengths, width) - first

    def _make(self) -> None:
        self.context.transcript.clear()
        with self.context.transcript.paused():
            self.eager = self.context.layer(alpha=self.alpha)
        self.compiled = self.context.layer(alpha=self.alpha)
        self.compiled.compile()
        self.left = list(self.steps)

    def _next_step(self) -> int:
        return self.left.pop(0)

    def agree(self, inputs: Inputs) -> None:
        """Expect both to do the same with a batch, at the next steps."""
        context = self.context
        if self.compiled.takes("step"):
            count = 2
            self.left = list(self.steps)
        else:
            # A third call is refused if what counts the calls has the layer compiled anew in each.
            count = min(len(self.steps), 3)
            if len(self.left) < count + DRAWS and len(self.left) < len(self.steps):
                self._make()
        layer, steps = self.compiled, [self._next_step() for _ in range(count)]
        with context.transcript.paused():
            clean = self.eager.eval(inputs)
            expected = [self.eager.train(inputs, step) - clean for step in steps]
        try:
            # Compiling takes long, so the quick profile compiles evaluation mode once.
            known = self.one_table and not context.profile.draws
            without = clean if known else layer.eval(inputs)
            found = [layer.train(inputs, step) - without for step in steps]
        except UntestableError as error:
            raise ClaimViolatedError(
                f"under the compiler {error}", "the layer cannot be traced"
            ) from None
        self.one_table = bool(np.allclose(without, clean, rtol=2.0**-20, atol=0))
        context.expect(
            self.one_table or not _has_one_table(context, inputs),
            "the compiled layer returns other embeddings in evaluation mode",
            "the mode is read once, while tracing",
        )
        context.expect(
            all(bool(noise.any()) for noise in found),
            "the compiled layer adds no noise in training mode after a call in evaluation mode",
            "the compiled code is that of evaluation mode: what turns the noise on (a hook, a "
            "flag) is not read again",
        )
        shares = [context.claims.share(step) for step in steps]
        first, second, *_ = (noise / share for noise, share in zip(found, shares, strict=True))
        context.expect(
            bool(abs(first - second).max() > 2.0**-12 * abs(first).max()),
            f"compiled, steps {steps[0]} and {steps[1]} have the same noise",
            "the noise is drawn while tracing (by Python or NumPy, or from a state that the "
            "compiler treats as a constant) and frozen into the compiled code. In JAX pass the "
            "step or the key in, or keep it in an nnx.Variable; in Keras draw with a "
            "SeedGenerator, or count in a weight",
        )
        has_key = context.claims.seeded == "global" and context.driver.key is not None
        if context.claims.seeded is not True and not has_key:
            self._is_as_claimed(inputs)
            return
        size = float(abs(np.array(expected)).max()) + float(abs(clean).max())
        moved = max(float(abs(a - b).max()) for a, b in zip(found, expected, strict=True))
        context.expect(
            moved <= 2.0**-18 * size,
            f"compiled, the noise of the same {'key' if has_key else 'seed and steps'} differs by "
            f"up to {moved:.3g} (the largest |noise| is {size:.3g})",
            "the compiled code draws from another generator, counts its steps differently, or "
            "asks whether it is compiled",
        )

    def agree_if_tracked(self) -> None:
        """Expect the gradient to pass through a compiled call, whose noise is right."""
        context, layer = self.context, self.compiled
        context.premises += ("EN13", "EN58")
        inputs = tracked_batch(context, self.shape)
        try:
            output = gradient_passes(context, layer, inputs)
        except NotClaimedError:
            return
        except ClaimViolatedError as error:
            raise ClaimViolatedError(
                f"compiled, {error.seen}", f"{error.likely}, in compiled calls alone"
            ) from None
        step = layer.calls - 1
        share = context.claims.share(step)
        if output is None or not share:
            return
        noise = output - layer.clean(inputs)
        likely = "the layer asks whether it is compiled and whether a gradient is tracked"
        context.expect(
            bool(noise.any()),
            "a compiled call whose input needs a gradient, as in training, adds no noise",
            likely,
        )
        if context.claims.seeded is not True:
            units = in_units(layer, inputs, noise, step)
            context.premises += (*FULL, "EN09", "EN19")
            expect_right_rows(context, inputs, [units], 12, likely)
            return
        with context.transcript.paused():
            expected = self.eager.train(inputs, step)
        moved = float(abs(output - expected).max())
        context.expect(
            moved <= 2.0**-18 * float(abs(expected).max()),
            f"compiled, the noise of an input that needs a gradient differs by up to {moved:.3g}",
            likely,
        )

    def _is_as_claimed(self, inputs: Inputs) -> None:
        """Expect compiled calls at more steps to have the claimed size and distribution."""
        context = self.context
        context.premises += (*FULL, "EN09", "EN19")
        steps = [self._next_step() for _ in range(min(DRAWS, len(self.left)))]
        draws = [units_of(self.compiled, inputs, step) for step in steps]
        if draws:
            likely = "the layer asks whether it is compiled, and adds other noise there"
            expect_right_rows(context, inputs, draws, 12, f"in a compiled call: {likely}")
            expect_as_good(context, inputs, draws, "a compiled call", RATE / 12)


def _has_one_table(context: CheckContext, inputs: Inputs) -> bool:
    """Whether all layers that are made have one table; random ones may differ."""
    with context.transcript.paused():
        first, second = (context.layer().eval(inputs) for _ in range(2))
    return np.array_equal(first, second)
