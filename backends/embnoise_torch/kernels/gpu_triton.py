"""The GPU kernel: compiled by Triton, for NVIDIA (CUDA) and AMD (ROCm).

One launch plans a batch, and one adds the noise, to embeddings or on their way out of the table.
"""

from __future__ import annotations

from functools import lru_cache
from types import ModuleType
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from embnoise.backend import (
    Distribution,
    Noise,
    Prepared,
    distribution_of,
    magnitudes_by_length,
    philox_key,
    uses_rms,
)
from embnoise_torch.kernels._codes import TABLE, code_of
from embnoise_torch.kernels._plans import check_uncaptured, packed_plan
from embnoise_torch.kernels.registry import Kernel, register_kernel

__all__ = ["TritonKernel"]


def load() -> Kernel | None:
    """The kernel; ``None`` if Triton is not installed."""
    try:
        from embnoise_torch.kernels import (  # noqa: PLC0415, Triton may be missing
            _triton_code,
            _triton_plan,
        )
    except ImportError:
        return None
    return TritonKernel(_triton_code, _triton_plan)


class TritonKernel:
    """The kernel, with what ``_triton_code`` and ``_triton_plan`` define.

    Args:
        code: ``_triton_code``: compiled, or interpreted in tests.
        planner: ``_triton_plan``.
    """

    def __init__(self, code: ModuleType, planner: ModuleType) -> None:
        self._code = code
        self._planner = planner

    def __call__(self, x: Tensor, noise: Noise, prepared: Prepared) -> None:
        """Add noise to ``x`` in place."""
        self._launch(x, None, self.plan(x, noise, prepared, x.device), noise, target=x)

    def noisy(self, x: Tensor, plan: Tensor, noise: Noise) -> Tensor:
        """Embeddings [n, d], of any strides, with their noise, in a new tensor."""
        return self._launch(x, None, plan, noise, target=x.new_empty(x.shape))

    def lookup(self, table: Tensor, ids: Tensor, plan: Tensor, noise: Noise) -> Tensor:
        """Rows of an embedding table [V, d], of any strides, with their noise: [n, d].

        Args:
            table: The embedding table.
            ids: int32 or int64 [n], contiguous, on the table's device. The embedding of one that is
                not in the table is NaN, since an error would have to wait for the device.
            plan: int32 [n, 4].
            noise: What noise to add.
        """
        target = table.new_empty((ids.numel(), table.shape[1]))
        return self._launch(table, ids, plan, noise, target=target)

    def _launch(
        self, source: Tensor, ids: Tensor | None, plan: Tensor, noise: Noise, *, target: Tensor
    ) -> Tensor:
        tokens, dim = target.shape
        if target.numel() == 0:
            return target
        distribution = distribution_of(noise)
        kind = code_of(distribution)
        warp = 64 if torch.version.hip else 32
        blocks, size = -(-dim // 8), self._code.block_size(dim, target.element_size(), warp)
        with torch.cuda.device_of(target):  # type: ignore[no-untyped-call] # where Triton launches
            self._code.noisy_rows[tokens, -(-blocks // size)](
                source,
                plan if ids is None else ids,  # any pointer does where it is not read
                plan,
                _table(distribution, target.device) if kind == TABLE else plan,
                target,
                source.shape[0],
                *source.stride(),
                *map(_signed, philox_key(noise)),
                dim,
                blocks,
                DISTRIBUTION=kind,
                LOOKUP=ids is not None,
                IN_PLACE=source is target,
                BLOCK=size,
                **self._code.OPTIONS,
            )
        return target

    def plan(self, x: Tensor, noise: Noise, prepared: Prepared, device: torch.device) -> Tensor:
        """The plan of a batch, int32 [B * L, 4], in one launch and without waiting for the device.

        A scale that uses the RMS of the embeddings takes PyTorch's operations.

        Args:
            x: The embeddings [B * L, d], whose values count only if the scale uses their RMS.
            noise: What noise to add.
            prepared: What ``prepare`` returned.
            device: Where the plan is to be.

        Raises:
            RuntimeError: A CUDA graph is captured, which would repeat the noise of this call.
        """
        check_uncaptured(device)
        if uses_rms(noise):
            return packed_plan(x, noise, prepared, device)
        batch, length, dim = prepared.shape
        numbered = prepared.tokens.mask is not None and (
            prepared.tokens.mask is prepared.tokens.segment_ids
        )
        first, spacing, sample_ids = _samples(prepared.tokens.sample_ids, batch)
        tokens = prepared.tokens._replace(sample_ids=sample_ids).map(
            lambda array: torch.as_tensor(array, device=device).contiguous()
        )
        counted = tokens.mask is not None or tokens.segment_ids is not None
        magnitudes = _magnitudes(noise, prepared.alpha, length, dim, counted, device)
        samples = tokens.sample_ids
        plan = torch.empty((batch * length, 4), dtype=torch.int32, device=device)
        chunk = self._planner.chunk_size(length, documents=tokens.segment_ids is not None)
        arrays = (tokens.mask, tokens.segment_ids, tokens.positions, samples, tokens.where)
        with torch.cuda.device_of(plan):  # type: ignore[no-untyped-call]
            self._planner.plan_rows[batch, -(-length // chunk)](
                *(plan if array is None else array for array in arrays),
                magnitudes,
                plan,
                first,
                spacing,
                _signed(prepared.step),
                length,
                MASK=tokens.mask is not None,
                SEGMENTS=tokens.segment_ids is not None,
                NUMBERED=numbered,
                POSITIONS=tokens.positions is not None,
                SAMPLES=0 if samples is None else 2 if samples.numel() == batch * length else 1,
                WHERE=tokens.where is not None,
                BY_LENGTH=magnitudes.numel() > 1,
                ANTITHETIC=noise.antithetic,
                CHUNK=chunk,
                **self._planner.OPTIONS,
            )
        return plan


def _signed(word: int) -> int:
    """The int32 with the bits of a 32-bit word, so that every word has one type in Triton."""
    return (word + 2**31) % 2**32 - 2**31


def _samples(
    ids: Tensor | NDArray[Any] | None, batch: int
) -> tuple[int, int, Tensor | NDArray[Any] | None]:
    """Sample ids as the first one and the spacing; or as they are, if rows are not evenly spaced.

    Numbers need no transfer to the device.
    """
    if ids is None:
        return 0, 1, None
    if not isinstance(ids, np.ndarray) or ids.shape != (batch,):
        return 0, 0, ids
    spacing = int(ids[1] - ids[0]) if ids.size > 1 else 1
    evenly = bool((np.diff(ids) == spacing).all())
    return (int(ids[0]), spacing, None) if evenly else (0, 0, ids)


@lru_cache(maxsize=16)
def _magnitudes(
    noise: Noise, alpha: float, length: int, dim: int, counted: bool, device: torch.device
) -> Tensor:
    """The magnitude of every token, float32 [1], or [L + 1] by the length of its sequence."""
    lengths = np.arange(length + 1) if counted else np.array([length])
    magnitudes = magnitudes_by_length(noise, alpha, lengths, length, dim).reshape(-1)
    return _on_device(torch.from_numpy(magnitudes), device)


@lru_cache(maxsize=8)
def _table(distribution: Distribution, device: torch.device) -> Tensor:
    return _on_device(torch.from_numpy(distribution.table.copy()), device)


def _on_device(array: Tensor, device: torch.device) -> Tensor:
    """The array on a device, without waiting for it."""
    if device.type == "cuda":
        array = array.pin_memory()
    return array.to(device, non_blocking=True)


register_kernel("cuda", "triton", load, priority=10)
