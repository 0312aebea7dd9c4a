"""A training call changes nothing that others see."""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

from embnoise.testing.batches import Batch, over_batches
from embnoise.testing.checks.gradients import output_with_gradient
from embnoise.testing.context import CheckContext
from embnoise.testing.failures import NotClaimedError, UntestableError
from embnoise.testing.inputs import PACKED, Inputs
from embnoise.testing.layer_under_test import LayerUnderTest
from embnoise.testing.paths import over_paths
from embnoise.testing.registry import check

State = dict[str, NDArray[Any]]

IN_PLACE = "the noise is added to the input in place (add_, +=): add it to a copy"


@check("EN16", dtypes="all", premises=())
def input_unchanged(context: CheckContext) -> None:
    """A training call does not change its input, nor what an earlier call returned.

    This also applies to large, padded and packed batches, and if the input needs a gradient. Fails
    for layers that add the noise in place to what they were given, or return a buffer that the
    next call writes into.
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
    context.transcript.clear()
    large = context.sample()
    unchanged(large, context.layer(dim=large.dim))
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
    try:
        found = output_with_gradient(context, layer, inputs, context.first_step())
    except UntestableError:
        context.premises += ("EN13",)
        raise
    if found is None:
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
    """The layer adds nothing to the saved state, except what it claims to save; saving is silent.

    A layer that embeds ids may have tables and other weights: what calls do not change, and what
    does not depend on alpha. Fails for layers that keep their noise, alpha or step in a persistent
    buffer, a parameter or a variable. Checkpoints without that entry then no longer load. Fails
    also for layers whose noise stops, or starts over, when a checkpoint is saved during training.
    """
    before, after, _ = _states(context)
    weights = _weights(context, before) if context.case.inputs == "ids" else set()
    for name, value in after.items():
        allowed = name.rpartition(".")[2] in context.claims.saved_names
        context.expect(
            allowed or name in weights,
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
    context.transcript.clear()
    _saved_in_silence(context)


def _weights(context: CheckContext, state: State) -> set[str]:
    """The names of the entries of a layer that embeds ids which are its tables and other weights.

    These are the same with another alpha, or are of the layer's own making, so that two layers that
    are made alike differ in them too. Single integers, or a few, are a seed, a key or a count.
    """
    with context.transcript.paused():
        other, again = (
            _built(context, context.layer(alpha=alpha)).values()
            for alpha in (2 * context.alpha, None)
        )
    # In order, since Keras numbers the names of the layers that are made.
    return {
        name
        for (name, value), with_more, alike in zip(state.items(), other, again, strict=False)
        if (value.dtype.kind == "f" or value.ndim > 1)
        and (np.array_equal(with_more, value) or not np.array_equal(alike, value))
    }


def _saved_in_silence(context: CheckContext) -> None:
    """Expect the noise after the state was read to be what it is without that."""
    inputs, start = context.batch(fill="normal"), context.first_step()
    layer, other = context.layer(), context.layer(name="other")
    for each in (layer, other):
        each.train(inputs, start)
    context.transcript.write(f"driver.state({layer.name})")
    context.driver.state(layer.native)
    found, expected = (each.noise(inputs, start + 1) for each in (layer, other))
    context.expect(
        bool(found.any()) or not expected.any(),
        "after the state was saved there is no noise in training mode",
        "saving turns the noise off for good (a flag, a hook)",
    )
    moved = float(abs(found - expected).max())
    context.expect(
        not context.claims.repeatable or moved <= 2.0**-12 * float(abs(expected).max()),
        "after the state was saved, a training call has other noise than without that, by up to "
        f"{moved:.3g}",
        "saving seeds the generator again, or draws from it",
        ("EN05",),
    )


def _states(context: CheckContext) -> tuple[State, State, State]:
    """The saved state before and after calls of all kinds, and after one in evaluation mode.

    That before is of a layer that is built by its first call.
    """
    batches = [*over_paths(context, "normal")]
    layer, step = context.layer(), context.first_step()
    made = _copied(context, layer)
    evaluated = _built(context, layer)
    for inputs in batches:
        for _ in range(2):
            layer.train(inputs, step)
            step += 1
    return evaluated | made, dict(context.driver.state(layer.native)), evaluated


def _built(context: CheckContext, layer: LayerUnderTest) -> State:
    """The saved state of a layer that is built by a call in evaluation mode."""
    layer.eval(context.batch(fill="normal"))
    return _copied(context, layer)


def _copied(context: CheckContext, layer: LayerUnderTest) -> State:
    return {name: np.array(value) for name, value in context.driver.state(layer.native).items()}
