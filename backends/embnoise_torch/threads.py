"""Chunks of a loop over threads, for kernels that let go of the interpreter lock.

A pool of our own rather than Numba's: that one ends the process when it is used from two threads
at once, or after a fork.
"""

from __future__ import annotations

import os
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from functools import cache

__all__ = ["in_chunks"]

_CHUNKS_PER_THREAD = 4


@cache
def _pool(helpers: int) -> ThreadPoolExecutor:
    return ThreadPoolExecutor(helpers, thread_name_prefix="embnoise")


if hasattr(os, "register_at_fork"):
    # A forked child has none of its parent's threads.
    os.register_at_fork(after_in_child=_pool.cache_clear)


def in_chunks(work: Callable[[int, int], object], size: int, threads: int) -> None:
    """Call ``work(start, stop)`` for chunks that cover range(size), on this and other threads."""
    if threads == 1:
        work(0, size)
        return
    chunk = -(-size // (threads * _CHUNKS_PER_THREAD))
    starts = iter(range(0, size, chunk))

    def take() -> None:
        for start in starts:
            work(start, min(start + chunk, size))

    helpers = [_pool(threads - 1).submit(take) for _ in range(threads - 1)]
    take()
    for helper in helpers:
        helper.result()
