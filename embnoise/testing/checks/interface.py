"""The layer can be made and called, and keeps the shape, dtype and device of its input."""

from __future__ import annotations

import math
from typing import Any

import numpy as np

from embnoise._validation import dtype_name
from embnoise.testing.context import CheckContext
from embnoise.testing.diagnosis import (
    NO_NOISE,
    RIGHT_ALONE,
    key_of_another_name,
    mask_of_another_name,
    mode_of_another_name,
)
from embnoise.testing.failures import (
    ClaimViolatedError,
    NotClaimedError,
    NotFiniteError,
    UntestableError,
    raised_by_layer,
)
from embnoise.testing.inputs import PACKED, RAGGED, SMALL, Array, Inputs, left_mask, right_mask
from embnoise.testing.layer_under_test import LayerUnderTest
from embnoise.testing.registry import SIZE, check
from embnoise.testing.statistics import RATE, amplitude, amplitude_window, extreme_window
from embnoise.testing.tables import zero_share

_HOW = {
    "embeddings": "The kit passes embeddings [B, L, d]; for a layer that embeds token ids itself "
    "use inputs='ids'.",
    "ids": "The kit passes ids [B, L] of 0 to 7; for a layer after the embedding use "
    "inputs='embeddings'.",
}


def _by_name(context: CheckContext, layer: LayerUnderTest, error: str) -> str:
    """The parameters that are passed by name, or what to do with one that is missing."""
    driver = context.driver
    missing = [name for name in layer.parameters if f"'{name}'" in error and "missing" in error]
    other = mode_of_another_name(missing, driver.modes) or mask_of_another_name(missing)
    if driver.key is not None:
        other = other or key_of_another_name(missing)
    if other and not context.case.call:
        return f" Likely: {other}."
    known = ["mask", "step", "segment_ids", *driver.modes]
    known += [] if driver.key is None else ["key"]
    return (
        f" Parameters named {', '.join(known)} are passed by name; for another signature use "
        "case(..., call=...)."
    )


@check("EN01", dtypes="all", premises=())
def can_be_called(context: CheckContext) -> None:
    """Each make_layer(...) returns a fresh layer, whose outputs are finite arrays [B, L, d].

    The other checks depend on this one. Fails for factories that raise, return something that
    cannot be called, or return the same object twice; and for layers that raise, or return another
    shape, integers or NaN, in training or evaluation mode, or raise for a batch with padding.
    """
    context.layer()
    layer = context.layer()
    try:
        _call(context, layer, context.batch(fill="normal"))
    except NotFiniteError:
        raise
    except UntestableError as error:
        if context.dtype != "float32":  # in which it can be called as it is
            raise
        how = _HOW[context.case.inputs] + _by_name(context, layer, str(error))
        raise UntestableError(f"{error}. {how}") from None
    if context.case.inputs == "ids" or layer.gets("mask"):
        _call_padded(context)


def _call(context: CheckContext, layer: LayerUnderTest, inputs: Inputs) -> None:
    for output in (layer.train(inputs), layer.eval(inputs)):
        context.expect(
            output.shape == inputs.shape, f"the output is {output.shape}", "another shape"
        )


def _call_padded(context: CheckContext) -> None:
    masks = {
        "padding": right_mask([7, 3, 2, 5], SMALL[1]),
        "padding on the left": left_mask([7, 3, 2, 5], SMALL[1]),
        "a row that is all padding": right_mask([7, 3, 0, 5], SMALL[1]),
    }
    if context.claims.padding == "right":
        del masks["padding on the left"]
    for what, mask in masks.items():
        context.transcript.clear()
        try:
            _call(context, context.layer(), context.batch(fill="normal", mask=mask))
        except NotFiniteError:  # which EN09 and EN10 report
            continue
        except UntestableError as error:
            how = f". {RIGHT_ALONE.capitalize()}" if "left" in what else ""
            raise UntestableError(f"for a batch with {what}, {error}{how}") from None


@check("EN04", dtypes="all", premises=())
def dtype_kept(context: CheckContext) -> None:
    """The output in training has the dtype and the device of the embeddings.

    Fails for layers whose noise is drawn in float32 (or float64) and promotes the sum, which
    doubles the memory of all that follows, sometimes only in large, padded or packed batches; or
    that draw on the CPU for inputs on another device.
    """
    _keeps_dtype(context, context.batch(fill="normal"))
    context.transcript.clear()
    _keeps_dtype(context, context.sample())
    context.transcript.clear()
    _keeps_dtype(context, context.batch(fill="normal", mask=RAGGED))
    if context.layer().takes("segment_ids"):
        context.transcript.clear()
        _keeps_dtype(context, context.batch(fill="normal", segments=PACKED))


