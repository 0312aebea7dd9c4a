"""The code of the GPU kernel that plans a batch: what ``embnoise.backend.plan`` computes, at once.

Written with PyTorch's operations, a plan takes some tens of launches, and a GPU waits for each.
"""

# mypy: disable-error-code="misc,no-untyped-call,no-untyped-def,untyped-decorator"

from __future__ import annotations

import triton
from triton import language as tl

__all__ = ["OPTIONS", "chunk_size", "plan_rows"]

# What tl.sum and tl.cumsum combine with. Those are functions that Triton compiled when it was
# imported, so its interpreter, which the tests choose later, cannot call them.
_add = tl.standard._sum_combine

OPTIONS = {"enable_fp_fusion": False}
"""How ``plan_rows`` is compiled. It says what Triton would warn of."""


def chunk_size(length: int, *, documents: bool) -> int:
    """How many tokens a program takes; of documents, it compares each with each."""
    return min(128 if documents else 2048, int(triton.next_power_of_2(length)))


@triton.jit
def _real(mask, segments, place, inside, MASK: tl.constexpr, SEGMENTS: tl.constexpr):  # noqa: N803
    """Whether tokens are real, and their segments."""
    segment = inside.to(tl.int64)
    if SEGMENTS:
        segment = tl.load(segments + place, mask=inside, other=0).to(tl.int64)
    real = inside & (segment != 0)
    if MASK:
        real = real & (tl.load(mask + place, mask=inside, other=0) != 0)
    return real, segment


@triton.jit
def _counts(
    mask,
    segments,
    row,
    start,
    real,
    segment,
    length,
    MASK: tl.constexpr,  # noqa: N803
    SEGMENTS: tl.constexpr,  # noqa: N803
    SAMPLES: tl.constexpr,  # noqa: N803
    CHUNK: tl.constexpr,  # noqa: N803
):
    """How many real tokens precede each token, and how many its sequence has.

    Also returns how many negative segments there are in the row.
    """
    before = tl.full((), 0, tl.int64)
    total = tl.full((), 0, tl.int64)
    numbers = tl.full((), 0, tl.int64)
    negative = tl.full((), 0, tl.int64)
    for first in range(0, length, CHUNK):
        other = first + tl.arange(0, CHUNK)
        others, theirs = _real(mask, segments, row * length + other, other < length, MASK, SEGMENTS)
        here = tl.reduce(others.to(tl.int64), 0, _add)
        before += tl.where(first < start, here, 0)
        total += here
        numbers += tl.reduce((theirs > 1).to(tl.int64), 0, _add)
        negative += tl.reduce((theirs < 0).to(tl.int64), 0, _add)
    own = real.to(tl.int64)
    rank = before + tl.associative_scan(own, 0, _add) - own
    count = tl.full((CHUNK,), 0, tl.int64) + total
    if SEGMENTS and numbers + negative > 0:  # otherwise a row is one sequence
        column = start + tl.arange(0, CHUNK)
        count = tl.full((CHUNK,), 0, tl.int64)
        within = tl.full((CHUNK,), 0, tl.int64)
        for first in range(0, length, CHUNK):
            other = first + tl.arange(0, CHUNK)
            others, theirs = _real(
                mask, segments, row * length + other, other < length, MASK, SEGMENTS
            )
            same = others[None, :] & (segment[:, None] == theirs[None, :])
            earlier = same & (other[None, :] < column[:, None])
            count += tl.reduce(same.to(tl.int64), 1, _add)
            within += tl.reduce(earlier.to(tl.int64), 1, _add)
        if SAMPLES == 2:
            rank = within
    return rank, count, negative


