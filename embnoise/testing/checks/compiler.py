"""The compiled layer does what the uncompiled one does."""

from __future__ import annotations

import numpy as np

from embnoise.testing.context import CheckContext
from embnoise.testing.failures import ClaimViolatedError, NotClaimedError, UntestableError
from embnoise.testing.inputs import SMALL, Inputs, right_mask
from embnoise.testing.registry import NOISE, check


@check(
    "EN22",
    claimed=lambda claims: None if claims.compilable else "compilable=False",
    premises=(*NOISE, "EN02", "EN05", "EN06", "EN15", "EN55", "EN63", "EN64"),
)
def compiled_equals_eager(context: CheckContext) -> None:
    """Under the framework's compiler the noise equals that of uncompiled calls, step by step.

    For a layer that follows a global seed the check is weaker: no noise in evaluation, noise in
    training after it, and other noise at each step. Fails for layers whose noise is drawn while
    tracing and frozen, or that are compiled once for both modes.
    """
    _compiled_equals_eager(context, context.batch())
    layer = context.layer()
    ragged = {}
    if layer.gets("mask"):
        ragged["a mask"] = context.batch(mask=right_mask([7, 4, 2, 1], SMALL[1]))
    if layer.takes("segment_ids") and context.profile.draws:  # compiling takes long
        ragged["segment_ids"] = context.batch(segments=np.array([[1, 1, 1, 2, 2, 0, 0]] * SMALL[0]))
    for what, inputs in ragged.items():
        context.transcript.clear()
        try:
            _compiled_equals_eager(context, inputs)
        except ClaimViolatedError as error:
            raise ClaimViolatedError(
                f"with {what}, {error.seen}",
                f"{error.likely}; without {what} it is right, so look for what depends on its "
                "values: mask.any(), x[mask], an int() of a length",
            ) from None


def _compiled_equals_eager(context: CheckContext, inputs: Inputs) -> None:
    start = context.first_step()
    steps = [step for step in range(start, start + 20) if context.claims.share(step) > 0][:2]
    eager = context.layer()
    clean = eager.eval(inputs)
    expected = [eager.train(inputs, step) - clean for step in steps]
    context.transcript.clear()
    layer = context.layer()
    layer.compile()
    try:
        without = layer.eval(inputs)
        found = [layer.train(inputs, step) - without for step in steps]
    except UntestableError as error:
        raise ClaimViolatedError(
            f"under the compiler {error}", "the layer cannot be traced"
        ) from None
    context.expect(
        np.allclose(without, clean, rtol=2.0**-20, atol=0) or not _has_one_table(context, inputs),
        "the compiled layer returns other embeddings in evaluation mode",
        "the mode is read once, while tracing",
    )
    context.expect(
        all(bool(noise.any()) for noise in found),
        "the compiled layer adds no noise in training mode after a call in evaluation mode",
        "the compiled code is that of evaluation mode: what turns the noise on (a hook, a flag) is "
        "not read again",
    )
    if len(found) < 2:
        raise NotClaimedError("the schedule is above 0 at one step only")
    shares = [context.claims.share(step) for step in steps]
    first, second = (noise / share for noise, share in zip(found, shares, strict=True))
    context.expect(
        bool(abs(first - second).max() > 2.0**-12 * abs(first).max()),
        f"compiled, steps {steps[0]} and {steps[1]} have the same noise",
        "the noise is drawn while tracing (by Python or NumPy, or from a state that the compiler "
        "treats as a constant) and frozen into the compiled code. In JAX pass the step or the key "
        "in, or keep it in an nnx.Variable; in Keras draw with a SeedGenerator, or count in a "
        "weight",
    )
    if context.claims.seeded is True:
        size = float(abs(np.array(expected)).max()) + float(abs(clean).max())
        moved = max(float(abs(a - b).max()) for a, b in zip(found, expected, strict=True))
        context.expect(
            moved <= 2.0**-18 * size,
            f"compiled, the noise of the same seed and steps differs by up to {moved:.3g} (the "
            f"largest |noise| is {size:.3g})",
            "the compiled code draws from another generator, or counts its steps differently",
        )


def _has_one_table(context: CheckContext, inputs: Inputs) -> bool:
    """Whether all layers that are made have one table; random ones may differ."""
    with context.transcript.paused():
        first, second = (context.layer().eval(inputs) for _ in range(2))
    return np.array_equal(first, second)
