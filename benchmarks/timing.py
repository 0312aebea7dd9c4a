"""How the benchmarks take time."""

from __future__ import annotations

import random
import statistics
import time
from collections.abc import Callable

from tqdm import trange

Runs = dict[str, Callable[[], object]]

_SHORTEST = 1e-3
"""Seconds: what is shorter is measured by several calls."""


def elapsed(run: Callable[[], object], calls: int) -> float:
    """The seconds of some calls."""
    start = time.perf_counter()
    for _ in range(calls):
        run()
    return time.perf_counter() - start


def interleaved(
    runs: Runs,
    rounds: int,
    calls: int = 1,
    clock: Callable[[Callable[[], object], int], float] = elapsed,
) -> dict[str, float]:
    """Median seconds of one call of each run; the runs take turns, each round in another order.

    Orders are drawn, because a run may leave the caches and the memory allocator in a state that
    slows down the next one.
    """
    seconds: dict[str, list[float]] = {name: [] for name in runs}
    names, orders = list(runs), random.Random(0)  # noqa: S311
    for run in runs.values():
        run()
    for _ in trange(rounds, leave=False, disable=None):
        orders.shuffle(names)
        for name in names:
            seconds[name].append(clock(runs[name], calls) / calls)
    return {name: statistics.median(own) for name, own in seconds.items()}


def rounds_within(runs: Runs, seconds: float, most: int) -> tuple[int, int]:
    """How many rounds, at least 3, and calls in each make ``interleaved`` take some seconds."""
    one_round = interleaved(runs, 1)
    calls = max(1, round(_SHORTEST / min(one_round.values())))
    rounds = round(seconds / (calls * sum(one_round.values())))
    return min(most, max(3, rounds)), calls
