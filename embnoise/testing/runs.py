"""Runs of values that occur twice: exact, as they are too long to agree by chance."""

from __future__ import annotations

import math

import numpy as np
from numpy.typing import NDArray

from embnoise._distributions import Distribution
from embnoise.testing.inputs import Array
from embnoise.testing.statistics import run_length, seen_entropy
from embnoise.testing.tables import entropy, has_few_values

__all__ = ["repeated_run", "shuffled_slices"]

Place = tuple[int, int, int]
Words = NDArray[np.int64]

FACTOR = np.uint64(6364136223846793005)


def repeated_run(
    units: Array, distribution: Distribution | None
) -> tuple[tuple[Place, Place], str] | None:
    """Two places where the same run begins, signs aside, and how one is made from the other.

    Runs go along the channels and along the tokens, forward and backward, and leave out tokens and
    channels that have no noise at all.

    Args:
        units: [B, L, d].
        distribution: The claimed distribution, which says how long a run must be.
    """
    words = np.round(units * 2.0**15).astype(np.int64)
    length = run_length(distribution, words) + 1  # the first sign of a run is not compared
    numbers = np.arange(words.size).reshape(words.shape)
    silent = np.zeros(words.shape, bool)
    silent |= ~words.any(axis=2, keepdims=True) | ~words.any(axis=1, keepdims=True)
    streams = []  # the words of a stream, where each of them is, and what the stream shows
    for order, along in (((0, 1, 2), "channels"), ((0, 2, 1), "tokens")):
        line, places = words.transpose(order).ravel(), numbers.transpose(order).ravel()
        streams += [(line, places, along, ""), (line[::-1], places[::-1], along, "reversed")]
    if words.size < length:
        return None
    hashes = np.concatenate(
        [_hashes(line, silent.ravel()[places], length) for line, places, _, _ in streams]
    )
    ordered = np.sort(hashes)
    if not ((ordered[1:] == ordered[:-1]) & (ordered[1:] != 0)).any():
        return None
    runs = words.size - length + 1
    order_of = np.argsort(hashes, kind="stable")
    alike = hashes[order_of[1:]] == hashes[order_of[:-1]]
    alike &= hashes[order_of[1:]] != 0  # that of runs which are left out
    pairs = np.sort(np.stack([order_of[1:][alike], order_of[:-1][alike]]), axis=0)
    # A row that is reversed along the channels is as it was along the tokens: say the former.
    for one, other in sorted(np.unique(pairs // runs, axis=1).T.tolist(), key=_plainness):
        of_these = (pairs // runs == [[one], [other]]).all(axis=0)
        for first, second in (pairs[:, of_these] % runs).T:
            left = streams[one][0][first : first + length]
            right = streams[other][0][second : second + length]
            negated = np.array_equal(left, -right)
            if not (negated or np.array_equal(left, right)):
                continue  # the hashes of different runs may be equal
            said = ["negated"] if negated else []
            if streams[one][3] != streams[other][3]:
                said.append(f"reversed along the {streams[other][2]}")
            if streams[one][2] != streams[other][2]:
                said.append("with tokens and channels exchanged")
            start, again = int(streams[one][1][first]), int(streams[other][1][second])
            return (_place(start, words.shape), _place(again, words.shape)), ", ".join(said)
    return None


def _plainness(pair: list[int]) -> tuple[bool, bool]:
    """Sorts pairs of streams: first those that differ in direction, then those in orientation."""
    one, other = pair
    return one % 2 == other % 2, one // 2 == other // 2


def _hashes(line: Words, silent: NDArray[np.bool_], length: int) -> NDArray[np.uint64]:
    """One for each run, and the same for a run and its negative; 0 if a part of it is silent."""
    words = line.astype(np.uint64)
    hashes = np.zeros(words.size - length + 1, np.uint64)
    for offset in range(length):
        hashes = hashes * FACTOR + words[offset : offset + hashes.size]
    either: NDArray[np.uint64] = np.minimum(hashes, np.uint64(0) - hashes)
    until = np.concatenate([[0], np.cumsum(silent)])
    return np.where(until[length:] == until[:-length], either, np.uint64(0))


def _place(number: int, shape: tuple[int, ...]) -> Place:
    row, token, channel = (int(i) for i in np.unravel_index(number, shape))
    return row, token, channel


def shuffled_slices(
    units: Array, distribution: Distribution | None
) -> tuple[str, Place, Place] | None:
    """Two rows, tokens or channels with the same sizes in another order.

    Returns:
        "rows", "tokens" or "channels", and where both begin. ``None`` if there are none, or if so
        few values would agree by chance.
    """
    if distribution is None or has_few_values(distribution):
        return None
    sizes = abs(np.round(units * 2.0**15).astype(np.int64))
    # If the sizes have fewer values than claimed, these count.
    bits = min(entropy(distribution, 2.0**-15) - 1, seen_entropy(sizes))
    for which, slices in (
        ("rows", sizes.reshape(len(sizes), 1, -1)),
        ("tokens", sizes),
        ("channels", sizes.transpose(0, 2, 1)),
        ("tokens", sizes.transpose(1, 0, 2).reshape(1, sizes.shape[1], -1)),  # of all rows
        ("channels", sizes.transpose(2, 0, 1).reshape(1, sizes.shape[2], -1)),
    ):
        width = slices.shape[2]
        if width * bits - math.lgamma(width + 1) / math.log(2) < 160:
            continue
        seen: dict[bytes, Place] = {}
        ordered = np.sort(slices, axis=2)
        for row, position in np.ndindex(ordered.shape[:2]):
            place = (row, 0, position) if which == "channels" else (row, position, 0)
            if not ordered[row, position].any():
                continue
            key = ordered[row, position].tobytes()
            if seen.setdefault(key, place) != place:
                return which, seen[key], place
    return None
