"""Work shared by several threads, for kernels that release the interpreter lock.

The pool is not Numba's, which aborts the process if it is used from two threads at once, or after a
fork.
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
    """Call ``work()`` on this thread and on others at once.

    ``work`` divides itself among its callers. A thread may start late, or never (PyTorch's own
    threads spin for a while after every operation and keep their cores): the others then do its
    share.

    Args:
        work: What to call; it takes what is left to do from a shared counter.
        threads: On how many threads.
    """
    if threads == 1:
        work()
        return
    helpers = [_pool(threads - 1).submit(work) for _ in range(threads - 1)]
    work()
    for helper in helpers:
        if not helper.cancel():
            helper.result()