@triton.jit(do_not_specialize=["first_sample", "sample_step", "step"])
def plan_rows(
    mask,
    segments,
    positions,
    samples,
    where,
    magnitudes,
    plan,
    first_sample,
    sample_step,
    step,
    length,
    MASK: tl.constexpr,  # noqa: N803
    SEGMENTS: tl.constexpr,  # noqa: N803
    NUMBERED: tl.constexpr,  # noqa: N803
    POSITIONS: tl.constexpr,  # noqa: N803
    SAMPLES: tl.constexpr,  # noqa: N803
    WHERE: tl.constexpr,  # noqa: N803
    BY_LENGTH: tl.constexpr,  # noqa: N803
    ANTITHETIC: tl.constexpr,  # noqa: N803
    CHUNK: tl.constexpr,  # noqa: N803
):
    """The plan of some tokens of a row, for programs [B, cdiv(length, CHUNK)].

    Args:
        mask: Integers or booleans [B, length], nonzero for a real token; read if MASK.
        segments: Integers [B, length], 0 for padding; read if SEGMENTS.
        positions: Integers [B, length]; read if POSITIONS.
        samples: Integers [B] if SAMPLES is 1, or [B, length] if it is 2.
        where: Integers or booleans [B, length], nonzero for the tokens to noise; read if WHERE.
        magnitudes: float32: that of every token, or if BY_LENGTH, [length + 1] those of tokens
            whose sequence has this many tokens.
        plan: Takes the result, int32 [B * length, 4]: the bits of the magnitude, sample, position,
            step.
        first_sample: If SAMPLES is 0, the sample of row 0.
        sample_step: From the sample of a row to that of the next one.
        step: The step, an int32 with its bits.
        length: The number of tokens in a row.
        MASK: Whether there is a mask.
        SEGMENTS: Whether there are segments.
        NUMBERED: Whether the segments are an attention mask. A row of one that is negative
            somewhere, and so may be additive, becomes NaN.
        POSITIONS: Whether there are positions.
        SAMPLES: Which samples there are.
        WHERE: Whether only some tokens get noise.
        BY_LENGTH: Whether the magnitude depends on the length.
        ANTITHETIC: Whether samples come in pairs.
        CHUNK: How many tokens a program takes.
    """
    row = tl.program_id(0).to(tl.int64)
    start = tl.program_id(1) * CHUNK
    column = start + tl.arange(0, CHUNK)
    inside = column < length
    place = row * length + column
    real, segment = _real(mask, segments, place, inside, MASK, SEGMENTS)

    rank = column.to(tl.int64)
    count = tl.full((CHUNK,), 0, tl.int64) + length
    additive = False
    if MASK or SEGMENTS:
        rank, count, negative = _counts(
            mask, segments, row, start, real, segment, length, MASK, SEGMENTS, SAMPLES, CHUNK
        )
        additive = NUMBERED and negative > 0
    if POSITIONS:
        rank = tl.load(positions + place, mask=inside, other=0).to(tl.int64)

    sample = tl.full((CHUNK,), 0, tl.int64) + (first_sample + row * sample_step)
    if SAMPLES == 1:
        sample = tl.full((CHUNK,), 0, tl.int64) + tl.load(samples + row).to(tl.int64)
    elif SAMPLES == 2:
        sample = tl.load(samples + place, mask=inside, other=0).to(tl.int64)

    if BY_LENGTH:
        magnitude = tl.load(magnitudes + count, mask=inside, other=0.0)
    else:
        magnitude = tl.load(tl.broadcast_to(magnitudes, column.shape))
    if WHERE:
        real = real & (tl.load(where + place, mask=inside, other=0) != 0)
    magnitude = tl.where(real, magnitude, 0.0)
    magnitude = tl.where(additive, float("nan"), magnitude)
    if ANTITHETIC:
        magnitude = tl.where((sample & 1) == 0, magnitude, -magnitude)
        sample = sample - (sample & 1)

    to = plan + 4 * place
    tl.store(to, magnitude.to(tl.int32, bitcast=True), mask=inside)
    tl.store(to + 1, sample.to(tl.int32), mask=inside)
    tl.store(to + 2, rank.to(tl.int32), mask=inside)
    tl.store(to + 3, tl.full((CHUNK,), 0, tl.int32) + step, mask=inside)
