"""What a call is given is read right, whatever its memory is like, and left as it was."""

from __future__ import annotations

import contextlib
from typing import Any

import numpy as np

from embnoise.testing.context import CheckContext
from embnoise.testing.failures import (
    ClaimViolatedError,
    NotClaimedError,
    NotTestedError,
    UntestableError,
)
from embnoise.testing.inputs import RAGGED, Inputs
from embnoise.testing.paths import over_paths
from embnoise.testing.registry import NOISE, check, needs_repeats


def _same(context: CheckContext, left: np.ndarray, right: np.ndarray) -> bool:
    tolerance = max(2.0**-18, context.grid) * max(float(abs(left).max()), 1e-30)
    return bool(abs(left - right).max() <= tolerance)


@check("EN55", dtypes="all", claimed=needs_repeats, premises=(*NOISE, "EN02", "EN05", "EN15"))
def evaluation_draws_nothing(context: CheckContext) -> None:
    """Evaluation between training calls does not change their noise.

    Nor does evaluation of padded, packed and large batches, nor without gradients, which is how it
    usually runs. Fails for layers that draw in evaluation mode and drop the draw, or seed their
    generator again when the mode changes.
    """
    for inputs in over_paths(context, "normal", sizes=True):
        _draws_nothing(context, inputs)


def _draws_nothing(context: CheckContext, evaluated: Inputs) -> None:
    """Expect the evaluation of a batch not to change the noise of a plain one of its size."""
    inputs = context.batch(evaluated.shape, "normal")
    start = context.first_step()
    layer = context.layer(dim=inputs.dim)
    alone = [layer.train(inputs, start + k) for k in range(3 if context.where else 4)]
    other = context.layer(dim=inputs.dim, name="other")
    found = [other.train(inputs, start)]
    for k in range(1, len(alone)):
        with context.without_gradients() if k == len(alone) - 1 else contextlib.nullcontext():
            # In plain batches, two calls in a row after evaluation.
            for _ in range(0 if k == 2 and not context.where else 3):
                other.eval(evaluated)
        found.append(other.train(inputs, start + k))
    clean = layer.clean(inputs)
    if not _same(context, alone[0], found[0]):
        raise NotTestedError("the same seed draws other noise, which EN05 reports")
    pairs = zip(alone, found, strict=True)
    moved = [k for k, (a, b) in enumerate(pairs) if not _same(context, a - clean, b - clean)]
    likely = "evaluation draws from the layer's generator, or advances its count: draw only in "
    likely += "training mode"
    if moved and _same(context, found[moved[0]] - clean, alone[0] - clean):
        likely = "the sequence starts over: eval() or train() seeds the generator again"
    elif moved and not (found[moved[0]] - clean).any():
        likely = "an evaluation call turns the noise off"
    context.expect(
        not moved,
        f"after evaluation calls, training call {moved[0] + 1 if moved else 0} has other noise "
        "than without them",
        likely,
        ("EN51",) if context.where else (),
    )


@check(
    "EN56",
    inputs=("embeddings",),
    dtypes="all",
    claimed=needs_repeats,
    premises=(*NOISE, "EN05"),
)
def strided_input(context: CheckContext) -> None:
    """An input that is not contiguous in memory gets the noise of a contiguous one.

    Its mask and its segment ids are not contiguous either. With a seed of the layer's own it is the
    same noise; else noise of the same size, since drawing in the order of the memory, as rand_like
    does, is as good. Fails for layers that read memory in order, whatever the strides are, or
    cannot take such an input.
    """
    native = context.layer().prepared(context.batch())
    if not any(hasattr(native, name) for name in ("stride", "strides")):
        raise NotClaimedError(f"the arrays of the driver {context.driver.name!r} have no strides")
    for inputs in over_paths(context, "normal"):
        _strided(context, inputs)


