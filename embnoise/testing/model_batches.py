"""The batches that a saved model is called with, and the true length of every token."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from embnoise.testing.saved_model import SavedModel, TokenBatch

__all__ = ["Part", "batches_of", "parts_of"]

WIDTH = 12
"""The width of rows, where the model takes it."""


@dataclass(frozen=True)
class Part:
    """The tokens of one sequence: a row without its padding, or a document of a packed row."""

    row: int
    where: NDArray[np.bool_]
    """[L]"""

    @property
    def length(self) -> int:
        """How many tokens it has."""
        return int(self.where.sum())


def parts_of(batch: TokenBatch) -> list[Part]:
    """The sequences of a batch."""
    parts = []
    for row, mask in enumerate(batch.mask):
        if batch.segments is None:
            parts.append(Part(row, mask))
        else:
            numbers = batch.segments[row]
            parts += [Part(row, numbers == number) for number in np.unique(numbers)]
    return parts


def batches_of(model: SavedModel, kind: str, seed: int = 0) -> list[TokenBatch]:
    """The batches of a call, one for each input of the model.

    Args:
        model: Its token ids are used.
        kind: ``"right"`` or ``"left"``, where the padding is; ``"square"``, as many rows as
            columns; ``"packed"``, several documents in a row; ``"plain"``, none of this.
        seed: Determines the ids.
    """
    draw = np.random.default_rng(seed)
    return [_batch(model, kind, number, draw) for number in range(model.inputs)]


def _batch(model: SavedModel, kind: str, number: int, draw: np.random.Generator) -> TokenBatch:
    # The second input has other lengths and another width, so that masks cannot be mixed up.
    longest = model.longest or WIDTH
    width = model.width or min(WIDTH, longest) - 3 * number
    if kind == "square":
        # The lengths of the transposed mask are others, whichever side the padding is on.
        width = model.width or min(6, longest)
        lengths = np.roll(np.arange(1, width + 1), width // 2 - number)[::-1]
    else:
        lengths = np.roll([width, (width + 2) // 2, max(width // 4, 1)], number)
    column = np.arange(width)
    mask = column < lengths[:, None]
    segments = None
    if kind == "left":
        mask = mask[:, ::-1]
    elif kind == "plain":
        mask = np.ones((3, width), bool)
    elif kind == "packed":
        mask = np.ones((2, width), bool)
        ends = np.array([[width // 3, width], [width // 4, width // 2 + 1]])
        segments = 1 + (column[None, :, None] >= ends[:, None, :]).sum(axis=2)
    ids = draw.choice(model.token_ids, mask.shape)
    return TokenBatch(np.where(mask, ids, model.padding_id), mask, segments)
