"""The batches that the kit feeds to a layer, each with the Python that makes it again."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from typing import Any, TypeAlias

import numpy as np
from numpy.typing import NDArray

__all__ = [
    "PACKED", "RAGGED", "SMALL", "Array", "Inputs", "in_numpy", "inputs_of", "left_mask",
    "right_mask", "vocabulary_of",
]  # fmt: skip

Array: TypeAlias = NDArray[np.float64]

SMALL = (4, 7, 16)
"""B, L and d in most checks: always the same, since some frameworks compile for each shape."""

PACKED = np.array([[1, 1, 1, 2, 2, 0, 0]] * SMALL[0])
"""The documents of a batch of ``SMALL`` with packed rows."""

REAL_IDS = 7
"""How many ids real tokens have: few, so that the smallest vocabulary will do."""


def vocabulary_of(padding_id: int) -> int:
    """The size of the vocabulary that ids are drawn from: 8, or more if padding needs it."""
    return max(REAL_IDS, padding_id) + 1


@dataclass(frozen=True, eq=False)
class Inputs:
    """Embeddings, floating-point [B, L, d], or ids, integers [B, L], and which tokens are real."""

    values: NDArray[Any]
    dim: int
    mask: NDArray[np.bool_]
    """[B, L]: true for a real token."""
    segments: NDArray[np.int64]
    """[B, L]: the document of a token, a positive number; 0 for padding."""
    source: str
    """Python that makes ``values``, given ``np``, and ``mask`` if there is padding."""
    mask_dtype: str = "bool"
    """The dtype in which a layer is given the mask."""
    segments_dtype: str = "int64"
    """The dtype in which a layer is given the segment ids."""
    swapped: bool = False
    """Whether all arrays lie in memory with tokens before rows, so that they are not contiguous."""
    told: tuple[str, ...] = ()
    """The arrays, of "mask" and "segment_ids", that a layer is given though they say nothing."""

    @property
    def shape(self) -> tuple[int, int, int]:
        """B, the row's width, d."""
        batch, width = self.mask.shape
        return batch, width, self.dim

    @cached_property
    def packed(self) -> bool:
        """Whether a row holds several documents."""
        return bool(self.segments.max(initial=0) > 1)

    @cached_property
    def mask_source(self) -> str:
        """Python that makes ``mask``, in the dtype in which a layer is given it."""
        dtype = in_numpy(self.mask_dtype)
        return self._mask_source if dtype == "bool" else f"({self._mask_source}).astype({dtype!r})"

    @cached_property
    def _mask_source(self) -> str:
        width, lengths = self.shape[1], self.mask.sum(axis=1)
        for rows, sign, made in (
            (lengths, "<", right_mask(lengths.tolist(), width)),
            (width - lengths, ">=", left_mask(lengths.tolist(), width)),
        ):
            if np.array_equal(made, self.mask):
                return f"np.arange({width}) {sign} np.array({rows[:, None].tolist()})"
        return f"np.array({self.mask.astype(int).tolist()}, bool)"

    @cached_property
    def segments_source(self) -> str:
        """Python that makes ``segments``, in the dtype in which a layer is given them."""
        if self.segments_dtype != "int64":
            return f"({self._segments_source}).astype({self.segments_dtype!r})"
        return self._segments_source

    @cached_property
    def _segments_source(self) -> str:
        if not self.packed:
            return f"({self._mask_source}).astype(int)"
        rows = []
        for row in self.segments:
            starts = np.flatnonzero(np.diff(row, prepend=-1))
            counts = np.diff([*starts, row.size]).tolist()
            rows.append(f"np.repeat({row[starts].tolist()}, {counts})")
        return f"np.stack([{', '.join(rows)}])"

    def with_mask_of(self, dtype: str) -> Inputs:
        """The same batch, whose mask a layer is given as numbers."""
        source = self.source.replace("* mask", "* (mask != 0)")
        return replace(self, mask_dtype=dtype, source=source)

    def with_segments_of(self, dtype: str) -> Inputs:
        """The same batch, whose segment ids a layer is given in another dtype."""
        return replace(self, segments_dtype=dtype)

    def with_swapped_memory(self) -> Inputs:
        """The same batch, whose arrays lie in memory with tokens before rows."""
        return replace(self, swapped=True)

    def telling(self, name: str) -> Inputs:
        """The same batch, whose mask or segment ids a layer is given though they say nothing."""
        return replace(self, told=(name,))

    def with_padding_id(self, padding_id: int) -> Inputs:
        """A batch of ids in which every second token has the id of padding, real ones too."""
        width = self.shape[1]
        return replace(
            self,
            values=np.where(np.arange(width) % 2, self.values, padding_id),
            source=f"np.where(np.arange({width}) % 2, {self.source}, {padding_id})",
        )

    def with_equal_rows(self) -> Inputs:
        """A batch whose rows all have the values of the first."""
        batch = self.shape[0]
        return replace(
            self,
            values=np.repeat(self.values[:1], batch, axis=0),
            source=f"np.repeat(({self.source})[:1], {batch}, axis=0)",
        )

    def negated_and_rolled(self) -> Inputs:
        """The batch with its embeddings negated, and the channels of each moved by one."""
        return replace(
            self,
            values=-np.roll(self.values, 1, axis=2),
            source=f"-np.roll({self.source}, 1, axis=2)",
        )

    def with_sizes(
        self, factors: list[float], padding: float, tokens: Sequence[float] = (1.0,)
    ) -> Inputs:
        """The batch with the embeddings of each row times its factor, and of padding times one.

        The tokens of a row are also multiplied by the factors of tokens, in turn.
        """
        width = self.shape[1]
        sizes = np.array(factors)[:, None] * np.resize(tokens, width)
        return replace(
            self,
            values=self.values * np.where(self.mask, sizes, padding)[..., None],
            source=f"{self.source} * np.where({self._mask_source}, np.array({factors})[:, None] * "
            f"np.resize({[*tokens]}, {width}), {padding})[..., None]",
        )

    def with_sizes_of_documents(self, factors: list[float]) -> Inputs:
        """The batch with the embeddings of each document, and of padding, times their factors."""
        return replace(
            self,
            values=self.values * np.array(factors)[self.segments][..., None],
            source=f"{self.source} * np.array({factors})[{self._segments_source}][..., None]",
        )

    @cached_property
    def lengths(self) -> NDArray[np.int64]:
        """The number of real tokens in each token's document, [B, L]; 0 for padding."""
        if not self.packed:
            return np.where(self.mask, self.mask.sum(axis=1, keepdims=True), 0)
        lengths = np.zeros(self.mask.shape, np.int64)
        for row, segments in enumerate(self.segments):
            _, documents, counts = np.unique(segments, return_inverse=True, return_counts=True)
            lengths[row] = counts[documents]
        return np.where(self.mask, lengths, 0)


