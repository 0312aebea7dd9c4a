"""The CPU kernel: compiled by Numba, on several threads, in place or as part of a lookup."""

from __future__ import annotations

from collections.abc import Callable
from functools import lru_cache
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from embnoise.backend import Noise, Prepared, distribution_of, philox_key
from embnoise_torch.kernels._codes import RADEMACHER, TABLE, UNIFORM, code_of
from embnoise_torch.kernels._plans import host_plan
from embnoise_torch.kernels._threads import run_parallel
from embnoise_torch.kernels.registry import Kernel, register_kernel

__all__: list[str] = []

# Below this many elements a second thread costs more than it saves.
_SERIAL = 2**20
_CHUNK = 2**16


def load() -> Kernel | None:
    """The kernel; ``None`` if Numba is not installed."""
    try:
        from embnoise_torch.kernels import _numba_code  # noqa: PLC0415, Numba may be missing
    except ImportError:
        return None

    return NumbaKernel(_numba_code.perturb)


class NumbaKernel:
    """Noise by ``perturb`` of ``_numba_code``."""

    fused_from = 2**22
    """Smaller results are still in the cache when the noise comes to them."""

    def __init__(self, perturb: Callable[..., None]) -> None:
        self._perturb = perturb

    def __call__(self, x: Tensor, noise: Noise, prepared: Prepared) -> None:
        memory = _memory(x)
        self._run(x, noise, prepared, memory, memory, None)

    def look_up_(
        self, x: Tensor, table: Tensor, ids: Tensor, noise: Noise, prepared: Prepared
    ) -> None:
        """Write rows of an embedding table [V, d] with their noise to ``x``, [n, d]."""
        if not table.is_contiguous():
            x.copy_(torch.embedding(table, ids))
            self(x, noise, prepared)
            return
        rows = ids.numpy().astype(np.int64, copy=False)
        if not self._run(x, noise, prepared, _memory(x), _memory(table), rows):
            torch.embedding(table, ids)  # raises

    def _run(
        self,
        x: Tensor,
        noise: Noise,
        prepared: Prepared,
        memory: NDArray[Any],
        table: NDArray[Any],
        ids: NDArray[np.int64] | None,
    ) -> bool:
        """Whether all ids are in the table."""
        plan = host_plan(x, noise, prepared)
        settings = prepared.step % 2**32, *_settings(noise)
        chunk = max(1, _CHUNK // x.shape[1])
        threads = 1 if x.numel() < _SERIAL else torch.get_num_threads()
        taken = np.zeros(2, np.int64)

        def work() -> None:
            self._perturb(memory, table, ids, *plan, *settings, taken, chunk)

        run_parallel(work, threads)
        return not taken[1]


@lru_cache(maxsize=64)
def _settings(noise: Noise) -> tuple[int, int, Any]:
    """The key of a noise and the unit values of its distribution, as ``perturb`` takes them."""
    distribution = distribution_of(noise)
    kind = code_of(distribution)
    units = distribution.table if kind == TABLE else {UNIFORM: None, RADEMACHER: True}[kind]
    return *philox_key(noise), units


def _memory(x: Tensor) -> NDArray[Any]:
    """A tensor's memory as an array of the element types that the compiled code knows."""
    if x.dtype == torch.float16:
        return x.view(torch.uint16).numpy()
    if x.dtype == torch.bfloat16:
        return x.view(torch.int16).numpy()
    return x.numpy()


register_kernel("cpu", "numba", load, priority=10)
