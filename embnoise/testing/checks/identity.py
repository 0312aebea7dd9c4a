"""When the layer should do nothing, it does nothing."""

from __future__ import annotations

import numpy as np

from embnoise.testing.batches import Batch, over_batches
from embnoise.testing.claims import Claims
from embnoise.testing.context import CheckContext
from embnoise.testing.diagnosis import ELSE, NO_NOISE, cause_of_change, mode_of_another_name
from embnoise.testing.failures import NotClaimedError
from embnoise.testing.inputs import SMALL, Array, Inputs
from embnoise.testing.paths import over_paths
from embnoise.testing.registry import NOISE, check

LIKELY = (
    "noise is added in evaluation mode too: the layer does not look at its mode, or does not learn "
    "of it (it is not a module of its framework, and has no parameter named training)"
)

OWN = (
    "the amplitude does not come from alpha alone, or 0 is taken for 'not given', as in "
    "`alpha or default`"
)


@check("EN02", dtypes="all", premises=())
def eval_is_identity(context: CheckContext) -> None:
    """In evaluation mode the output is the input, bit for bit; for ids, a lookup without noise.

    The same holds in padded and packed batches, and when gradients are disabled. Fails for layers
    that add noise in every mode, or scale the tokens without noise. For a layer that embeds ids,
    two calls must agree, and so must rows of equal ids.
    """

    def body(batch: Batch) -> None:
        inputs = batch.inputs(context, "normal")
        layer = context.layer(dim=batch.dim, alpha=batch.scaled(context))
        first = layer.eval(inputs)
        if context.case.inputs == "embeddings":
            expected = layer.clean(inputs)
        else:
            expected = layer.run(inputs, training=False, step=1)
        moved = float(abs(first - expected).max(initial=0))
        context.expect(
            first.tobytes() == expected.tobytes(),
            f"evaluation mode changes the embeddings, by up to {moved:.3g} (B, L, d = "
            f"{inputs.shape})",
            lambda: _cause_in_evaluation(context, batch, inputs, expected, first),
        )

    over_batches(context, body)
    for inputs in over_paths(context, "normal"):
        _on_a_path(context, inputs)
    if context.case.inputs == "ids":
        _equal_rows(context)


def _on_a_path(context: CheckContext, inputs: Inputs) -> None:
    """Expect evaluation to change nothing, nor while no gradients are recorded, as it mostly runs.

    The batches of ``over_batches`` are not packed.
    """
    layer = context.layer()
    seen = layer.eval(inputs)
    expected = seen if context.case.inputs == "ids" else layer.clean(inputs)
    moved = float(abs(seen - expected).max())
    context.expect(
        moved == 0,
        f"evaluation mode changes the embeddings, by up to {moved:.3g}",
        lambda: cause_of_change(expected, seen, inputs.mask) or LIKELY,
    )
    if not context.driver.overrides("without_gradients"):
        return
    with context.without_gradients():
        seen = layer.eval(inputs)
    moved = float(abs(seen - expected).max())
    context.expect(
        moved == 0,
        f"in evaluation mode, without gradients, the embeddings change, by up to {moved:.3g}",
        "noise is added where no gradient is recorded: look at the mode alone",
    )


def _silent_at_zero(claims: Claims) -> str | None:
    if claims.magnitude(0.0, *SMALL[1:]) == 0:
        return None
    return f"scale={claims.scale_rule.name!r} is above 0 for alpha = 0"


def _cause_in_evaluation(
    context: CheckContext, batch: Batch, inputs: Inputs, expected: Array, seen: Array
) -> str:
    if known := cause_of_change(expected, seen, inputs.mask):
        return known
    with context.transcript.paused():
        silent = context.layer(dim=batch.dim, alpha=0.0).eval(inputs)
    if np.array_equal(silent, seen):
        return ELSE
    return mode_of_another_name(context.layer().parameters, context.driver.modes) or LIKELY


def _cause_without_alpha(
    context: CheckContext, batch: Batch, inputs: Inputs, clean: Array, noise: Array
) -> str:
    if known := cause_of_change(clean, clean + noise, inputs.mask):
        return known
    with context.transcript.paused():
        other = context.layer(dim=batch.dim, alpha=0.0, seed=context.seed + 1)
        again = other.noise(inputs, 1)
    return ELSE if np.array_equal(again, noise) else OWN


def _equal_rows(context: CheckContext) -> None:
    context.transcript.clear()
    inputs = context.batch().with_equal_rows()
    output = context.layer().eval(inputs)
    context.expect(
        bool((output == output[:1]).all()),
        "in evaluation mode, rows of equal ids have different embeddings",
        LIKELY,
    )


@check("EN03", dtypes="all", claimed=_silent_at_zero, premises=("EN02",))
def alpha_zero_is_identity(context: CheckContext) -> None:
    """With alpha = 0 the output in training mode is the input, bit for bit.

    A layer may refuse it with a ValueError. Fails for layers whose amplitude does not come from
    alpha alone, or that take 0 for "not given" (``alpha or 5.0``).
    """
    if refusal := context.refused(0.0):
        raise NotClaimedError(refusal)

    def body(batch: Batch) -> None:
        inputs = batch.inputs(context, "normal")
        layer = context.layer(dim=batch.dim, alpha=0.0)
        noise = layer.noise(inputs)
        moved = float(abs(noise).max(initial=0))
        context.expect(
            moved == 0,
            f"with alpha = 0 the embeddings change, by up to {moved:.3g}",
            lambda: _cause_without_alpha(context, batch, inputs, layer.clean(inputs), noise),
        )

    over_batches(context, body, empty_rows=False)  # which EN09 tests
    for inputs in over_paths(context, "normal", plain=False):
        layer = context.layer(alpha=0.0)
        noise = layer.noise(inputs)
        moved = float(abs(noise).max())
        context.expect(
            moved == 0,
            f"with alpha = 0 the embeddings change, by up to {moved:.3g}",
            lambda: cause_of_change(layer.clean(inputs), layer.train(inputs), inputs.mask) or OWN,  # noqa: B023
        )


@check("EN15", premises=(*NOISE, "EN02"))
def train_again(context: CheckContext) -> None:
    """Train, evaluate, train: noise, no noise, and noise again.

    Evaluation runs without gradients too. Fails for layers whose eval() turns the noise off for
    good, or that keep a copy of the mode.
    """
    inputs = context.batch(fill="normal")
    layer = context.layer()
    start = context.first_step()
    silent = layer.clean(inputs)  # for ids, an evaluation call before any training
    first = layer.noise(inputs, start)
    clean = layer.eval(inputs)
    left = float(abs(clean - silent).max(initial=0))
    context.expect(
        left == 0,
        f"after a training call, evaluation mode changes the embeddings, by up to {left:.3g}",
        "the noise that training turned on (a flag, a hook, a cached draw) stays on in eval()",
    )
    with context.without_gradients():
        layer.eval(inputs)
    again = layer.train(inputs, start + 1) - clean
    share = context.claims.share(start + 1)
    context.expect(
        bool(first.any()), "there is no noise in training mode", NO_NOISE, premises=("EN21",)
    )
    context.expect(
        bool(again.any()) or share == 0,
        "after train(), eval() and train() again there is no noise",
        "the layer keeps a copy of the mode, or eval() removes the noise (a hook, alpha) and "
        "train() does not bring it back",
    )