def in_numpy(dtype: str) -> str:
    """The dtype of the NumPy array from which a framework's array of a dtype is made."""
    return "float32" if dtype == "bfloat16" else dtype


def right_mask(lengths: list[int], width: int) -> NDArray[np.bool_]:
    """The mask of rows of these lengths, padded on the right."""
    return np.arange(width) < np.array(lengths)[:, None]


def left_mask(lengths: list[int], width: int) -> NDArray[np.bool_]:
    """The mask of rows of these lengths, padded on the left."""
    return right_mask(lengths, width)[:, ::-1]


RAGGED = right_mask([7, 4, 2, 1], SMALL[1])
"""The mask of a batch of ``SMALL`` with rows of other lengths."""


def inputs_of(
    kind: str,
    shape: tuple[int, int, int],
    *,
    fill: str = "zeros",
    seed: int = 0,
    mask: NDArray[np.bool_] | None = None,
    segments: NDArray[np.int64] | None = None,
    padding_id: int = 0,
) -> Inputs:
    """A batch of a shape.

    Args:
        kind: "embeddings" or "ids".
        shape: B, the row's width and d.
        fill: The values of embeddings: "zeros", "ones" or "normal".
        seed: Determines the ids and the normal embeddings.
        mask: Boolean [B, L], true for a real token. Default: all tokens are real.
        segments: Integers [B, L], the documents of packed rows. Default: one document per row.
        padding_id: The id of padding, for ids. The seven ids after it are those of real tokens,
            counted modulo the size of the vocabulary.
    """
    if mask is None:
        mask = np.ones(shape[:2], bool) if segments is None else segments != 0
    if segments is None:
        segments = mask.astype(np.int64)
    draw = f"np.random.default_rng({seed})"
    if kind == "ids":
        generator = np.random.default_rng(seed)
        values: NDArray[Any] = generator.integers(1, REAL_IDS + 1, shape[:2])
        source = f"{draw}.integers(1, {REAL_IDS + 1}, {shape[:2]})"
        if not mask.all():
            values, source = values * mask, f"{source} * mask"
        if padding_id:
            vocabulary = vocabulary_of(padding_id)
            values = (values + padding_id) % vocabulary
            source = f"({source} + {padding_id}) % {vocabulary}"
    elif fill == "normal":
        values = np.random.default_rng(seed).standard_normal(shape)
        source = f"{draw}.standard_normal({shape})"
    else:
        values, source = getattr(np, fill)(shape), f"np.{fill}({shape})"
    return Inputs(values, shape[2], mask, segments, source)
