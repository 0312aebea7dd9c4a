"""The batches in which a saved model is called with rows of token ids of one's own."""

from __future__ import annotations

from itertools import cycle

import numpy as np
from numpy.typing import NDArray

from embnoise.testing.saved_model import SavedModel, TokenBatch

__all__ = ["drawn_rows", "row_batches"]

_VALUES = 400_000
"""How many values of noise are measured: their RMS is then known to about 0.1%."""
_WIDTHS = (64, 32, 16, 8)
"""The lengths of rows where there are none of one's own."""
_MOST_TOKENS = 4096
"""How many tokens a batch has, unless its one row has more."""


def drawn_rows(model: SavedModel) -> list[list[int]]:
    """Rows of ids that are drawn, always the same ones."""
    draw = np.random.default_rng(0)
    longest = model.width or model.longest or _WIDTHS[0]
    return [draw.choice(model.token_ids, min(width, longest)).tolist() for width in _WIDTHS]


def row_batches(model: SavedModel, rows: list[list[int]]) -> list[list[TokenBatch]]:
    """As many batches as it takes to measure noise, from rows that are repeated if need be.

    An encoder and a decoder are given the same rows.

    Args:
        model: From an adapter.
        rows: Rows of token ids.

    Raises:
        ValueError: A row is longer than the model takes.
    """
    longest = model.width or model.longest
    for number, row in enumerate(rows, start=1):
        if longest is not None and len(row) > longest:
            raise ValueError(
                f"--data must have rows of at most {longest} tokens for {model.name}, and row "
                f"{number} has {len(row)}; cut it as your training does"
            )
    batches, taken, values = [], list[list[int]](), 0
    for row in cycle(rows):
        width = max(map(len, [*taken, row]))
        if taken and width * (len(taken) + 1) > _MOST_TOKENS:
            batches.append([_padded(model, taken)] * model.inputs)
            taken = []
        taken.append(row)
        values += len(row) * model.shape[1]
        if values >= _VALUES:
            return [*batches, [_padded(model, taken)] * model.inputs]
    return batches


def _padded(model: SavedModel, rows: list[list[int]]) -> TokenBatch:
    """The rows with padding on the right."""
    width = model.width or max(map(len, rows))
    lengths = np.array([len(row) for row in rows])
    mask: NDArray[np.bool_] = np.arange(width) < lengths[:, None]
    ids = np.full(mask.shape, model.padding_id, np.int64)
    ids[mask] = np.concatenate(rows)
    return TokenBatch(ids, mask)