def _strided(context: CheckContext, inputs: Inputs) -> None:
    """Expect a batch whose arrays are not contiguous to get the noise of one whose are."""
    step = context.first_step()
    layer = context.layer()
    expected = layer.train(inputs, step)
    try:
        found = context.layer(name="other").train(inputs.with_swapped_memory(), step)
    except UntestableError as error:
        raise ClaimViolatedError(
            f"{context.where}for an input that is not contiguous, {error}",
            "view() instead of reshape()",
        ) from None
    if context.claims.seeded is not True:
        clean = layer.clean(inputs)
        _expect_the_size(context, expected - clean, found - clean)
        return
    tolerance = max(2.0**-18, context.grid)
    differ = int((abs(found - expected) > tolerance * abs(expected).max()).sum())
    context.expect(
        _same(context, expected, found),
        f"an input that is not contiguous gives another output, in {differ} of {found.size} "
        "elements",
        "the memory of the input, its mask or its segment ids is read in order, as if it were "
        "contiguous, or noise is drawn in the order of the strides (as empty_like does)",
    )


def _expect_the_size(context: CheckContext, expected: np.ndarray, found: np.ndarray) -> None:
    """The noise is about as large; what is read in the wrong order is far from the embeddings."""
    sizes = [float(np.sqrt(np.square(each).mean())) for each in (expected, found)]
    context.expect(
        sizes[0] / 2 <= sizes[1] <= 2 * sizes[0],
        f"an input that is not contiguous gets noise with the RMS {sizes[1]:.4g}, a contiguous "
        f"one with {sizes[0]:.4g}",
        "the memory of the input is read in order, as if it were contiguous",
    )


def _flags(native: Any) -> dict[str, Any]:
    names = ("requires_grad", "is_leaf", "dtype", "shape")
    return {name: str(getattr(native, name)) for name in names if hasattr(native, name)}


@check("EN57")
def arguments_unchanged(context: CheckContext) -> None:
    """A call does not change its mask, its segment ids, its input's ``requires_grad``, or its mode.

    The mask is one of integers too. Fails for layers that edit the mask in place, track a gradient
    on what they were given, or
    switch themselves or their parts to training or evaluation.
    """
    for inputs in over_paths(context, "normal"):
        _unchanged(context, inputs)
    if context.layer().gets("mask"):
        context.transcript.clear()
        integers = context.batch(fill="normal", mask=RAGGED).with_mask_of("int64")
        with contextlib.suppress(UntestableError):  # refused
            _unchanged(context, integers)


def _unchanged(context: CheckContext, inputs: Inputs) -> None:
    layer, driver = context.layer(), context.driver
    native, arrays = layer.prepared(inputs), layer.arrays(inputs)
    kept = {name: driver.to_numpy(array) for name, array in arrays.items()}
    flags = _flags(native)
    for training in (True, False):
        step = layer.advance(inputs, context.first_step()) if training else layer.calls
        driver.switch(layer.native, training)
        modes = driver.modes_of(layer.native)
        layer.raw(inputs, native, training=training, step=step, arrays=arrays)
        mode = "training" if training else "evaluation"
        switched = [
            name for name, flag in driver.modes_of(layer.native).items() if flag != modes[name]
        ]
        context.expect(
            not switched,
            f"a call in {mode} mode switches the mode of {', '.join(map(repr, switched))}",
            "forward calls train() or eval(), which the trainer does: the layer is in another mode "
            "for the next call",
        )
        for name, array in arrays.items():
            now = driver.to_numpy(array)
            context.expect(
                now.tobytes() == kept[name].tobytes(),
                f"a call in {mode} mode changes its {name}, in {int((now != kept[name]).sum())} "
                f"of {now.size} elements",
                f"the {name} is edited in place: copy it first",
            )
        for name, before in flags.items():
            after = str(getattr(native, name))
            context.expect(
                after == before,
                f"a call in {mode} mode changes {name} of its input, from {before} to {after}",
                "the layer sets an attribute of what it was given (requires_grad_(), resize_())",
            )
