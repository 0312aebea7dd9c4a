"""The layer does under a framework's transformations what it does without."""

from __future__ import annotations

import numpy as np

from embnoise.testing.claims import Claims
from embnoise.testing.context import CheckContext
from embnoise.testing.failures import ClaimViolatedError, NotClaimedError, UntestableError
from embnoise.testing.registry import NOISE, check, needs_repeats

_LIKELY = {
    "vmap": "the noise is drawn or added in a way that vmap does not batch: by NumPy, in place, or "
    "in an operator without a rule for it",
    "grad_of_grad": "the noise passes through a function with a gradient of its own, which has no "
    "gradient itself",
    "remat": "the forward pass that is recomputed in the backward pass draws other noise: keep the "
    "draw of the first one, or make the noise a function of seed and step",
    "sharded": "the noise depends on how the batch lies on the devices",
    "opcheck": "a custom operator does not do what its schema, its fake version or its autograd "
    "formula say",
}


def _likely(name: str) -> str:
    return _LIKELY.get(name, "the layer does not support it")  # one of another driver's


def _claimed(claims: Claims) -> str | None:
    return needs_repeats(claims) if claims.transformations else "transformations=()"


@check(
    "EN60",
    inputs=("embeddings",),
    claimed=_claimed,
    premises=(*NOISE, "EN05", "EN06", "EN15"),
)
def transformed_equals_plain(context: CheckContext) -> None:
    """Under each transformation that is claimed, a training call returns what a plain one does.

    vmap: over an axis of size 1 before the others. grad_of_grad: the second derivative of
    sum(y**3) / 6. remat: the gradient of sum(y**2) / 2, whose forward pass is recomputed. sharded:
    with the batch split over all devices. opcheck: PyTorch's test of each
    custom operator that the layer calls.
    """
    inputs, step = context.batch(), context.first_step()
    expected = context.layer().train(inputs, step)
    size = float(abs(expected).max())
    for name in context.claims.transformations:
        context.transcript.clear()
        layer = context.layer()
        layer.advance(inputs, step)
        layer.transform(name)
        try:
            found = layer.train(inputs, step)
        except UntestableError as error:
            raise ClaimViolatedError(f"under {name} {error}", _likely(name)) from None
        moved = float(abs(found - expected).max())
        context.expect(
            moved <= 2.0**-18 * size,
            f"under {name} the output differs by up to {moved:.3g} from that of a plain call (the "
            f"largest |output| is {size:.3g})",
            _likely(name),
        )
    if not np.any(expected):
        raise NotClaimedError("there is no noise at all")
