"""Token metadata: from masks, segments and positions to the coordinates of every token.

B batch, L tokens in a row. All arrays here are [B, L]: small beside the embeddings. Written once
over an array namespace ``xp``.
"""

from __future__ import annotations

import warnings
from collections.abc import Callable
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from embnoise._arrays import Array, ArrayNamespace, Size
from embnoise._validation import check_token_array, dtype_kind

__all__ = ["Sequences", "TokenArrays", "Tokens", "coordinates"]


class TokenArrays(NamedTuple):
    """What a caller knows about the tokens of a batch: arrays [B, L] ([L] if B is 1), or None."""

    mask: Any = None
    """Boolean or integer, nonzero for a real token. Default: all tokens are real.

    A negative value is an error where the values are known: the mask may be additive.
    """
    segment_ids: Any = None
    """Integers: 0 for padding, equal positive values for one document of a packed row.

    Negative values are documents too, where they are not known before the program runs.
    """
    positions: Any = None
    """Integers. Default: the number of real tokens that precede a token in its row.

    With ``segment_ids`` and per-token ``sample_ids``, those in its segment.
    """
    sample_ids: Any = None
    """Integers, or one per row, [B]. Default: the row number."""
    where: Any = None
    """Boolean or integer, nonzero for a token to noise. Default: all real tokens.

    It does not change the length of a sequence.
    """

    def check(self, shape: tuple[int, int, int]) -> None:
        """Raise unless the arrays fit a batch of shape (B, L, d).

        Raises:
            TypeError: An argument is not an array, or of the wrong dtype: a float mask, say.
            ValueError: An array has the wrong shape.
        """
        batch, length, _ = shape
        for name, array in zip(self._fields, self, strict=True):
            if array is not None:
                check_token_array(
                    name,
                    array,
                    batch,
                    length,
                    accepts_bool=name in ("mask", "where"),
                    accepts_rows=name == "sample_ids",
                )

    def check_values(self, batch: Size | None) -> None:
        """Check the arrays by their values, where these are known.

        Warns if documents of a row may share their noise.

        Raises:
            ValueError: A segment id, or a value of a mask, is negative.
        """
        for name in ("mask", "where"):
            array = getattr(self, name)
            if array is None or dtype_kind(array) != "int":
                continue
            if (lowest := _lowest(_known(array))) < 0:
                raise ValueError(
                    f"{name} must be at least 0 (nonzero marks a token), got {lowest}; it may be "
                    f"additive (0 and a large negative number): pass {name} == 0 or {name} != 0"
                )
        if self.segment_ids is None:
            return
        segments = _known(self.segment_ids)
        if (lowest := _lowest(segments)) < 0:
            raise ValueError(f"segment_ids must be at least 0 (0 marks padding), got {lowest}")
        if self.positions is None:
            return
        of_rows = self.sample_ids is None or _per_row(self.sample_ids, batch)
        if of_rows and _may_repeat(_known(self.positions), segments):
            warnings.warn(
                "embnoise: segment_ids and positions are given without sample_ids for each token: "
                "documents of a row have the same noise wherever their positions are equal, as "
                "they are if positions count from 0 in each document. Leave positions out, or "
                "pass sample_ids [B, L]: another id for each document, or the row's number if no "
                "position occurs twice in a row",
                RuntimeWarning,
                stacklevel=5,
            )

    def given(self) -> dict[str, Any]:
        """The arrays that are not ``None``, by name."""
        return {name: array for name, array in self._asdict().items() if array is not None}

    def map(self, convert: Callable[[Any], Any]) -> TokenArrays:
        """The same with every given array converted."""
        return TokenArrays(*(None if array is None else convert(array) for array in self))


class Sequences(NamedTuple):
    """What the scale rules use of the sequences of a batch."""

    length: Array
    """float32, broadcasts to [B, L]: the number of real tokens of the token's own sequence; 1
    where it has none, since no token is noised there."""
    total: Callable[[Array], Array]
    """Sums a floating-point [B, L] array over the real tokens of each sequence."""


class Tokens(NamedTuple):
    """The coordinates of every token of a batch, in arrays that broadcast to [B, L].

    For padding, only ``noised`` has a meaning.
    """

    sequences: Sequences
    """The rows, or the documents that are packed into them."""
    sample: Array
    """Integers, modulo 2**32: the sample that the token belongs to."""
    position: Array
    """Integers, modulo 2**32: the token's position in its sample."""
    noised: Array | None
    """Boolean: a real token that gets noise; ``None`` means all of them."""


def _known(array: Array) -> NDArray[Any] | None:
    """The values of an array; ``None`` where they are not known.

    Traced arrays have no values, and those of a GPU are not waited for.
    """
    try:
        values = np.asarray(array)
        # NumPy takes what it does not know for an object.
        return values if values.dtype.kind in "iu" else values.astype(np.int64)
    except Exception:  # each framework has an error of its own
        return None


