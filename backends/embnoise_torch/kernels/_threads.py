"""Work shared by several threads, for kernels that release the interpreter lock.

PyTorch's own threads spin for a while after every operation. They can begin at once, where others
would have to wait until one of them gives up its core. Without them there is a pool: not Numba's,
which aborts the process if it is used from two threads at once, or after a fork.
"""

from __future__ import annotations

import ctypes
import os
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from functools import cache
from typing import Any

from embnoise_torch import _compat

__all__ = ["run_parallel"]

Work = Callable[[], object]


def run_parallel(work: Work, threads: int) -> None:
    """Call ``work()`` on this thread and on others at once, and raise what it raises.

    ``work`` divides itself among its callers. A thread may start late, or never: the others then do
    its share.

    Args:
        work: What to call; it takes what is left to do from a shared counter.
        threads: On how many threads.
    """
    if threads == 1:
        work()
        return
    team = _team()
    if team is None:
        _run_in_pool(work, threads)
        return
    errors: list[BaseException] = []

    def member() -> None:
        try:
            work()
        except BaseException as error:  # it cannot pass through OpenMP
            errors.append(error)

    team(_call, member, threads, 0)
    if errors:
        raise errors[0]


_Function: Any = ctypes.CFUNCTYPE(None, ctypes.py_object)
_call = _Function(lambda member: member())


@cache
def _team() -> Any:
    """OpenMP's function for a parallel region of PyTorch's threads; ``None`` if there is none."""
    function: Any = None if _forked else _compat.openmp_parallel()
    if function is not None:
        function.argtypes = [_Function, ctypes.py_object, ctypes.c_uint, ctypes.c_uint]
        function.restype = None
    return function


def _run_in_pool(work: Work, threads: int) -> None:
    helpers = [_pool(threads - 1).submit(work) for _ in range(threads - 1)]
    work()
    for helper in helpers:
        if not helper.cancel():
            helper.result()


@cache
def _pool(helpers: int) -> ThreadPoolExecutor:
    return ThreadPoolExecutor(helpers, thread_name_prefix="embnoise")


_forked = False


def _after_fork() -> None:
    """A child has none of its parent's threads, and GNU's OpenMP waits for them forever."""
    global _forked  # noqa: PLW0603
    _forked = True
    _team.cache_clear()
    _pool.cache_clear()


if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_after_fork)
