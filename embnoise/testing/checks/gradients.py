"""The gradient treats the noise as a constant."""

from __future__ import annotations

from typing import Any

import numpy as np

from embnoise.testing.context import CheckContext
from embnoise.testing.failures import NotClaimedError
from embnoise.testing.inputs import Array, Inputs
from embnoise.testing.layer_under_test import LayerUnderTest
from embnoise.testing.registry import check


@check("EN13")
def gradient_is_one(context: CheckContext) -> None:
    """The gradient passes through the noise unchanged, to the input or to the embedding table.

    The output is weighted with small integers, so that sums are exact, and the gradient must equal
    these weights (for ids, the gradient in evaluation mode). Fails for layers that detach their
    output, add the noise under no_grad, or scale what they pass on.
    """
    of = "inputs" if context.case.inputs == "embeddings" else "parameters"
    fill = None if context.claims.scale_rule.uses_rms else "normal"
    inputs = context.batch(fill=fill)
    weights = _Weights(int(context.draw.integers(2**31)), inputs.shape)
    layer = context.layer()
    layer.advance(inputs, context.first_step())
    noisy = _gradients(layer, inputs, weights, of, training=True, step=context.first_step())
    if of == "inputs":
        expected = [weights.values]
    else:
        expected = _gradients(layer, inputs, weights, of, training=False, step=0)
        if not expected:
            raise NotClaimedError("the layer has no parameters that train")
        context.expect(
            any(gradient.any() for gradient in expected),
            "no gradient reaches any parameter, in evaluation mode either",
            "the lookup runs under no_grad or stop_gradient, or its result is detached",
        )
    _compare(context, noisy, expected, of)


class _Weights:
    """Random weights of the output, and the Python that makes them."""

    def __init__(self, seed: int, shape: tuple[int, int, int]) -> None:
        self.values: Array = np.random.default_rng(seed).integers(1, 8, shape).astype(np.float64)
        self.source = f"np.random.default_rng({seed}).integers(1, 8, {shape})"


def _compare(context: CheckContext, noisy: list[Array], expected: list[Array], of: str) -> None:
    for found, right in zip(noisy, expected, strict=True):
        ratio = float((found * right).sum() / np.square(right).sum()) if right.any() else 0.0
        where = "the input" if of == "inputs" else f"a parameter of shape {right.shape}"
        likely = "the noise depends on the embeddings, or the tokens without noise are scaled"
        if not found.any():
            likely = (
                "the output is detached, or computed under no_grad or stop_gradient: the "
                "embeddings would not train"
            )
        elif np.allclose(found, ratio * right, rtol=1e-4):
            likely = "the gradient is scaled: the embeddings are multiplied by something"
        context.expect(
            found.shape == right.shape and np.allclose(found, right, rtol=2.0**-20, atol=0),
            f"the gradient at {where} is {ratio:.4g} times what it should be",
            likely,
        )


def _gradients(
    layer: LayerUnderTest, inputs: Inputs, weights: _Weights, of: str, *, training: bool, step: int
) -> list[Array]:
    if layer.case.claims.seeded is not True:
        layer.seed(step)
    layer.record_gradient(inputs, weights.source, of=of, training=training, step=step)

    def call(native_layer: Any, native: Any) -> Any:
        return layer.call(inputs, native, training=training, step=step, layer=native_layer)

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
    claimed=lambda claims: None if claims.clean_without_grad else "clean_without_grad=False",
)
def clean_without_gradients(context: CheckContext) -> None:
    """While gradients are turned off there is no noise, in training mode either.

    Trainers generate text and run reference passes on a model that they never switch to evaluation
    mode. Fails for layers that look at their mode only.
    """
    inputs = context.batch(fill="normal")
    layer = context.layer()
    context.expect(
        bool(layer.noise(inputs, context.first_step()).any()), "there is no noise", "none is added"
    )
    with (
        context.transcript.block("with driver.without_gradients():"),
        context.driver.without_gradients(),
    ):
        noise = layer.noise(inputs, context.first_step() + 1)
    context.expect(
        not noise.any(),
        f"without gradients there is noise of up to {float(abs(noise).max()):.3g} in training mode",
        "generate() and the reference passes of a model in training mode get noise: ask the "
        "framework whether gradients are enabled",
    )
