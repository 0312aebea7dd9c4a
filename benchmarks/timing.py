"""How the benchmarks take time."""

from __future__ import annotations

import statistics
import time
from collections.abc import Callable

from tqdm import trange

Runs = dict[str, Callable[[], object]]


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
