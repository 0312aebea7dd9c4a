"""The plan of a batch: by NumPy for kernels on the CPU, or on the device of the embeddings."""

from __future__ import annotations

from functools import lru_cache
from typing import Any, NoReturn, TypeAlias

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from embnoise.backend import NUMPY, Noise, Prepared, TokenArrays, flat_plan, plan, uses_rms
from embnoise_torch.namespace import Namespace

__all__ = ["check_uncaptured", "device_plan", "host_plan", "packed_plan", "unpacked_plan"]

FlatPlan: TypeAlias = tuple[NDArray[np.float32], NDArray[np.uint32], NDArray[np.uint32]]


def host_plan(x: Tensor, noise: Noise, prepared: Prepared) -> FlatPlan:
    """Magnitude, sample and position of every token, [B * L] each."""
    shape, tokens = prepared.shape, prepared.tokens
    if tokens.mask is not None:
        mask = _as_numpy(tokens.mask)
        all_real = np.count_nonzero(mask) == mask.size  # a third of the time of all()
        tokens = tokens._replace(mask=None if all_real else mask)
    sample_ids = tokens.sample_ids
    only_samples = tokens.mask is tokens.segment_ids is tokens.positions is tokens.where is None
    per_row = sample_ids is None or sample_ids.shape == shape[:1]
    if only_samples and per_row and (full := _full_rows(noise, prepared.alpha, shape)) is not None:
        # The common batch, with rows as wide as they are long: only the samples are new in it.
        if sample_ids is None:
            return full
        return full[0], _as_numpy(sample_ids).astype(np.uint32).repeat(shape[1]), full[2]
    planned = plan(
        noise,
        prepared._replace(tokens=tokens.map(_as_numpy)),
        mean_squares=lambda: _mean_squares(x, prepared).numpy(),
        xp=NUMPY,
    )
    return flat_plan(planned, shape)


@lru_cache(maxsize=8)
def _full_rows(noise: Noise, alpha: float, shape: tuple[int, int, int]) -> FlatPlan | None:
    """The plan of rows of samples 0, 1, ... without padding.

    ``None`` if it is not the same for other samples and embeddings.
    """
    if noise.antithetic or uses_rms(noise):
        return None
    prepared = Prepared(shape, 0, alpha, TokenArrays())
    return flat_plan(plan(noise, prepared, mean_squares=_never, xp=NUMPY), shape)


def _never() -> NoReturn:
    raise AssertionError("a scale that uses the RMS has a plan of its own for every batch")


def _as_numpy(array: Tensor | NDArray[Any]) -> NDArray[Any]:
    if isinstance(array, np.ndarray):
        return array
    return array.detach().cpu().numpy()


def device_plan(
    x: Tensor, noise: Noise, prepared: Prepared, device: torch.device | None = None
) -> tuple[Tensor, Tensor, Tensor]:
    """Magnitude (float32), sample and position (int64 words) of every token, [B * L] each.

    They are on ``device``, by default that of ``x``.
    """
    device = device or x.device
    tokens = prepared.tokens.map(lambda array: torch.as_tensor(array, device=device))
    planned = plan(
        noise,
        prepared._replace(tokens=tokens),
        mean_squares=lambda: _mean_squares(x, prepared),
        xp=Namespace(device),
    )
    magnitude, sample, position = (
        array.expand(prepared.shape[:2]).reshape(-1) for array in planned
    )
    return magnitude, sample.long() & 0xFFFFFFFF, position.long() & 0xFFFFFFFF


def packed_plan(x: Tensor, noise: Noise, prepared: Prepared, device: torch.device) -> Tensor:
    """The plan of every token as one array, int32 [B * L, 4].

    The four are the bits of its magnitude, its sample, its position, and the step. A row is NaN if
    its documents, which are its mask as well, have a negative number: an additive mask, perhaps.

    Raises:
        RuntimeError: As for ``check_uncaptured``.
    """
    check_uncaptured(device)
    magnitude, sample, position = device_plan(x, noise, prepared, device)
    documents = prepared.tokens.segment_ids
    if documents is not None and documents is prepared.tokens.mask:
        batch, length, _ = prepared.shape
        rows = torch.as_tensor(documents, device=device).reshape(batch, length) < 0
        magnitude = magnitude.masked_fill(rows.any(dim=1).repeat_interleave(length), torch.nan)
    step = torch.full_like(sample, prepared.step % 2**32)
    words = torch.stack([sample, position, step], dim=1)
    return torch.cat([magnitude.view(torch.int32)[:, None], words.to(torch.int32)], dim=1)


def check_uncaptured(device: torch.device) -> None:
    """Raise if what a device is to do is captured in a graph.

    Raises:
        RuntimeError: A CUDA graph is captured, which would repeat the noise of this call.
    """
    captures = getattr(getattr(torch, device.type, None), "is_current_stream_capturing", None)
    if captures is not None and captures():
        raise RuntimeError(
            "embnoise: a CUDA graph that is captured here would add the same noise in every "
            "replay. Use torch.compile(mode='reduce-overhead'), which leaves out of its graphs "
            "what draws the noise, or capture what follows the embedding"
        )


def unpacked_plan(plan: Tensor) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """Magnitude (float32), sample, position and step (int64 words) of every token, [n] each."""
    sample, position, step = (plan[:, 1:].long() & 0xFFFFFFFF).unbind(1)
    return plan[:, 0].view(torch.float32), sample, position, step


def _mean_squares(x: Tensor, prepared: Prepared) -> Tensor:
    """The mean square over the channels of every token's embedding, [B, L].

    In float64, or in float32 on a device without float64.
    """
    wide = Namespace(x.device).float64 or torch.float32
    norms: Tensor = torch.linalg.vector_norm(x, dim=-1, dtype=wide)
    return (norms.square() / prepared.shape[2]).reshape(prepared.shape[:2])
