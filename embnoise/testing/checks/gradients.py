"""The gradient treats the noise as a constant."""

from __future__ import annotations

import contextlib
from typing import Any

import numpy as np

from embnoise.testing.context import CheckContext
from embnoise.testing.failures import NotClaimedError
from embnoise.testing.inputs import PACKED, SMALL, Array, Inputs, left_mask, right_mask
from embnoise.testing.layer_under_test import LayerUnderTest
from embnoise.testing.paths import over_paths
from embnoise.testing.registry import NOISE, check, needs_repeats


@check("EN13", dtypes="all", premises=("EN03", "EN12"))
def gradient_is_one(context: CheckContext) -> None:
    """The gradient passes through the noise unchanged, to the input or to the embedding table.

    The output is weighted with integers of both signs, so that sums are exact, and the gradient
    must equal these weights (for ids, the gradient in evaluation mode). In evaluation mode it must
    pass as well, and outside of the quick profile in padded and packed batches. Fails for layers
    that detach their output, add the noise under no_grad, or scale what they pass on.
    """
    gradient_passes(context, context.layer(), tracked_batch(context))
    if context.profile.draws and context.dtype != "float32":  # in which EN59 tests more
        for inputs in over_paths(context, _tracked_fill(context), plain=False):
            gradient_passes(context, context.layer(), inputs)
    if context.case.inputs == "embeddings":
        context.transcript.clear()
        _gradient_of_evaluation(context)


