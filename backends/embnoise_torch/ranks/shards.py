"""Embeddings of which a rank holds a part: a DTensor, or a part of sequences that are cut.

The noise is planned for the whole, [B, L, d]; a rank takes its tokens and channels out of the plan.
So the noise is that of one process, however the embeddings are sharded.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn

from embnoise.backend import Noise, Prepared, uses_rms
from embnoise_torch import _compat
from embnoise_torch.kernels.registry import kernel_for
from embnoise_torch.ranks.sequences import SequencePart

__all__ = [
    "add_to_shard_",
    "check_dtensor",
    "check_uncompiled",
    "is_dtensor",
    "owned_tokens",
    "part_plan",
    "whole",
]


def is_dtensor(x: object) -> bool:
    """Whether ``x`` is a DTensor."""
    # Asking a plain tensor for an attribute that it lacks is slow.
    return type(x) is not Tensor and isinstance(x, Tensor) and hasattr(x, "device_mesh")


def whole(array: Any) -> Any:
    """A DTensor as the plain tensor that it stands for; anything else as it is."""
    return array.full_tensor() if is_dtensor(array) else array


def check_dtensor(x: Any) -> None:
    """Raise unless noise can be added to a DTensor.

    Raises:
        TypeError: It is traced or compiled.
        ValueError: It is a sum over ranks that is still to be taken.
    """
    if torch.compiler.is_compiling() or _compat.is_transformed(_compat.local_tensor(x)):
        raise TypeError(
            "x must be a plain tensor under torch.compile and other transformations, got a DTensor"
        )
    if any(placement.is_partial() for placement in x.placements):
        raise ValueError(
            f"x is a sum over ranks that is still to be taken (placements {x.placements}), so "
            "that noise would be added on each of them; add it after the sum"
        )


def check_uncompiled(table: Any) -> None:
    """Raise if a lookup with noise cannot be left out of compiled code.

    PyTorch must compile a lookup in a table that is split by its rows together with the sum over
    the ranks.

    Raises:
        TypeError: The table is split by its rows.
    """
    if any(placement.is_shard(0) for placement in table.placements):
        raise TypeError(
            "torch.compile does not support noise on an embedding whose table is split by its rows "
            f"over ranks (placements {table.placements}). Compile the layers behind it one by one "
            "(layer.compile()), or split the table by its columns (ColwiseParallel)"
        )


def owned_tokens(x: Any, ids: Tensor | None, module: nn.Module) -> Tensor | None:
    """Which tokens this rank has looked up, boolean of the shape of ``ids``; ``None`` if all.

    Of a table that is split by its rows, each rank looks up the tokens in its part. The sum over
    the ranks, which comes later, takes each token from one of them.

    Args:
        x: What the module returned, a DTensor.
        ids: What was looked up.
        module: The embedding.

    Raises:
        ValueError: ``x`` is a sum over ranks of some other kind.
    """
    partial = [placement.is_partial() for placement in x.placements]
    table: Any = getattr(module, "weight", None)
    if (
        not any(partial)
        or ids is None
        or not is_dtensor(table)
        or table.device_mesh != x.device_mesh
        or [placement.is_shard(0) for placement in table.placements] != partial
    ):
        check_dtensor(x)
        return None
    (rows, _), (first, _) = _compat.local_part(table)
    return (ids >= first) & (ids < first + rows)


def part_plan(
    noise: Noise, prepared: Prepared, part: SequencePart | None, device: torch.device
) -> Tensor:
    """The plan of the tokens of a part of embeddings, int32 [B, l, 4].

    Args:
        noise: What noise to add.
        prepared: What is known about the whole.
        part: The tokens; ``None`` for all.
        device: Where the plan is to be.

    Raises:
        ValueError: The noise's scale needs whole sequences.
    """
    if uses_rms(noise):
        raise ValueError(
            f"scale={noise.scale!r} uses the RMS of whole sequences, and this rank holds a part of "
            "the embeddings; choose another scale"
        )
    batch, length, dim = prepared.shape
    values = torch.empty((batch * length, dim), device="meta")  # they do not count
    kernel: Any = kernel_for(device.type)
    if not hasattr(kernel, "plan"):
        kernel = kernel_for("any")
    plan: Tensor = kernel.plan(values, noise, prepared, device).view(batch, length, 4)
    return plan if part is None else plan[:, part.columns.to(device)]


def add_to_shard_(x: Any, noise: Noise, plan: Tensor, owned: Tensor | None) -> None:
    """Add noise in place to what this rank holds, unseen by autograd.

    Args:
        x: Embeddings, a DTensor [B, L, d] or [L, d], or a plain tensor.
        noise: What noise to add.
        plan: The plan of all tokens, int32 of the shape of ``x`` but for the channels, and 4.
        owned: Boolean of the shape of ``x`` but for the channels, true for the tokens that get
            noise on this rank; ``None`` for all.
    """
    if owned is not None:
        plan = torch.where(owned.to(plan.device).view(*plan.shape[:-1], 1), plan, 0)
    values, dim, first = x.detach(), x.shape[-1], 0
    if is_dtensor(x):
        sizes, offsets = _compat.local_part(values)
        *here, _ = (slice(at, at + size) for at, size in zip(offsets, sizes, strict=True))
        values, plan, first = _compat.local_tensor(values), plan[tuple(here)], offsets[-1]
    if values.numel() == 0:
        return
    rows = values.contiguous().view(-1, values.shape[-1])
    flat = plan.reshape(-1, 4)
    kernel: Any = kernel_for(values.device.type)
    if values.shape[-1] == dim and hasattr(kernel, "noisy"):
        rows = kernel.noisy(rows, flat, noise)
    else:
        kernel_for("any").add_planned_(rows, flat, noise, (first, dim))  # type: ignore[attr-defined]
    values.copy_(rows.view(values.shape))