def _lowest(values: NDArray[Any] | None) -> int:
    """The lowest of some values, at most 0; 0 where they are not known."""
    return 0 if values is None else int(values.min(initial=0))


def _may_repeat(positions: NDArray[Any] | None, segment_ids: NDArray[Any] | None) -> bool:
    """Whether a position may occur twice in a row; true where the values are not known."""
    if positions is None or segment_ids is None:
        return True
    places, real = map(np.atleast_2d, (positions, segment_ids))
    rows = (row[one != 0] for row, one in zip(places, real, strict=True))
    return any(np.unique(row).size < row.size for row in rows)


def coordinates(batch: Size, length: Size, arrays: TokenArrays, *, xp: ArrayNamespace) -> Tokens:
    """The coordinates of a batch of ``batch`` rows of ``length`` tokens, from validated arrays."""

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
        sequences, rank = _segments(xp.where(real, segment_ids, 0), real, length, xp)
        if per_row:
            rank = _rank(real, length, xp)
    else:
        sequences, rank = _rows(real, length, xp), _rank(real, length, xp)
    noised = real
    if where is not None:
        noised = where != 0 if real is None else real & (where != 0)
    positions = grid(arrays.positions)
    return Tokens(sequences, sample_ids, rank if positions is None else positions, noised)


def _per_row(sample_ids: Array, batch: Size | None) -> bool:
    """Whether sample ids are per row; a vector may also hold those of the tokens of one row."""
    one_row = isinstance(batch, int) and batch == 1
    return len(sample_ids.shape) == 1 and not (one_row and sample_ids.shape[0] != 1)


def _rank(real: Array | None, length: Size, xp: ArrayNamespace) -> Array:
    """The number of real tokens that precede each token in its row."""
    if real is None:
        return xp.reshape(xp.arange(length), (1, length))
    count = xp.astype(real, xp.int32)
    return xp.cumsum(count, axis=1) - count


def _rows(real: Array | None, length: Size, xp: ArrayNamespace) -> Sequences:
    """Every row is one sequence."""
    if real is None:
        whole = xp.asarray(length, dtype=xp.float32)
        return Sequences(whole, lambda values: xp.sum(values, axis=1, keepdims=True))
    lengths = xp.astype(xp.sum(xp.astype(real, xp.int32), axis=1, keepdims=True), xp.float32)
    return Sequences(
        xp.where(lengths > 0, lengths, 1.0),
        lambda values: xp.sum(xp.where(real, values, 0), axis=1, keepdims=True),
    )


def _segments(
    segment: Array, real: Array, length: Size, xp: ArrayNamespace
) -> tuple[Sequences, Array]:
    """Every segment of a row is one sequence; also returns every token's rank in its segment.

    A stable sort brings the tokens of a segment together. Where its run begins and ends in the row
    then gives its length and, from a cumulative sum, any other sum over it. All of this happens
    within rows, so rows on different devices need nothing of each other.
    """
    order = xp.argsort(segment, axis=1, stable=True)
    back = xp.argsort(order, axis=1, stable=True)
    ordered = xp.take_along_axis(segment, order, axis=1)
    column = xp.reshape(xp.arange(length), (1, length))
    starts = (column == 0) | (ordered != xp.roll(ordered, 1, axis=1))
    run = xp.cumsum(xp.astype(starts, xp.int32), axis=1)
    # The columns where runs start, sorted to the front: run i begins at the (i - 1)th of them.
    fronts = xp.argsort(xp.where(starts, 0, 1), axis=1, stable=True)
    first = xp.take_along_axis(fronts, run - 1, axis=1)
    last = run == run[:, -1:]
    beyond = xp.take_along_axis(fronts, xp.where(last, 0, run), axis=1)
    beyond = xp.where(last, length, beyond)

    def restore(array: Array) -> Array:
        return xp.take_along_axis(array, back, axis=1)

    def total(values: Array) -> Array:
        values = xp.take_along_axis(xp.where(real, values, 0), order, axis=1)
        running = xp.cumsum(values, axis=1)
        until = xp.take_along_axis(running, beyond - 1, axis=1)
        before = xp.take_along_axis(running, xp.where(first > 0, first - 1, 0), axis=1)
        sums = until - xp.where(first > 0, before, 0)
        # A device that adds in another order may leave less than 0 of a run of zeros.
        return restore(xp.where(sums < 0, xp.asarray(0.0, dtype=sums.dtype), sums))

    # A run has at least one token, so no length is 0; that of padding does not matter.
    return Sequences(xp.astype(restore(beyond - first), xp.float32), total), restore(column - first)
