"""The layer can be made and called, and gives back what it was given in shape and dtype."""

from __future__ import annotations

import math

from embnoise._validation import dtype_name
from embnoise.testing.context import CheckContext
from embnoise.testing.diagnosis import NO_NOISE
from embnoise.testing.failures import NotFiniteError, UntestableError
from embnoise.testing.inputs import Array
from embnoise.testing.registry import check
from embnoise.testing.statistics import RATE, amplitude, amplitude_window, extreme_window

_HOW = {
    "embeddings": "The kit gives it embeddings [B, L, d]; a layer that embeds token ids itself "
    "says inputs='ids'.",
    "ids": "The kit gives it ids [B, L] of 0 to 7; a layer after the embedding says "
    "inputs='embeddings'.",
}
_BY_NAME = (
    " Parameters named mask, step, segment_ids and training are given by name; for another "
    "signature there is case(..., call=...)."
)


@check("EN01")
def can_be_called(context: CheckContext) -> None:
    """Every make_layer(...) gives a fresh layer, whose outputs are finite arrays [B, L, d].

    The other checks stand on this one. It fails for a factory that raises, returns something that
    cannot be called, or the same object each time; and for a layer that raises or returns
    another shape, integers, or NaN, in training or in evaluation mode.
    """
    context.layer()
    layer = context.layer()
    inputs = context.batch(fill="normal")
    try:
        outputs = (layer.train(inputs), layer.eval(inputs))
    except NotFiniteError:
        raise
    except UntestableError as error:
        raise UntestableError(f"{error}. {_HOW[context.case.inputs]}{_BY_NAME}") from None
    for output in outputs:
        context.expect(
            output.shape == inputs.shape, f"the output is {output.shape}", "another shape"
        )


@check("EN04", dtypes="all")
def dtype_kept(context: CheckContext) -> None:
    """The output in training has the dtype and the device of the embeddings.

    A layer fails it whose noise is drawn in float32 (or float64) and promotes the sum, which
    doubles the memory of everything that comes after; or that draws on the CPU for inputs
    elsewhere.
    """
    layer = context.layer()
    inputs = context.batch(fill="normal")
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
        f"the output is {after} in training, where the embeddings are {before}",
        "the noise is drawn in another dtype, and the sum promoted to it: draw in float32 if "
        "you like, and cast the sum to the embeddings' dtype",
    )
    places = [str(getattr(array, "device", None)) for array in (clean, noisy)]
    context.expect(
        places[0] == places[1],
        f"the output is on {places[1]}, the embeddings are on {places[0]}",
        "the noise is drawn on the default device: draw it on that of the embeddings",
    )


@check("EN23", random=True)
def edge_shapes(context: CheckContext) -> None:
    """A batch of 1, a length of 1, one channel and an empty batch work, with noise as promised.

    A layer fails it that squeezes its sizes away, divides by L - 1, or cannot take a batch without
    rows, the last of an epoch on some ranks.
    """
    shapes = [(1, 7, 16), (4, 1, 1), (0, 7, 16)]
    for shape in shapes:
        context.transcript.clear()
        inputs = context.batch(shape)
        step = context.first_step()
        try:
            layer = context.layer(dim=shape[2])
            units = layer.units(inputs, step)
            layer.eval(inputs)
            context.expect(
                not units.size or bool(units.any()),
                f"inputs of shape {shape} get no noise",
                f"{NO_NOISE}; or a size of 1 is squeezed away",
            )
        except UntestableError as error:
            raise UntestableError(f"for B, L, d = {shape}: {error}") from None
        _within(context, units, inputs.shape)


def _within(context: CheckContext, units: Array, shape: tuple[int, int, int]) -> None:
    largest, size = float(abs(units).max(initial=0)), amplitude(context.claims.distribution, units)
    law, count = context.claims.distribution, math.prod(shape)
    if law and count:
        least = amplitude_window(law, count, RATE / 10)[0] - 2 * context.grid - 2.0**-10
        context.expect(
            size >= least,
            f"for B, L, d = {shape} the noise is {size:.4g} of {context.claims.rule()}, expected "
            f"at least {least:.4g}",
            "a size of 1 takes another path through the code",
        )
        upper = extreme_window(law, count, RATE / 10)[1] * (1 + 4 * context.grid) + 2.0**-10
        context.expect(
            largest <= upper,
            f"for B, L, d = {shape} the largest |noise| is {largest:.4g} of "
            f"{context.claims.rule()}, expected at most {upper:.4g}",
            "a size of 1 takes another path through the code, or is squeezed away",
        )
