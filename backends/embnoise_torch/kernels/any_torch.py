"""The kernel for every device: PyTorch's own operations."""

from __future__ import annotations

from typing import cast

import torch
from torch import Tensor

from embnoise.backend import Noise, Prepared, distribution_of, perturb, philox_key
from embnoise_torch.kernels._plans import packed_plan, unpacked_plan
from embnoise_torch.kernels.registry import ANY_DEVICE, register_kernel
from embnoise_torch.namespace import Namespace

__all__ = ["TorchKernel"]

_BLOCK = 2**20  # of int64, the temporaries take some 80 bytes for each element of a block


class TorchKernel:
    """The kernel for every device: block by block, or in a form that ``torch.compile`` fuses."""

    def __call__(self, x: Tensor, noise: Noise, prepared: Prepared) -> None:
        """Add noise to ``x`` in place."""
        self.add_planned_(x, self.plan(x, noise, prepared, x.device), noise)

    def add_planned_(
        self, x: Tensor, plan: Tensor, noise: Noise, channels: tuple[int, int] | None = None
    ) -> None:
        """Add the noise of a plan to ``x`` in place, block by block.

        Args:
            x: Embeddings [n, d], or some of their channels.
            plan: int32 [n, 4].
            noise: What noise to add.
            channels: If x holds some of the channels: which one its first is, and d.
        """
        rows = max(1, _BLOCK // x.shape[1])
        for start in range(0, x.shape[0], rows):
            part = slice(start, start + rows)
            x[part] = self.noisy(x[part], plan[part], noise, channels)

    def plan(self, x: Tensor, noise: Noise, prepared: Prepared, device: torch.device) -> Tensor:
        """See ``PlannedKernel``."""
        return packed_plan(x, noise, prepared, device)

    def noisy(
        self, x: Tensor, plan: Tensor, noise: Noise, channels: tuple[int, int] | None = None
    ) -> Tensor:
        """See ``PlannedKernel``; ``channels`` as for ``add_planned_``."""
        magnitude, sample, position, step = unpacked_plan(plan)
        noisy = perturb(
            x,
            magnitude,
            sample,
            position,
            step[:, None],
            philox_key(noise),
            distribution_of(noise),
            xp=Namespace(x.device),
            word_dtype=torch.int64,
            channels=channels,
        )
        return cast("Tensor", noisy)


register_kernel(ANY_DEVICE, "torch_ops", TorchKernel)
