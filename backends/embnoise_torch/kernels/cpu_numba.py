"""The CPU kernel: compiled by Numba, on several threads."""

from __future__ import annotations

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

# Below this many elements a second thread costs more than it saves: it may have to wait for a core,
# beside threads of PyTorch that spin after an operation, and then the first one waits for it.
_SERIAL = 2**22
_CHUNK = 2**16


def load() -> Kernel | None:
    """The kernel; ``None`` if Numba is not installed."""
    try:
        from embnoise_torch.kernels import _numba_code  # noqa: PLC0415, Numba may be missing
    except ImportError:
        return None

    def add_with_numba(x: Tensor, noise: Noise, prepared: Prepared) -> None:
        magnitude, sample, position = host_plan(x, noise, prepared)
        settings = prepared.step % 2**32, *_settings(noise)
        memory = _memory(x)
        chunk = max(1, _CHUNK // x.shape[1])
        threads = 1 if x.numel() < _SERIAL else torch.get_num_threads()
        taken = np.zeros(1, np.int64)

        def work() -> None:
            _numba_code.perturb(memory, magnitude, sample, position, *settings, taken, chunk)

        run_parallel(work, threads)

    return add_with_numba


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
