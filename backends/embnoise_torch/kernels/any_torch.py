"""The kernel for every device: PyTorch's own operations, block by block."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from embnoise.backend import Noise, Prepared, distribution_of, perturb, philox_key
from embnoise_torch.kernels._plans import device_plan
from embnoise_torch.kernels.registry import ANY_DEVICE, register_kernel
from embnoise_torch.namespace import Namespace

__all__ = ["add_with_torch"]

_BLOCK = 2**22


def add_with_torch(x: Tensor, noise: Noise, prepared: Prepared) -> None:
    """Add noise with PyTorch's operations."""
    magnitude, sample, position = device_plan(x, noise, prepared)
    xp = Namespace(x.device)
    rows = max(1, _BLOCK // x.shape[1])
    for start in range(0, x.shape[0], rows):
        part = slice(start, start + rows)
        noisy: Any = perturb(
            x[part],
            magnitude[part],
            sample[part],
            position[part],
            prepared.step % 2**32,
            philox_key(noise),
            distribution_of(noise),
            xp=xp,
            word_dtype=torch.int64,
        )
        x[part] = noisy


register_kernel(ANY_DEVICE, "torch_ops", lambda: add_with_torch)
