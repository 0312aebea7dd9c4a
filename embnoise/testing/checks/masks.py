"""The mask counts, wherever the padding is, whatever the sizes and the mask's dtype are."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from embnoise.testing.context import GRID, CheckContext
from embnoise.testing.diagnosis import RIGHT_ALONE, cause_of_ratio
from embnoise.testing.failures import NotClaimedError, NotFiniteError, UntestableError
from embnoise.testing.inputs import PACKED, RAGGED, SMALL, Array, Inputs, left_mask, right_mask
from embnoise.testing.registry import DISTRIBUTION, NOISE, SIZE, check, needs_length, needs_repeats
from embnoise.testing.right_rows import (
    DRAWS,
    change_and_units,
    expect_right_rows,
    fresh,
    takes_long_rows,
    units_of,
)
from embnoise.testing.runs import repeated_run
from embnoise.testing.slices import in_noise
from embnoise.testing.statistics import RATE, amplitude, amplitude_window, band, rms_window

HOLES = np.array(
    [[1, 0, 1, 1, 0, 1, 1], [0, 0, 1, 0, 1, 0, 0], [1, 1, 0, 0, 0, 1, 1], [0, 1, 1, 1, 1, 1, 0]],
    bool,
)
"""Padding between tokens, as around images."""


PADDED = 136, 600, 8
"""A batch of many rows, with L that 16 bits or blocks of usual sizes do not hold."""


def ragged() -> NDArray[np.bool_]:
    """A mask for ``PADDED``, whose rows all differ in length."""
    batch, width, _ = PADDED
    return right_mask([width - 4 * row for row in range(batch)], width)


def _batches(context: CheckContext) -> dict[str, Inputs]:
    lengths = [7, 3, 2, 5]
    masks = {"right": right_mask(lengths, SMALL[1])}
    if context.claims.padding == "anywhere":
        masks |= {"left": left_mask(lengths, SMALL[1]), "holes": HOLES}
    batches = {place: context.batch(mask=mask) for place, mask in masks.items()}
    if context.case.inputs == "ids" and context.layer().takes("mask"):
        batches["ids"] = context.batch(mask=masks["right"]).with_padding_id(context.case.padding_id)
    packs = context.claims.length == "tokens" and context.layer().takes("segment_ids")
    if packs and context.profile.draws:  # each dtype is compiled
        batches["packed"] = context.batch(segments=PACKED)
    return batches


@check(
    "EN47",
    dtypes="all",
    claimed=needs_length,
    random=True,
    premises=(*SIZE, "EN09", "EN19", "EN20"),
)
def padding_anywhere(context: CheckContext) -> None:
    """Padding on the left, on the right and between tokens counts alike.

    With ``padding="right"`` only that on the right is tested. A layer that embeds ids and takes a
    mask goes by the mask, also for tokens that have the id of padding, as the end of a text may. In
    packed rows L is that of the documents, in 16 bits too. Fails for layers that take the place of
    the last token for the length, or multiply with a mask that they made from the lengths.
    """
    step = context.first_step()
    for place, inputs in _batches(context).items():
        context.transcript.clear()
        draws = [units_of(fresh(context, k, SMALL[2]), inputs, step) for k in range(DRAWS)]
        likely = {
            "right": "padding is counted in L, in this dtype at least",
            "left": "padding on the left is counted in L (its place is taken for the length), or "
            f"the mask is made again as if padding were on the right; {RIGHT_ALONE}",
            "holes": "padding between tokens is counted in L, or the mask is made again from the "
            f"lengths; {RIGHT_ALONE}",
            "ids": "tokens that have the id of padding are taken for padding, though the mask says "
            "that they are real, as where the end of the text and padding have one id",
            "packed": "in this dtype, L is not that of the documents of a packed row",
        }[place]
        expect_right_rows(context, inputs, draws, 4, likely)


@check("EN48", dtypes="usual", claimed=needs_repeats, premises=(*NOISE, "EN05"))
def mask_of_any_dtype(context: CheckContext) -> None:
    """A mask of integers or floats, 1 for a token and 0 for padding, does what a boolean one does.

    A layer may refuse it with an error. Tokenizers return integers. Rows are short, and too long to
    be counted in 8 bits. Segment ids may be integers of 32 bits as well as of 64. Fails for layers
    that ignore such a mask, invert it with ``~``, index with it, or sum it up in its own dtype.
    """
    layer = context.layer()
    if layer.takes("segment_ids") and context.dtype == "float32":
        inputs = context.batch(segments=PACKED)
        _as_of_other_dtype(
            context, inputs, inputs.with_segments_of("int32"), "segment ids", "int32"
        )
    if not layer.takes("mask"):
        if context.assertions:
            return
        raise NotClaimedError("the layer takes no mask")
    inputs = context.batch(mask=RAGGED)
    if context.dtype != "float32":  # a layer's path in 16 bits
        _mask_of_dtypes(context, inputs, ("int64",))
        return
    known = [dtype for dtype in context.case.dtypes if dtype == "bfloat16"]  # NumPy has none
    _mask_of_dtypes(context, inputs, (*MASKS, *known))
    long = context.batch(PADDED, mask=ragged())
    if takes_long_rows(context, long):
        _mask_of_dtypes(context, long, ("uint8",))


MASKS = "int64", "int32", "int16", "int8", "uint8", "float32", "float64", "float16"


def _mask_of_dtypes(context: CheckContext, inputs: Inputs, dtypes: Sequence[str]) -> None:
    """Expect a mask in these dtypes to do what a boolean one does."""
    for dtype in dtypes:
        _as_of_other_dtype(context, inputs, inputs.with_mask_of(dtype), "a mask", dtype)


def _as_of_other_dtype(
    context: CheckContext, inputs: Inputs, other: Inputs, what: str, dtype: str
) -> None:
    """Expect a batch to have the noise of another one, which tells the same in a dtype."""
    context.transcript.clear()
    step = context.first_step()
    expected = context.layer(dim=inputs.dim).noise(inputs, step)
    # In the mask's own dtype, the length is rounded.
    tolerance = max(2.0**-18, context.grid, 2 * GRID.get(dtype, 0.0))
    try:
        found = context.layer(dim=inputs.dim, name="other").noise(other, step)
    except NotFiniteError:
        raise
    except UntestableError:
        found = expected  # refused
    size = float(abs(expected).max())
    padded = float(abs(found[~inputs.mask]).max(initial=0.0))
    of_dtype = f"{what} of {dtype}"
    likely = f"{of_dtype} is misread: as an index, by ~, or by a comparison with True"
    if padded and context.claims.length == "tokens":
        likely = f"{of_dtype} is ignored or inverted"
    if inputs.packed:
        likely = f"{of_dtype} are ignored, or misread"
    usual = "of int64" if inputs.packed else "a boolean one"
    context.expect(
        float(abs(found - expected).max()) <= tolerance * size,
        f"with {of_dtype} the noise differs from that with {usual}, by up to "
        f"{float(abs(found - expected).max()):.3g} (on padding it reaches {padded:.3g})",
        f"{likely}; convert {'them' if inputs.packed else 'it'}, or raise a TypeError",
    )


@check("EN49", random=True, premises=(*SIZE, "EN09", "EN19"))
def sizes_that_agree(context: CheckContext) -> None:
    """Batches in which B, L and d are equal, or B and L are 1, get the claimed noise.

    Fails for layers that tell their axes apart by their sizes.
    """
    step = context.first_step()
    lengths = [16, 3, 11, 7, 1, 14, 9, 2, 16, 5, 12, 8, 4, 15, 6, 10]
    for shape, mask in (((16, 16, 16), right_mask(lengths, 16)), ((1, 1, 16), None)):
        context.transcript.clear()
        inputs = context.batch(shape, mask=mask)
        draws = [units_of(fresh(context, k, 16), inputs, step) for k in range(DRAWS)]
        expect_right_rows(
            context,
            inputs,
            draws,
            2,
            "axes are told apart by their sizes, which are equal here: the mask is transposed, or "
            "the length is that of another axis"
            if shape[0] > 1
            else "a batch of one token takes another path: an axis is squeezed away, or it is "
            "taken for a batch that needs no noise",
        )


LARGE = {"channels": (2, (1, 13, 4211)), "rows": (0, (1100, 5, 8)), "tokens": (1, (2, 4211, 13))}
"""Batches that are large along one axis; the others hold a run that never repeats by chance."""

BLOCKS = (0, 16, 32, 128, 256, 512, 1024, 2048, 4096)


@check("EN50", dtypes="usual", random=True, premises=(*SIZE, "EN40", "EN41"))
def long_rows_and_wide_channels(context: CheckContext) -> None:
    """In large batches all rows, tokens and channels get noise of their own, of the claimed size.

    It is centered, and has the claimed RMS. Fails for layers with a limit: a table of 512
    positions, a kernel that covers 128 channels.
    """
    rule = context.claims.distribution_rule
    for which, (axis, shape) in LARGE.items():
        context.transcript.clear()
        inputs = context.batch(shape)
        layer = context.layer(dim=shape[2])
        moved, units = change_and_units(context, layer, inputs, long=which == "tokens")
        context.expect(
            moved == 0,
            f"with {shape[axis]} {which}, evaluation mode changes the embeddings, by {moved:.3g}",
            f"batches of many {which} take another path, which adds noise in every mode",
            ("EN02",),
        )
        repeated = repeated_run(context.independent(units), rule)
        context.expect(
            repeated is None,
            f"the same values occur twice among {shape[axis]} {which}: at (row, token, "
            f"channel) {repeated and ' and '.join(map(str, repeated[0]))}",
            f"the draw is for fewer {which} than there are, and is repeated for the rest, or their "
            "places are rounded, as in 16 bits",
        )
        starts = [start for start in BLOCKS if start < shape[axis]]
        parts = np.split(units, starts[1:], axis)
        seen = [amplitude(rule, part) for part in parts]
        known = 1.0 if rule else seen[0]
        slack = 2 * context.usual_slack(inputs) + 2.0**-16
        for start, found, part in zip(starts, seen, parts, strict=True):
            rate = RATE / (9 * len(parts))
            low, high = amplitude_window(rule, context.independent(part).size, rate)
            ratio = found / known if known else 0.0
            context.expect(
                low - slack <= ratio <= high + slack,
                f"the {which} from {start} on get {ratio:.4g} of {context.claims.formula}, "
                f"expected {low:.4g} to {high:.4g} (B, L, d = {shape})",
                _cause_of_part(context, which, shape, seen, ratio),
                (*DISTRIBUTION, "EN19") if ratio else (),
            )
            _expect_same_shape(context, part, f"the {which} from {start} on", rate, slack)


def _expect_same_shape(
    context: CheckContext, part: Array, which: str, rate: float, slack: float
) -> None:
    """Expect the noise of a part of a large batch to be centered, and of the claimed distribution.

    Args:
        context: The check's.
        part: The units of the part.
        which: What part it is, for messages.
        rate: The probability that chance exceeds each of the two bounds.
        slack: What rounding may change of a size.
    """
    part, rule = context.independent(part), context.claims.distribution_rule
    mean, allowed = float(np.sign(part).mean()), 2 * band(part.size, rate) + context.grid
    context.expect(
        abs(mean) <= allowed,
        f"the signs of the noise of {which} have the mean {mean:+.3f}, expected within "
        f"{allowed:.3f}",
        "from there on the noise is not centered, or on one side of 0",
        ("EN08", "EN29"),
    )
    part = part[in_noise(part)]  # EN65 sees a channel that is left out
    if rule is None or (window := rms_window(rule, part.size, rate)) is None:
        return
    size = float(np.sqrt(np.square(part).mean()))
    context.expect(
        window[0] - slack <= size <= window[1] + slack * max(1.0, window[1]),
        f"the RMS of the noise of {which} is {size:.4g} of {context.claims.formula}, expected "
        f"{window[0]:.4g} to {window[1]:.4g}",
        "from there on the noise has another distribution",
        (*DISTRIBUTION, "EN30"),
    )


def _cause_of_part(
    context: CheckContext,
    which: str,
    shape: tuple[int, int, int],
    seen: list[float],
    ratio: float,
) -> str:
    """Why a part of a large batch has ``ratio`` times the claimed noise.

    Args:
        context: That of the check.
        which: What there is much of.
        shape: B, L and d.
        seen: The size of the noise in each part.
        ratio: That of one part, over the claimed one.
    """
    if seen[0] and not ratio:
        return (
            f"only some {which} are covered, up to a power of two: by a table, a buffer or a "
            "kernel of a fixed size"
        )
    if max(seen) > 1.05 * min(seen):
        return f"the size of the noise changes along the {which}"
    claims, (batch, length, dim) = context.claims, shape
    known = cause_of_ratio(ratio, batch=batch, length=length, dim=dim)
    if not (ratio > 1 and claims.scale_rule.uses_length):
        return known
    wanted = ratio * claims.magnitude(1.0, length, dim)
    cap = min(range(1, length), key=lambda at: abs(claims.magnitude(1.0, at, dim) - wanted))
    return f"L is capped, at about {cap} tokens; or {known}"


LATER = 48
"""How many calls a layer has made before the last batch."""


@check("EN51", random=True, premises=(*SIZE, "EN09", "EN19"))
def every_call_counts_anew(context: CheckContext) -> None:
    """A call uses the mask, the documents and the shape that it is given, not those of another one.

    Batches grow and shrink, and many calls have been made. Fails for layers that keep the first
    mask, length or magnitude, or draw for as many rows and tokens as the first batch had.
    """
    start = context.first_step()
    steps = [step for step in range(start, start + 20) if context.claims.share(step) > 0]
    packed = []
    if context.claims.length == "tokens" and context.layer().takes("segment_ids"):
        packed = [
            context.batch(segments=PACKED),
            context.batch(segments=np.array([[1, 2, 2, 2, 2, 0, 0]] * SMALL[0])),
            context.batch(),
        ]
    batches = [
        context.batch(),
        context.batch(mask=right_mask([2, 7, 4, 1], SMALL[1])),
        context.batch(mask=right_mask([7, 1, 4, 2], SMALL[1])),  # of as many tokens
        *packed,
        context.batch((1, *SMALL[1:]), mask=right_mask([3], SMALL[1])),
        context.batch((6, 11, SMALL[2])),
        context.batch((2, 5, SMALL[2])),
    ]
    if len(steps) < 4:
        raise NotClaimedError("the schedule is above 0 at fewer than 4 steps")
    batches = batches[: len(steps)]
    draws: list[list[np.ndarray]] = [[] for _ in batches]
    for k in range(DRAWS):
        context.transcript.clear()
        layer = fresh(context, k, SMALL[2])
        for step, inputs, found in zip(steps, batches, draws, strict=False):
            found.append(units_of(layer, inputs, step))
    for number, (inputs, found) in enumerate(zip(batches, draws, strict=True), start=1):
        expect_right_rows(
            context,
            inputs,
            found,
            len(batches) + 1,
            f"call {number} of a layer uses the mask, the documents, the length or the magnitude "
            "of an earlier call, which it has kept"
            if number > 1
            else "the first call of a layer is not like the others",
        )
        repeated = repeated_run(context.independent(found[0]), context.claims.distribution_rule)
        context.expect(
            repeated is None,
            f"in call {number}, of B, L, d = {inputs.shape}, the same values occur twice: at (row, "
            f"token, channel) {repeated and ' and '.join(map(str, repeated[0]))}",
            "the draw has the shape of an earlier batch, and is repeated for the rest",
            ("EN63",),
        )
    context.transcript.clear()
    layer, later = context.layer(), context.loud(range(start, start + LATER))[-DRAWS:]
    if not layer.takes("step"):
        for step in range(later[0]):
            layer.train(batches[1], step)
    expect_right_rows(
        context,
        batches[1],
        [units_of(layer, batches[1], step) for step in later],
        len(batches) + 1,
        f"from some step on, {later[-1]} or an earlier one, the mask or the length is read in "
        "another way"
        + ("" if context.claims.schedule is None else ", or padded batches count as other steps"),
    )
