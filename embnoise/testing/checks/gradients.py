"""The noise is a constant to the gradient."""

from __future__ import annotations

from typing import Any

import numpy as np

from embnoise.testing.failures import UnclaimedError
from embnoise.testing.layer import Array, Layer
from embnoise.testing.registry import check
from embnoise.testing.subject import Subject


@check("EN13")
def gradient_is_one(subject: Subject) -> None:
    """The gradient passes through the noise unchanged, to the input or to the embedding table.

    The output is weighted with small integers, so that sums are exact; the gradient must be these
    weights (of ids: what it is in evaluation mode). A layer fails it that detaches its output,
    adds its noise under no_grad, or scales what it passes on.
    """
    of = "inputs" if subject.case.inputs == "embeddings" else "parameters"
    fill = None if subject.claims.scale == "relative" else "normal"
    inputs = subject.batch(fill=fill)
    weights = subject.draw.integers(1, 8, inputs.shape).astype(np.float64)
    layer = subject.layer()
    layer.advance(inputs, subject.first_step())
    noisy = _gradients(layer, inputs, weights, of, training=True)
    if of == "inputs":
        expected = [weights]
    else:
        expected = _gradients(layer, inputs, weights, of, training=False)
        if not expected:
            raise UnclaimedError("the layer has no parameters that train")
        subject.expect(
            any(gradient.any() for gradient in expected),
            "no gradient reaches any parameter, in evaluation mode either",
            "the lookup is made under no_grad or stop_gradient, or its result is detached",
        )
    _compare(subject, noisy, expected, of)


def _compare(subject: Subject, noisy: list[Array], expected: list[Array], of: str) -> None:
    for found, right in zip(noisy, expected, strict=True):
        ratio = float((found * right).sum() / np.square(right).sum()) if right.any() else 0.0
        where = "the input" if of == "inputs" else f"a parameter of shape {right.shape}"
        likely = "the noise depends on the embeddings, or what is not noised is scaled"
        if not found.any():
            likely = (
                "the output is detached, or made under no_grad or stop_gradient: the embeddings "
                "would not train"
            )
        elif np.allclose(found, ratio * right, rtol=1e-4):
            likely = "the gradient is scaled: the embeddings are multiplied with something"
        subject.expect(
            found.shape == right.shape and np.allclose(found, right, rtol=2.0**-20, atol=0),
            f"the gradient at {where} is {ratio:.4g} times what it should be",
            likely,
        )


def _gradients(
    layer: Layer, inputs: Any, weights: Array, of: str, *, training: bool
) -> list[Array]:
    driver, subject = layer.driver, layer.subject

    def call(native_layer: Any, native: Any) -> Any:
        kept, layer.native = layer.native, native_layer
        try:
            return layer.raw(inputs, native, training=training, step=subject.first_step())
        finally:
            layer.native = kept

    gradients = driver.gradient(
        call,
        layer.native,
        layer.prepared(inputs),
        driver.from_numpy(weights, subject.dtype),
        of=of,
    )
    if gradients is None:
        raise UnclaimedError(f"the driver {driver.name!r} has no gradients")
    return [np.asarray(gradient, np.float64) for gradient in gradients]


@check("EN37", claimed=lambda claims: None if claims.gradients_only else "gradients_only=False")
def clean_without_gradients(subject: Subject) -> None:
    """Where gradients are switched off there is no noise, in training mode too.

    So that generate() and reference passes stay clean. A layer fails it that looks at its mode
    alone.
    """
    context = subject.able("without_gradients")
    inputs = subject.batch(fill="normal")
    layer = subject.layer()
    subject.expect(
        bool(layer.noise(inputs, subject.first_step()).any()), "there is no noise", "none is added"
    )
    subject.lines.append("# with gradients switched off")
    with context():
        noise = layer.noise(inputs, subject.first_step() + 1)
    subject.expect(
        not noise.any(),
        f"without gradients there is noise of up to {float(abs(noise).max()):.3g} in training mode",
        "generate() and the reference passes of a model in training mode are noised: look at "
        "whether gradients are enabled",
    )