def _keeps_dtype(context: CheckContext, inputs: Inputs) -> None:
    layer = context.layer(dim=inputs.dim)
    native = layer.prepared(inputs)
    noisy = layer.raw(
        inputs, native, training=True, step=layer.advance(inputs, context.first_step())
    )
    layer.checked(noisy, inputs)
    clean = native
    if context.case.inputs == "ids":
        clean = layer.raw(inputs, native, training=False, step=layer.calls)
    before, after = dtype_name(clean), dtype_name(noisy)
    context.expect(
        before == after,
        f"the output is {after} in training, but the embeddings are {before}",
        "the noise is drawn in another dtype, and the sum promoted to it: draw in float32 if "
        "you like, and cast the sum to the embeddings' dtype",
    )
    places = [str(getattr(array, "device", None)) for array in (clean, noisy)]
    context.expect(
        places[0] == places[1],
        f"the output is on {places[1]}, but the embeddings are on {places[0]}",
        "the noise is drawn on the default device: draw it on the device of the embeddings",
    )


@check("EN23", random=True, premises=(*SIZE, "EN55"))
def edge_shapes(context: CheckContext) -> None:
    """A batch of 1, a length of 1, one channel and an empty batch work, with the claimed noise.

    Fails for layers that squeeze axes of size 1 away, divide by L - 1, or cannot take a batch
    without rows, which some ranks get at the end of an epoch.
    """
    for shape in [(1, 7, 16), (4, 1, 1), (4, 1, 16), (0, 7, 16)]:
        context.transcript.clear()
        inputs = context.batch(shape)
        step = context.first_step()
        try:
            layer = context.layer(dim=shape[2])
            units = layer.units(inputs, step)
            layer.eval(inputs)
            if not units.size and layer.may_lack("mask"):
                layer.units(inputs.telling("mask"), step + 1)
            context.expect(
                bool(units.any()) or _may_be_silent(context, units.size),
                f"inputs of shape {shape} get no noise",
                f"{NO_NOISE}; or an axis of size 1 is squeezed away",
            )
        except UntestableError as error:
            raise UntestableError(f"for B, L, d = {shape}: {error}") from None
        _within(context, units, inputs.shape)
        if units.size >= 16 and context.claims.share(step + 1) > 0:
            again = layer.units(inputs, step + 1)
            context.expect(
                not units.any() or not np.allclose(units, again, rtol=2.0**-12, atol=0),
                f"inputs of shape {shape} get the same noise at steps {step} and {step + 1}",
                f"batches of {_one_of(shape)} take another path, which has one draw for all steps, "
                "or seeds its generator again",
                ("EN06",),
            )


@check(
    "EN61",
    claimed=lambda claims: None if claims.framework_test else "framework_test=False",
    premises=(),
)
def framework_test(context: CheckContext) -> None:
    """The layer passes its framework's own test of layers: Keras's run_layer_test.

    Fails for Keras layers that cannot be made again from their configuration, or have other noise
    then; that have another shape or dtype in symbolic calls; or take a mask and do not pass it on.
    """
    context.layer()
    inputs = context.batch(fill="normal")
    made: dict[str, Any] = {"dim": inputs.dim, "alpha": context.alpha, "seed": context.seed}
    dtype = None if context.case.inputs == "ids" else "float32"
    arguments = ", ".join(f"{name}={value}" for name, value in made.items())
    context.transcript.clear()
    context.transcript.set("x", inputs.source)
    context.transcript.write(
        "driver.framework_test(lambda dtype: driver.make(make_layer, dtype=dtype, "
        f"{arguments}), driver.from_numpy(x, {dtype!r}), {inputs.shape})"
    )
    context.assertions += 1
    try:
        context.driver.framework_test(
            lambda dtype: context.driver.make(context.case.make_layer, dtype=dtype, **made),
            context.driver.from_numpy(inputs.values, dtype),
            inputs.shape,
        )
    except NotClaimedError:
        raise
    except Exception as error:
        raise ClaimViolatedError(
            str(raised_by_layer("the framework's own test of layers", error)),
            "the layer keeps its noise when it is called, and not all that a layer of the "
            "framework has to do besides",
        ) from None


def _one_of(shape: tuple[int, int, int]) -> str:
    """Of what a batch of one of the edge shapes has one."""
    names = ("row", "token in each row", "channel")
    return " and ".join(f"one {name}" for name, size in zip(names, shape, strict=True) if size == 1)


def _may_be_silent(context: CheckContext, count: int) -> bool:
    """Whether all of ``count`` units may be 0, of a distribution that has zeros."""
    distribution = context.claims.distribution_rule
    zeros = 0.0 if distribution is None else zero_share(distribution)
    return zeros**count > RATE * 2.0**-20


def _within(context: CheckContext, units: Array, shape: tuple[int, int, int]) -> None:
    distribution, count = context.claims.distribution_rule, math.prod(shape)
    if distribution is None or not count:
        return
    formula = context.claims.formula
    size, largest = amplitude(distribution, units), float(abs(units).max())
    least = amplitude_window(distribution, count, RATE / 10)[0] - 2 * context.grid - 2.0**-10
    context.expect(
        size >= least,
        f"for B, L, d = {shape} the noise is {size:.4g} of {formula}, expected at least "
        f"{least:.4g}",
        "an axis of size 1 takes another path through the code",
    )
    upper = extreme_window(distribution, count, RATE / 10)[1] * (1 + 4 * context.grid) + 2.0**-10
    context.expect(
        largest <= upper,
        f"for B, L, d = {shape} the largest |noise| is {largest:.4g} of {formula}, expected at "
        f"most {upper:.4g}",
        "an axis of size 1 takes another path through the code, or is squeezed away",
    )
