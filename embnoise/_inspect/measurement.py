"""The size of noise in lookups that an adapter recorded, predicted and measured.

B batch, L tokens in a row, d channels.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from embnoise._arrays import NUMPY
from embnoise._noise import Noise
from embnoise._plan import plan, prepare
from embnoise._tokens import TokenArrays, coordinates

__all__ = [
    "LATER_CALLS",
    "Lookup",
    "Measurement",
    "inner_multiplier",
    "length_quartiles",
    "measure",
    "multiplier_between",
    "outer_multiplier",
]

Floats = NDArray[np.float32]

LATER_CALLS = 8
"""How many calls of modules after a lookup may tell what the noise is multiplied by."""

_EXACT = 1e-3
"""How large a remainder may be that rounding leaves, relative to the whole."""


class Lookup(NamedTuple):
    """One call of an embedding with noise.

    Attributes:
        ids: What was looked up, integers [B, L].
        clean: The embeddings without noise, float32 [B, L, d].
        noisy: The embeddings with noise.
        tokens: What the noise was told of the tokens, as NumPy arrays.
    """

    ids: NDArray[Any]
    clean: Floats
    noisy: Floats
    tokens: TokenArrays = TokenArrays()


@dataclass(frozen=True)
class Measurement:
    """The noise of recorded lookups.

    Attributes:
        tokens: How many tokens got noise.
        lengths: Quartiles of the lengths of their sequences, or of the widths of their rows for
            ``length="padded"``, without repetitions.
        predicted: The RMS of the noise by its scale rule, distribution and these lengths.
        measured: Its RMS in the model: what the embeddings changed by.
        chance: One standard deviation of the measured RMS by chance, relative to it.
        embedding_rms: The RMS of the embeddings of these tokens, where noise is added to them.
        ratio: The measured RMS over that of the embeddings.
    """

    tokens: int
    lengths: tuple[int, ...]
    predicted: float
    measured: float
    chance: float
    embedding_rms: float
    ratio: float


def measure(noise: Noise, lookups: Sequence[Lookup]) -> Measurement:
    """The noise of recorded lookups, and what it should be.

    Args:
        noise: What noise was added, with a constant alpha.
        lookups: Recorded lookups, at least one.

    Raises:
        ValueError: No token of them is to get noise.
    """
    squares = fourths = added = embeddings = 0.0
    lengths: list[NDArray[Any]] = []
    for lookup in lookups:
        shape = lookup.clean.shape
        prepared = prepare(lookup.clean, noise, step=0, training=True, tokens=lookup.tokens)
        if prepared is None:
            continue
        mean = np.square(lookup.clean, dtype=np.float64).mean(axis=-1)
        planned = plan(noise, prepared, mean_squares=partial(np.asarray, mean), xp=NUMPY)
        sizes = np.broadcast_to(planned.magnitude, shape[:2]).astype(np.float64)
        noised = sizes != 0
        length: Any = shape[1]
        if noise.length != "padded":
            length = coordinates(shape[0], shape[1], lookup.tokens, xp=NUMPY).sequences.length
        # One entry for each token, so that a long sequence weighs as much as its tokens do.
        lengths.append(np.broadcast_to(length, shape[:2])[noised])
        squares += float(np.square(sizes).sum())
        fourths += float((sizes**4).sum())
        # Over all tokens: noise on one that should have none is measured too.
        added += float(np.square(lookup.noisy.astype(np.float64) - lookup.clean).sum())
        embeddings += float(mean[noised].sum())
    found = np.concatenate(lengths).astype(np.int64) if lengths else np.zeros(0, np.int64)
    if not len(found):
        raise ValueError(
            "batch must have tokens that get noise, got none: they are all padding, or where= "
            "leaves all of them out"
        )
    dim = lookups[0].clean.shape[-1]
    measured = math.sqrt(added / (len(found) * dim))
    spread = max(noise._distribution.kurtosis - 1, 0.0) * fourths / (dim * squares**2)
    embedding_rms = math.sqrt(embeddings / len(found))
    return Measurement(
        tokens=len(found),
        lengths=length_quartiles(found),
        predicted=noise._distribution.rms * math.sqrt(squares / len(found)),
        measured=measured,
        chance=math.sqrt(spread) / 2,
        embedding_rms=embedding_rms,
        ratio=measured / embedding_rms if embedding_rms else math.inf,
    )


def length_quartiles(lengths: NDArray[np.integer[Any]]) -> tuple[int, ...]:
    """The shortest, the longest, and the quartiles between them, without repetitions.

    Args:
        lengths: The length of the sequence of each token.
    """
    quartiles = np.quantile(lengths, [0, 0.25, 0.5, 0.75, 1], method="nearest")
    return tuple(int(each) for each in np.unique(quartiles))


def inner_multiplier(table: NDArray[Any], lookups: Sequence[Lookup]) -> float | None:
    """What an embedding multiplies its rows by; ``None`` if its output is no multiple of them.

    Args:
        table: [V, d].
        lookups: Recorded lookups.
    """
    pairs = []
    for lookup in lookups:
        known = lookup.ids < len(table)  # placeholders of images may be beyond the table
        pairs.append((np.asarray(table[lookup.ids[known]], np.float32), lookup.clean[known]))
    rows, clean = (np.concatenate(each) for each in zip(*pairs, strict=True))
    return _factor(rows, clean)


def multiplier_between(noisy: Sequence[Floats], clean: Sequence[Floats]) -> float | None:
    """What a model multiplies noise by after it is added, from a call with noise and one without.

    Args:
        noisy: What a lookup returns, [B, L, d], and then what later modules are called with.
        clean: The same in the call without noise.

    Returns:
        The factor; ``None`` if no module tells.
    """
    added, *changes = (one - other for one, other in zip(noisy, clean, strict=True))
    return outer_multiplier(added, changes)


def outer_multiplier(added: Floats, changes: Iterable[Floats]) -> float | None:
    """What a model multiplies noise by after it is added; ``None`` if no change tells.

    Args:
        added: The noise, [B, L, d].
        changes: By how much the noise changes what later modules are called with, in the order of
            their calls. The last one that is a multiple of the noise counts: the modules after it
            see it through a normalization, say.
    """
    found = None
    for change in changes:
        if not change.any():
            continue
        factor = _factor(added, change)
        if factor is None:
            break
        found = factor
    return found


def _factor(one: Floats, other: Floats) -> float | None:
    """The number that ``other`` is ``one`` times; ``None`` if it is no multiple of it."""
    first, second = (each.astype(np.float64).ravel() for each in (one, other))
    size = float(first @ first)
    if not size:
        return None
    factor = float(first @ second) / size
    rest = second - factor * first
    if float(rest @ rest) > _EXACT**2 * float(second @ second):
        return None
    return factor
