"""A training call changes nothing that others see."""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

from embnoise.testing.batches import Batch, over_batches
from embnoise.testing.checks.gradients import output_with_gradient
from embnoise.testing.context import CheckContext
from embnoise.testing.failures import NotClaimedError
from embnoise.testing.inputs import PACKED, SMALL, Inputs
from embnoise.testing.layer_under_test import LayerUnderTest
from embnoise.testing.registry import check

State = dict[str, NDArray[Any]]

IN_PLACE = "the noise is added to the input in place (add_, +=): add it to a copy"


@check("EN16", dtypes="all", premises=())
def input_unchanged(context: CheckContext) -> None:
    """A training call does not change its input, nor what an earlier call returned.

    So it is in padded and packed batches, and if the input needs a gradient. Fails for layers that
    add the noise in place to what they were given, or return a buffer that the next call writes
    into.
    """

    def body(batch: Batch) -> None:
        layer = context.layer(dim=batch.dim, alpha=batch.scaled(context))
        unchanged(batch.inputs(context, "normal"), layer)

    def unchanged(inputs: Inputs, layer: LayerUnderTest) -> None:
        native = layer.prepared(inputs)
        before = layer.driver.to_numpy(native)
        layer.raw(inputs, native, training=True, step=layer.advance(inputs, context.first_step()))
        after = layer.driver.to_numpy(native)
        changed = int((before != after).sum())
        context.expect(
            before.tobytes() == after.tobytes(),
            f"a training call changes {changed} of the {before.size} elements of its own input",
            IN_PLACE,
        )

    over_batches(context, body)
    if context.layer().takes("segment_ids"):
        context.transcript.clear()
        unchanged(context.batch(fill="normal", segments=PACKED), context.layer())
    if context.case.inputs == "embeddings":
        _tracked_input_unchanged(context)
    context.transcript.clear()
    inputs, start = context.batch(fill="normal"), context.first_step()
    layer = context.layer()
    native = layer.prepared(inputs)
    output = layer.raw(inputs, native, training=True, step=layer.advance(inputs, start))
    before = layer.driver.to_numpy(output)
    layer.raw(inputs, native, training=True, step=layer.advance(inputs, start + 1))
    changed = int((before != layer.driver.to_numpy(output)).sum())
    context.expect(
        not changed,
        f"the next training call changes {changed} of the {before.size} elements of the output of "
        "the last one",
        "the output is a buffer of the layer, which every call writes into: return a new array",
    )


def _tracked_input_unchanged(context: CheckContext) -> None:
    """The same for an input that needs a gradient, as in training."""
    context.transcript.clear()
    inputs, layer = context.batch(fill="normal"), context.layer()
    if (found := output_with_gradient(context, layer, inputs, context.first_step())) is None:
        return
    changed = int((found[1] != layer.clean(inputs)).sum())
    context.expect(
        not changed,
        f"a training call changes {changed} of the {found[1].size} elements of its own input, if "
        "that needs a gradient",
        IN_PLACE,
    )


@check("EN17", inputs=("ids",), premises=())
def table_unchanged(context: CheckContext) -> None:
    """A call does not change the embedding table or any other saved value.

    Fails for layers that add the noise to the table in place, where it stays.
    """
    before, after, evaluated = _states(context)
    if not before and not after:
        raise NotClaimedError("the layer has no saved state (it may be a function)")
    for name, value in before.items():
        if name.rpartition(".")[2] in context.claims.saved_names:
            continue
        now = after.get(name)
        context.expect(
            now is not None and now.tobytes() == value.tobytes(),
            f"a call changes {name}, of shape {value.shape}, in the saved state",
            _cause_of_change(value, evaluated.get(name)),
        )


def _cause_of_change(before: NDArray[Any], evaluated: NDArray[Any] | None) -> str:
    if evaluated is not None and evaluated.tobytes() != before.tobytes():
        return (
            "evaluation, which has no noise, changes it too: the lookup renormalizes its table (as "
            "max_norm of nn.Embedding does), or something else writes into it. Keep that out of "
            "the layer, or expect EN17 to fail"
        )
    if before.ndim == 2:
        return (
            "the noise is added to the table instead of the looked-up embeddings, and stays there"
        )
    return "the layer keeps its noise or a counter in a buffer that is saved"


@check("EN18", premises=("EN02", "EN03"))
def saved_state_clean(context: CheckContext) -> None:
    """The layer adds nothing to the saved state, except what it claims to save.

    Fails for layers that keep their noise, alpha or step in a persistent buffer, a parameter or a
    variable. Checkpoints without that entry then no longer load.
    """
    before, after, _ = _states(context)
    tables = context.case.inputs == "ids"
    for name, value in after.items():
        allowed = name.rpartition(".")[2] in context.claims.saved_names
        table = tables and name in before and SMALL[2] in value.shape and value.ndim <= 2
        context.expect(
            allowed or table,
            f"the saved state has an entry {name!r}, of shape {value.shape}",
            "the noise, alpha or a counter is a persistent buffer, a parameter or a variable: keep "
            "it out of the state (in PyTorch persistent=False, in Keras a plain attribute, in "
            "Flax no Variable, in Equinox a number in eqx.field(static=True)), or name it in "
            "Claims(saved_names=...)",
        )
    context.expect(
        set(before) <= set(after),
        "a training call removes entries from the saved state",
        "the layer deletes a buffer or a parameter when it is called",
    )


def _states(context: CheckContext) -> tuple[State, State, State]:
    """The saved state before and after calls, and after one in evaluation mode.

    That before is of a layer that is built by its first call.
    """
    inputs = context.batch(fill="normal")
    layer = context.layer()
    made = {name: np.array(value) for name, value in context.driver.state(layer.native).items()}
    layer.eval(inputs)
    built = context.driver.state(layer.native)
    evaluated = {name: np.array(value) for name, value in built.items()}
    for step in (0, 1):
        layer.train(inputs, context.first_step() + step)
    return evaluated | made, dict(context.driver.state(layer.native)), evaluated
