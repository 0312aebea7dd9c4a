"""How the benchmarks take time."""

from __future__ import annotations

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
    """Median seconds of one call of each run; the runs take turns, each round in another order."""
    seconds: dict[str, list[float]] = {name: [] for name in runs}
    names = list(runs)
    for run in runs.values():
        run()
    for turn in trange(rounds, leave=False, disable=None):
        first = turn % len(names)
        for name in names[first:] + names[:first]:
            seconds[name].append(clock(runs[name], calls) / calls)
    return {name: statistics.median(own) for name, own in seconds.items()}


def rounds_within(runs: Runs, seconds: float, most: int) -> tuple[int, int]:
    """How many rounds, at least 3, and calls in each make ``interleaved`` take some seconds."""
    one_round = interleaved(runs, 1)
    calls = max(1, round(_SHORTEST / min(one_round.values())))
    rounds = round(seconds / (calls * sum(one_round.values())))
    return min(most, max(3, rounds)), calls
