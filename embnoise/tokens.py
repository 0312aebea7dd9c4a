"""Coordinates: where every token of a batch stands, from masks, segments and positions.

B batch, L tokens in a row. All arrays here are [B, L]: small beside the embeddings.
Written once over an array namespace ``xp`` that follows the array API's names.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, NamedTuple

from embnoise import _check

__all__ = ["Sequences", "TokenArrays", "Tokens", "coordinates"]


class TokenArrays(NamedTuple):
    """What a caller says of the tokens of a batch, each [B, L] ([L] will do if B is 1) or None."""

    mask: Any = None
    """nonzero for a real token; all are real by default."""
    segment_ids: Any = None
    """integers: 0 for padding, equal positive values for one document of a packed row."""
    positions: Any = None
    """integers. By default the real tokens that precede a token in its row, or in its segment if
    ``segment_ids`` and per-token ``sample_ids`` are both given."""
    sample_ids: Any = None
    """integers, or one per row, [B]; by default the row's number."""
    where: Any = None
    """nonzero for the tokens to noise; all by default. It does not change a sequence's length."""

    def check(self, shape: tuple[int, int, int]) -> None:
        """Raise a TypeError or a ValueError unless the arrays fit a batch of shape (B, L, d)."""
        batch, length, _ = shape
        for name, array in zip(self._fields, self, strict=True):
            if array is not None:
                _check.token_array(
                    name,
                    array,
                    batch,
                    length,
                    integers=name in ("segment_ids", "positions", "sample_ids"),
                    rows=name == "sample_ids",
                )


class Sequences(NamedTuple):
    """What the scale rules ask of the sequences of a batch."""

    length: Any
    """float32, broadcasts to [B, L]: how many real tokens the token's own sequence has; 1 where it
    has none, since no token is noised there."""
    total: Callable[[Any], Any]
    """From a floating-point [B, L] array to its sums over the real tokens of each sequence."""


class Tokens(NamedTuple):
    """Every token of a batch, in arrays that broadcast to [B, L].

    Of a padding token only ``noised`` has a meaning.
    """

    sequences: Sequences
    """The rows, or the documents that are packed into them."""
    sample: Any
    """integer: which sample the token belongs to; counts modulo 2**32."""
    position: Any
    """integer: the token's place in its sample; counts modulo 2**32."""
    noised: Any
    """bool: a real token that is to get noise; ``None`` stands for all."""


def coordinates(batch: Any, length: Any, arrays: TokenArrays, *, xp: Any) -> Tokens:
    """The tokens of a batch of ``batch`` rows of ``length`` tokens, from checked arrays.

    The sizes are ints, or 0-d arrays where a graph learns them only when it runs.
    """

    def grid(array: Any) -> Any:
        return None if array is None else xp.reshape(array, (batch, length))

    mask, segment_ids, where = grid(arrays.mask), grid(arrays.segment_ids), grid(arrays.where)
    sample_ids = arrays.sample_ids
    per_row = sample_ids is None or _per_row(sample_ids, batch)
    if per_row:
        rows = xp.arange(batch) if sample_ids is None else sample_ids
        sample_ids = xp.reshape(rows, (batch, 1))
    else:
        sample_ids = grid(sample_ids)

    real = None if mask is None else mask != 0
    if segment_ids is not None:
        real = segment_ids != 0 if real is None else real & (segment_ids != 0)
        sequences, rank = _segments(xp.where(real, segment_ids, 0), real, batch, length, xp)
        if per_row:
            rank = _rank(real, length, xp)
    else:
        sequences, rank = _rows(real, length, xp), _rank(real, length, xp)
    noised = real
    if where is not None:
        noised = where != 0 if real is None else real & (where != 0)
    positions = grid(arrays.positions)
    return Tokens(sequences, sample_ids, rank if positions is None else positions, noised)


def _per_row(sample_ids: Any, batch: Any) -> bool:
    """Whether checked ids are those of rows; a vector may hold those of the tokens of one row."""
    one_row = isinstance(batch, int) and batch == 1
    return len(sample_ids.shape) == 1 and not (one_row and sample_ids.shape[0] != 1)


def _rank(real: Any, length: int, xp: Any) -> Any:
    """How many real tokens precede each token in its row."""
    if real is None:
        return xp.reshape(xp.arange(length), (1, length))
    count = xp.astype(real, xp.int32)
    return xp.cumsum(count, axis=1) - count


def _rows(real: Any, length: int, xp: Any) -> Sequences:
    """Every row one sequence."""
    if real is None:
        whole = xp.asarray(length, dtype=xp.float32)
        return Sequences(whole, lambda values: xp.sum(values, axis=1, keepdims=True))
    lengths = xp.astype(xp.sum(xp.astype(real, xp.int32), axis=1, keepdims=True), xp.float32)
    return Sequences(
        xp.where(lengths > 0, lengths, 1.0),
        lambda values: xp.sum(xp.where(real, values, 0), axis=1, keepdims=True),
    )


def _segments(segment: Any, real: Any, batch: Any, length: Any, xp: Any) -> tuple[Sequences, Any]:
    """Every segment of a row one sequence, and every token's rank in its segment.

    A stable sort brings the tokens of a segment together; where its run begins and ends in the row
    then gives its length and, from a cumulative sum, any other sum over it. All of it happens
    within rows, so that rows that live on different devices need nothing of each other.
    """
    order = xp.argsort(segment, axis=1, stable=True)
    back = xp.argsort(order, axis=1, stable=True)
    together = xp.take_along_axis(segment, order, axis=1)
    column = xp.reshape(xp.arange(length), (1, length))
    starts = (column == 0) | (together != xp.roll(together, 1, axis=1))
    run = xp.cumsum(xp.astype(starts, xp.int32), axis=1)
    # Sorted to the front, the columns where runs start: run i begins at the (i-1)th of them.
    fronts = xp.argsort(xp.where(starts, 0, 1), axis=1, stable=True)
    first = xp.take_along_axis(fronts, run - 1, axis=1)
    last = run == run[:, -1:]
    beyond = xp.take_along_axis(fronts, xp.where(last, 0, run), axis=1)
    beyond = xp.where(last, length, beyond)

    def restore(array: Any) -> Any:
        return xp.take_along_axis(array, back, axis=1)

    def total(values: Any) -> Any:
        values = xp.take_along_axis(xp.where(real, values, 0), order, axis=1)
        running = xp.cumsum(values, axis=1)
        until = xp.take_along_axis(running, beyond - 1, axis=1)
        before = xp.take_along_axis(running, xp.where(first > 0, first - 1, 0), axis=1)
        return restore(until - xp.where(first > 0, before, 0))

    # A run has a token at least, so no length is 0; that of the padding tokens does not matter.
    return Sequences(xp.astype(restore(beyond - first), xp.float32), total), restore(column - first)
