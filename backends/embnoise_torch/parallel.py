"""One piece of work on several threads, for kernels that let go of the interpreter lock.

A pool of our own rather than Numba's: that one ends the process when it is used from two threads
at once, or after a fork.
"""

from __future__ import annotations

import os
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from functools import cache

__all__ = ["run_parallel"]


@cache
def _pool(helpers: int) -> ThreadPoolExecutor:
    return ThreadPoolExecutor(helpers, thread_name_prefix="embnoise")


if hasattr(os, "register_at_fork"):
    # A forked child has none of its parent's threads.
    os.register_at_fork(after_in_child=_pool.cache_clear)


def run_parallel(work: Callable[[], object], threads: int) -> None:
    """Call ``work()`` on this thread and on others at once; it shares itself out among them.

    A thread may come late (PyTorch's own spin for a while after every operation, and keep its
    core) or never: what it would have done, the others do.
    """
    helpers = [_pool(threads - 1).submit(work) for _ in range(threads - 1)]
    work()
    for helper in helpers:
        if not helper.cancel():
            helper.result()