@check("EN59", premises=(*NOISE, "EN12", "EN13"))
def gradient_of_any_batch(context: CheckContext) -> None:
    """The gradient passes unchanged in batches of any size, padded and packed, and in later calls.

    The size of the gradient does not matter. Fails for layers that block the gradient of padding,
    scale it by a size of the batch, clip it, or keep something of it from call to call.
    """
    shape = context.profile.shape("float32")
    lengths = ([shape[1], shape[1] // 2, 5] * shape[0])[: shape[0]]
    inputs = tracked_batch(context, shape, mask=right_mask(lengths, shape[1]))
    gradient_passes(context, context.layer(dim=shape[2]), inputs)
    context.transcript.clear()
    gradient_passes(context, context.layer(), tracked_batch(context, (1, 1, SMALL[2])))
    context.transcript.clear()
    layer = context.layer()
    masked = left_mask if context.claims.padding == "anywhere" else right_mask
    inputs = tracked_batch(context, mask=masked([2, 7, 4, 1], SMALL[1]))
    for step, factor in ((0, 2.0**-20), (0, 2.0**10), (LATER, 1.0)):
        gradient_passes(context, layer, inputs, step, factor)
    if layer.takes("segment_ids"):
        context.transcript.clear()
        gradient_passes(context, context.layer(), tracked_batch(context, segments=PACKED))


LATER = 40
"""A step that is not among the first ones, and not too many calls away."""


def tracked_batch(
    context: CheckContext, shape: tuple[int, int, int] = SMALL, **options: Any
) -> Inputs:
    """A batch whose gradient is looked at; options are those of ``inputs_of``."""
    return context.batch(shape, _tracked_fill(context), **options)


def _tracked_fill(context: CheckContext) -> str | None:
    return None if context.claims.scale_rule.uses_rms else "normal"


def gradient_passes(
    context: CheckContext,
    layer: LayerUnderTest,
    inputs: Inputs,
    later: int = 0,
    factor: float = 1.0,
) -> Array | None:
    """Expect the gradient of a batch to pass through the noise unchanged.

    Args:
        context: The check's.
        layer: The layer.
        inputs: The batch.
        later: How many steps after the first one, if the layer is not further.
        factor: What the gradient of the output is multiplied with.

    Returns:
        The output of the training call; ``None`` if the driver shows no values there.
    """
    outputs: list[tuple[Array, Array]] = []
    of = "inputs" if context.case.inputs == "embeddings" else "parameters"
    weights = _Weights(context, inputs, factor)
    step = layer.advance(inputs, max(layer.calls, context.first_step() + later))
    noisy = _gradients(layer, inputs, weights, of, training=True, step=step, outputs=outputs)
    seen = outputs[0][0] if outputs else None
    if of == "inputs":
        expected = [weights.values]
    else:
        expected = _gradients(layer, inputs, weights, of, training=False, step=0)
        if not expected:
            raise NotClaimedError("the layer has no parameters that train")
        if not all(np.isfinite(gradient).all() for gradient in expected):
            return seen  # in float16, one of this size overflows without noise too
        context.expect(
            any(gradient.any() for gradient in expected),
            "no gradient reaches any parameter, in evaluation mode either",
            "the lookup runs under no_grad or stop_gradient, or its result is detached",
        )
    _compare(context, noisy, expected, of)
    return seen


def _gradient_of_evaluation(context: CheckContext) -> None:
    """Expect evaluation to pass the gradient, and to add no noise where one is tracked."""
    inputs = context.batch(fill="normal")
    weights, layer = _Weights(context, inputs), context.layer()
    outputs: list[tuple[Array, Array]] = []
    found = _gradients(layer, inputs, weights, "inputs", training=False, step=0, outputs=outputs)
    context.expect(
        np.array_equal(found[0], weights.values),
        "in evaluation mode the gradient at the input is another one than at the output",
        "the embeddings are detached, or scaled, in evaluation mode, from which training on "
        "embeddings in that mode suffers",
    )
    moved = max((float(abs(each - layer.clean(inputs)).max()) for each, _ in outputs), default=0.0)
    context.expect(
        moved == 0,
        f"in evaluation mode an input that needs a gradient is changed, by up to {moved:.3g}",
        "noise is added where a gradient is tracked, in evaluation mode too: look at the mode",
        ("EN02",),
    )


class _Weights:
    """Random weights of the output, odd integers of both signs, and the Python that makes them.

    Those of float32 have 12 bits; in 16 bits few, so that their sums are exact there too.
    """

    def __init__(self, context: CheckContext, inputs: Inputs, factor: float = 1.0) -> None:
        seed, half = int(context.draw.integers(2**31)), 2048 if context.dtype == "float32" else 4
        draw = np.random.default_rng(seed).integers(-half, half, inputs.shape)
        self.values: Array = ((2.0 * draw + 1) * factor).astype(np.float64)
        self.source = (
            f"(2.0 * np.random.default_rng({seed}).integers({-half}, {half}, {inputs.shape}) + 1) "
            f"* {factor}"
        )


def _compare(context: CheckContext, noisy: list[Array], expected: list[Array], of: str) -> None:
    for found, right in zip(noisy, expected, strict=True):
        ratio = float((found * right).sum() / np.square(right).sum()) if right.any() else 0.0
        where = "the input" if of == "inputs" else f"a parameter of shape {right.shape}"
        holds = found.shape == right.shape and np.allclose(found, right, rtol=2.0**-20, atol=0)
        context.expect(
            holds,
            f"the gradient at {where} is {ratio:.6g} times what it should be, all in all (what it "
            f"should be reaches {float(abs(right).max(initial=0)):.3g})",
            lambda found=found, right=right: _cause_of_gradient(context, found, right),  # type: ignore[misc]
        )


def _cause_of_gradient(context: CheckContext, found: Array, right: Array) -> str:
    if not found.any():
        return (
            "the output is detached, or computed under no_grad or stop_gradient: the "
            "embeddings would not train"
        )
    if context.claims.scale_rule.uses_rms:
        return "the gradient flows through the RMS: take that under no_grad or stop_gradient"
    ratio = float((found * right).sum() / np.square(right).sum()) if right.any() else 0.0
    if np.allclose(found, ratio * right, rtol=1e-4) and abs(ratio - 1) > 1e-4:
        return "the gradient is scaled: the embeddings are multiplied by something"
    if np.allclose(found, right, rtol=2.0**-6, atol=0):
        return "the gradient is rounded, as by a cast to a lower precision"
    same = np.isclose(found, right, rtol=2.0**-20, atol=0)
    if same.any() and (abs(found) <= abs(right) * (1 + 2.0**-20)).all():
        return (
            "a hook or a gradient of the layer's own clips the gradient, or sets a part of it to 0 "
            "(what is negative, or small, or of some tokens)"
        )
    return "the noise depends on the embeddings, or the tokens without noise are scaled"


def _gradients(
    layer: LayerUnderTest,
    inputs: Inputs,
    weights: _Weights,
    of: str,
    *,
    training: bool,
    step: int,
    outputs: list[tuple[Array, Array]] | None = None,
) -> list[Array]:
    """The gradients; ``outputs`` takes the output, and the input after the call.

    It takes none from a trace, which does not show values.
    """
    if layer.case.claims.seeded is not True:
        layer.seed(step)
    layer.record_gradient(inputs, weights.source, of=of, training=training, step=step)

    def call(native_layer: Any, native: Any) -> Any:
        output = layer.call(inputs, native, training=training, step=step, layer=native_layer)
        with contextlib.suppress(Exception):  # under JAX the output is traced
            if outputs is not None:
                left = np.asarray(layer.driver.to_numpy(native), np.float64)
                outputs.append((layer.checked(output, inputs), left))
        return output

    gradients = layer.driver.gradient(
        call,
        layer.native,
        layer.prepared(inputs),
        layer.driver.from_numpy(weights.values, layer.dtype),
        of=of,
    )
    if gradients is None:
        raise NotClaimedError(f"the driver {layer.driver.name!r} has no gradients")
    return [np.asarray(gradient, np.float64) for gradient in gradients]


@check(
    "EN37",
    dtypes="all",
    claimed=lambda claims: None if claims.clean_without_grad else "clean_without_grad=False",
)
def clean_without_gradients(context: CheckContext) -> None:
    """While gradients are turned off there is no noise, in training mode either.

    Trainers generate text and run reference passes on a model that they never switch to evaluation
    mode. This also applies to padded and packed batches. Afterwards there is new noise again. Fails
    for layers that look at their mode only, or that do not forget such a pass.
    """
    for inputs in over_paths(context, "normal"):
        _clean_without_gradients(context, inputs)


def _clean_without_gradients(context: CheckContext, inputs: Inputs) -> None:
    layer, start = context.layer(), context.first_step()
    first = layer.noise(inputs, start)
    context.expect(bool(first.any()), "there is no noise", "none is added")
    with (
        context.transcript.block("with driver.without_gradients():"),
        context.driver.without_gradients(),
    ):
        noise = layer.noise(inputs, start + 1)
    context.expect(
        not noise.any(),
        f"without gradients there is noise of up to {float(abs(noise).max()):.3g} in training mode",
        "generate() and the reference passes of a model in training mode get noise: ask the "
        "framework whether gradients are enabled",
    )
    again = layer.noise(inputs, start + 2)
    context.expect(
        bool(again.any()) or context.claims.share(start + 2) == 0,
        "after a pass without gradients there is no noise in training mode",
        "such a pass turns the noise off for good (a flag, a hook)",
        ("EN21",),
    )
    context.expect(
        not again.any() or not np.allclose(again, first, rtol=2.0**-12, atol=0),
        "after a pass without gradients the noise is that of the first step",
        "such a pass seeds the generator again",
        ("EN06",),
    )


@check(
    "EN58",
    inputs=("embeddings",),
    claimed=needs_repeats,
    premises=(*NOISE, "EN05", "EN13"),
)
def same_noise_with_gradient(context: CheckContext) -> None:
    """An input that needs a gradient, as in training, gets the noise of one that needs none.

    At every step, padded, packed or not. Fails for layers that add no noise where a gradient is
    tracked, keep it there from step to step, or draw in another way.
    """
    start = context.first_step()
    for inputs in over_paths(context):
        plain, layer = context.layer(), context.layer(name="other")
        for step in (start, start + 1, start + 2):
            expected = plain.train(inputs, step)
            found = output_with_gradient(context, layer, inputs, step)
            if found is None:
                raise NotClaimedError(
                    f"the driver {layer.driver.name!r} has no gradients, or shows no values in them"
                )
            moved = float(abs(found[0] - expected).max())
            context.expect(
                moved <= 2.0**-18 * float(abs(expected).max()),
                f"for an input that needs a gradient the noise of step {step} differs by up to "
                f"{moved:.3g}, and is {'' if (found[0] - layer.clean(inputs)).any() else 'not '}"
                "there",
                "the layer looks at requires_grad or at a tape: noise is left out, kept from an "
                "earlier step, or drawn in another way, where a gradient is tracked",
                ("EN09", "EN19", "EN20") if context.where else (),
            )


def output_with_gradient(
    context: CheckContext, layer: LayerUnderTest, inputs: Inputs, step: int
) -> tuple[Array, Array] | None:
    """The output of a training call whose input needs a gradient, and the input after the call.

    ``None`` if the driver has no gradients, or shows no values in them.
    """
    if not context.driver.overrides("gradient"):
        return None
    outputs: list[tuple[Array, Array]] = []
    weights, step = _Weights(context, inputs), layer.advance(inputs, step)
    _gradients(layer, inputs, weights, "inputs", training=True, step=step, outputs=outputs)
    return outputs[0] if outputs else None
