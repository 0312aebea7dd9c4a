"""The GPU kernel: compiled by Triton, for NVIDIA (CUDA) and AMD (ROCm)."""

from __future__ import annotations

from functools import lru_cache
from types import ModuleType

import torch
from torch import Tensor

from embnoise.backend import (
    Distribution,
    Noise,
    Prepared,
    distribution_of,
    philox_key,
)
from embnoise_torch.kernels._codes import TABLE, code_of
from embnoise_torch.kernels._plans import device_plan
from embnoise_torch.kernels.registry import Kernel, register_kernel

__all__ = ["kernel_with"]


def load() -> Kernel | None:
    """The kernel; ``None`` if Triton is not installed."""
    try:
        from embnoise_torch.kernels import _triton_code  # noqa: PLC0415, Triton may be missing
    except ImportError:
        return None
    return kernel_with(_triton_code)


def kernel_with(code: ModuleType) -> Kernel:
    """The kernel, with what ``_triton_code`` defines: compiled, or interpreted in tests."""

    def add_with_triton(x: Tensor, noise: Noise, prepared: Prepared) -> None:
        tokens, dim = x.shape
        if x.numel() == 0:
            return
        magnitude, sample, position = device_plan(x, noise, prepared)
        distribution = distribution_of(noise)
        kind = code_of(distribution)
        # Any pointer does where the table is not read.
        table = _table(distribution, x.device) if kind == TABLE else magnitude
        warp = 64 if torch.version.hip else 32
        blocks, size = -(-dim // 8), code.block_size(dim, x.element_size(), warp)
        with torch.cuda.device_of(x):  # type: ignore[no-untyped-call] # that is where Triton launches
            code.perturb[tokens, -(-blocks // size)](
                x,
                magnitude.contiguous(),
                sample.contiguous(),
                position.contiguous(),
                table,
                *map(_signed, (prepared.step, *philox_key(noise))),
                dim,
                blocks,
                DISTRIBUTION=kind,
                BLOCK=size,
                **code.OPTIONS,
            )

    return add_with_triton


def _signed(word: int) -> int:
    """The int32 with the bits of a 32-bit word, so that every word has one type in Triton."""
    return (word + 2**31) % 2**32 - 2**31


@lru_cache(maxsize=8)
def _table(distribution: Distribution, device: torch.device) -> Tensor:
    return torch.as_tensor(distribution.table.copy(), device=device)


register_kernel("cuda", "triton", load, priority=10)
