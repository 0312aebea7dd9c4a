"""The code of the GPU kernel, compiled by Triton for NVIDIA and AMD.

It computes what ``embnoise.backend.perturb`` defines, with the same bits. One program takes one
token and a range of its Philox blocks. The four words of block j serve the channels j, n + j, ...,
7n + j, where n is the number of blocks: in each of the eight planes, the channels of neighboring
blocks are neighbors in memory, so that loads and stores are as wide as the hardware has them.
"""

# mypy: disable-error-code="no-untyped-call,no-untyped-def,untyped-decorator"

from __future__ import annotations

import triton
import triton.language as tl

from embnoise.backend import MULTIPLIERS, ROUNDS, WEYL
from embnoise_torch.kernels._codes import RADEMACHER, UNIFORM

__all__ = ["OPTIONS", "block_size", "noisy_rows"]

OPTIONS = {
    "num_warps": 1,
    "enable_fp_fusion": False,  # what is to be fused into one rounding, the code says itself
    "maxnreg": 96,  # with the 72 that the assembler takes by itself, some are spilled
}
"""How ``noisy_rows`` is compiled."""

_UNIFORM, _RADEMACHER = tl.constexpr(UNIFORM), tl.constexpr(RADEMACHER)
_MULTIPLIER0, _MULTIPLIER1 = (tl.constexpr(each) for each in MULTIPLIERS)
_WEYL0, _WEYL1 = (tl.constexpr(each) for each in WEYL)
_ROUNDS = tl.constexpr(ROUNDS)


def block_size(dim: int, itemsize: int, warp_size: int) -> int:
    """How many blocks a program takes, for embeddings of ``dim`` channels of ``itemsize`` bytes.

    Of each plane, every thread of a warp has 16 bytes, which one instruction loads, or 32, which
    two load: there, what all blocks share costs an element half as much.
    """
    most = warp_size * min(8, 32 // itemsize)
    return min(most, int(triton.next_power_of_2(-(-dim // 8))))


@triton.jit
def _words(block, position, sample, step, key0, key1):
    """Philox4x32-10. One widening multiplication is faster than a low and a high one."""
    word0 = block.to(tl.uint32)
    word1 = position
    word2 = tl.broadcast_to(sample, word0.shape)
    word3 = tl.broadcast_to(step, word0.shape)
    for _ in tl.static_range(_ROUNDS):
        product0 = word0.to(tl.uint64) * _MULTIPLIER0
        product1 = word2.to(tl.uint64) * _MULTIPLIER1
        word0 = (product1 >> 32).to(tl.uint32) ^ word1 ^ key0
        word2 = (product0 >> 32).to(tl.uint32) ^ word3 ^ key1
        word1 = product1.to(tl.uint32)
        word3 = product0.to(tl.uint32)
        key0 = key0 + tl.full((), _WEYL0, tl.uint32)
        key1 = key1 + tl.full((), _WEYL1, tl.uint32)
    return word0, word1, word2, word3


@triton.jit
def _unit(integer, factor, table, DISTRIBUTION: tl.constexpr):  # noqa: N803, as Triton's own
    """The unit value of a lattice integer, float32; of a uniform one, 2**15 * factor times that."""
    if DISTRIBUTION == _UNIFORM:
        unit = tl.fma(integer.to(tl.int32).to(tl.float32), factor, -32767.5 * factor)  # exact
    elif DISTRIBUTION == _RADEMACHER:
        unit = tl.where(integer >= 32768, 1.0, -1.0)
    else:
        unit = tl.load(table + integer.to(tl.int32))
    return unit


@triton.jit(do_not_specialize=["key0", "key1"])
def noisy_rows(
    source,
    ids,
    plan,
    table,
    target,
    rows,
    row_stride,
    channel_stride,
    key0,
    key1,
    dim,
    blocks,
    DISTRIBUTION: tl.constexpr,  # noqa: N803
    LOOKUP: tl.constexpr,  # noqa: N803
    IN_PLACE: tl.constexpr,  # noqa: N803
    BLOCK: tl.constexpr,  # noqa: N803
):
    """One token with its noise, for programs [tokens, cdiv(blocks, BLOCK)].

    Args:
        source: What gets the noise, of any strides; float16, bfloat16, float32 or float64: an
            embedding table [rows, dim], or embeddings [tokens, dim].
        ids: Which row of the table each token is, int32 or int64 [tokens]; not read without a
            table. A token that is not in the table becomes NaN.
        plan: int32 [tokens, 4], the plan of every token: the bits of its magnitude (a token of
            magnitude 0 keeps its own), its sample, its position and the step.
        table: The unit values, float32 [65536], if the distribution has no formula.
        target: Takes the result [tokens, dim], contiguous, of source's dtype.
        rows: The number of rows of the table.
        row_stride: From one row of the source to the next.
        channel_stride: From one channel to the next.
        key0: The low word of the key, an int32 with its bits.
        key1: The high word.
        dim: The number of channels.
        blocks: ceil(dim / 8).
        DISTRIBUTION: UNIFORM, RADEMACHER or TABLE.
        LOOKUP: Whether the source is a table.
        IN_PLACE: Whether the target is the source.
        BLOCK: How many blocks a program takes.
    """
    token = tl.program_id(0).to(tl.int64)
    block = tl.program_id(1) * BLOCK + tl.arange(0, BLOCK)
    magnitude = tl.load(plan + 4 * token).to(tl.float32, bitcast=True)
    row = token
    if LOOKUP:
        row = tl.load(ids + token).to(tl.int64)
        known = (row >= 0) & (row < rows)
        row = tl.where(known, row, 0)
        magnitude = tl.where(known, magnitude, float("nan"))
    read = source + row * row_stride
    write = target + token * dim
    if magnitude == 0:
        if not IN_PLACE:
            for plane_start in range(0, dim, blocks):
                channel = plane_start + block
                inside = (block < blocks) & (channel < dim)
                element = tl.load(read + channel * channel_stride, mask=inside)
                tl.store(write + channel, element, mask=inside)
        return
    # 2**-15 of the uniform unit value moves into the scale, which saves a multiplication for each
    # element, unless the scale would become subnormal.
    scale, factor = magnitude, 1.0
    if DISTRIBUTION == _UNIFORM:
        small = magnitude * 2.0**-15
        exact = small * 2.0**15 == magnitude
        scale, factor = tl.where(exact, small, magnitude), tl.where(exact, 1.0, 2.0**-15)
    # Loaded for every block, the position has the layout of the other loads, and hands it on to all
    # that is computed from it. Loaded once, the words would have another layout, and their way to
    # the embeddings would go through shared memory.
    position = tl.load(tl.broadcast_to(plan + 4 * token + 2, block.shape))
    words = _words(
        block,
        position.to(tl.uint32, bitcast=True),
        tl.load(plan + 4 * token + 1).to(tl.uint32, bitcast=True),
        tl.load(plan + 4 * token + 3).to(tl.uint32, bitcast=True),
        key0.to(tl.uint32, bitcast=True),
        key1.to(tl.uint32, bitcast=True),
    )
    for plane in tl.static_range(8):
        integer = (words[plane // 2] >> (16 * (plane % 2))) & 0xFFFF
        unit = _unit(integer, factor, table, DISTRIBUTION)
        channel = plane * blocks + block
        inside = (block < blocks) & (channel < dim)
        element = tl.load(read + channel * channel_stride, mask=inside)
        wide = tl.float64 if element.dtype == tl.float64 else tl.float32
        noisy = tl.fma(scale.to(wide), unit.to(wide), element.to(wide))
        tl.store(write + channel, noisy.to(element.dtype), mask=inside)
