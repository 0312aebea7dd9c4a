"""The CPU kernel without a compiler: NumPy, block by block."""

from __future__ import annotations

import torch
from torch import Tensor

from embnoise.backend import Noise, Prepared, distribution_of, perturb_inplace, philox_key
from embnoise_torch.kernels._plans import host_plan
from embnoise_torch.kernels.registry import register_kernel

__all__ = ["add_with_numpy"]

_BLOCK = 2**16


def add_with_numpy(x: Tensor, noise: Noise, prepared: Prepared) -> None:
    """Add noise with NumPy."""
    magnitude, sample, position = host_plan(x, noise, prepared)
    settings = (prepared.step % 2**32, philox_key(noise), distribution_of(noise))
    if x.dtype != torch.bfloat16:
        perturb_inplace(x.numpy(), magnitude, sample, position, *settings)
        return
    # NumPy has no bfloat16: widen a block at a time, and let PyTorch round it back.
    rows = max(1, _BLOCK // x.shape[1])
    for start in range(0, x.shape[0], rows):
        part = slice(start, start + rows)
        wide = x[part].float()
        perturb_inplace(wide.numpy(), magnitude[part], sample[part], position[part], *settings)
        x[part] = wide.to(x.dtype)


register_kernel("cpu", "numpy", lambda: add_with_numpy)
