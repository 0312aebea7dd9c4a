"""What the values of ids, masks and other inputs tell, where they are known.

B rows and L tokens of a lookup. They are unknown in compiled steps.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any, TypeAlias

import numpy as np
from numpy.typing import NDArray

__all__ = [
    "are_column",
    "are_segments",
    "is_inverted",
    "is_of_other_ids",
    "start_again",
]

Values: TypeAlias = NDArray[Any]


def is_of_other_ids(mask: Values, ids: Values, inputs: Iterable[Values]) -> bool:
    """Whether ids that a model computed have moved away from their mask, such as reversed ones.

    Where the mask tells padding, they then are several tokens, and not those of the inputs.

    Args:
        mask: Nonzero for real tokens, [B, L].
        ids: What was looked up, [B, L].
        inputs: What the model was given, each [B, L].
    """
    padding = ids[mask == 0]
    same = any(np.array_equal(padding, each[mask == 0]) for each in inputs)
    return len(np.unique(padding)) > 1 and not same


def is_inverted(mask: Values, ids: Values) -> bool:
    """Whether a mask is nonzero where ids are 0, that of padding, and nowhere else."""
    real, others = mask != 0, ids != 0
    return bool((real != others).all() and real.any() and others.any())


def are_column(ids: Values, rows: Values) -> bool:
    """Whether ids, one for each of several rows [B, L], are a column of them.

    The same id for all rows may be one that a model puts in front of them.
    """
    if ids.size != len(rows) or len(np.unique(ids)) < 2:
        return False
    return bool((rows == ids.reshape(-1, 1)).all(axis=0).any())


def are_segments(given: Values, mask: Values | None) -> bool:
    """Whether numbers of segments, [B, L], [1, L] or [L], tell several documents in a row.

    0 and 1 may be the segments of BERT, and 2 a third one of XLNet.
    """
    given = np.atleast_2d(given)
    changes = (given[:, 1:] != given[:, :-1])[_pairs(given, mask)]
    real = given if mask is None or mask.shape != given.shape else given[mask != 0]
    return bool(changes.any() and (real.min() > 0 or real.max() > 2))


def start_again(given: Values, mask: Values | None) -> bool:
    """Whether positions, [B, L], [1, L] or [L], count up, and start again within a row."""
    given = np.atleast_2d(given)
    pairs = _pairs(given, mask)
    lowest = np.broadcast_to(given.min(axis=1, keepdims=True), pairs.shape)[pairs]
    before, after = given[:, :-1][pairs], given[:, 1:][pairs]
    starts = after == lowest
    counts = (starts | (after == before + 1)).all()
    return bool(counts and (starts & (before > lowest)).any())


def _pairs(given: Values, mask: Values | None) -> Values:
    """Which neighbors in rows are both real tokens, boolean [B, L - 1]."""
    if mask is None or mask.shape != given.shape:
        return np.ones_like(given[:, 1:], dtype=bool)
    real = mask != 0
    pairs: Values = real[:, 1:] & real[:, :-1]
    return pairs
