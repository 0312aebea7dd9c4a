"""Noise in place on a tensor, with the fastest kernel that its device has.

On the CPU: the compiled kernel, or NumPy where Numba is not installed. Elsewhere: PyTorch's own
operations, block by block. All give the same bits.
"""

from __future__ import annotations

from functools import cache, lru_cache, partial
from types import ModuleType
from typing import Any, NoReturn

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from embnoise.distributions import RADEMACHER, UNIFORM, Distribution
from embnoise.noise import Noise
from embnoise.perturb import perturb, perturbed
from embnoise.reference import Plan, flat_arrays, plan
from embnoise.tokens import TokenArrays
from embnoise_torch.namespace import Namespace
from embnoise_torch.threads import together

__all__ = ["add_", "numba_kernel"]

# Below this many elements a second thread costs more than it saves.
_SERIAL = 2**17
_CHUNK = 2**16
_BLOCK = 2**22
_COMPILED_DEVICES = ("cpu",)


def add_(
    x: Tensor,
    noise: Noise,
    alpha: float,
    step: int,
    shape: tuple[int, int, int],
    tokens: TokenArrays,
) -> None:
    """Add noise to ``x`` in place, unseen by autograd.

    Args:
        x: embeddings of B, L and d as in ``shape``: float16, bfloat16, float32 or float64.
        noise: what noise.
        alpha: its amplitude now.
        step: the training step.
        shape: B, L and d.
        tokens: tensors on any device, or NumPy arrays, that describe the batch, checked.
    """
    x = x.detach()
    if not x.is_contiguous():
        noisy = x.contiguous()
        add_(noisy, noise, alpha, step, shape, tokens)
        x.copy_(noisy)
        return
    flat = x.view(-1, shape[2])
    step %= 2**32
    if x.device.type in _COMPILED_DEVICES:
        _on_cpu(flat, *_planned(flat, noise, alpha, shape, tokens), step, noise.key, noise.law)
        return
    xp = Namespace(x.device)
    arrays = TokenArrays(
        *(None if a is None else torch.as_tensor(a, device=x.device) for a in tokens)
    )
    how = plan(noise, alpha, shape, arrays, mean_squares=partial(_mean_squares, flat, shape), xp=xp)
    _on_device(flat, _flat(how, shape), step, noise.key, noise.law, xp)


def _mean_squares(x: Tensor, shape: tuple[int, int, int]) -> Tensor:
    norms: Tensor = torch.linalg.vector_norm(x, dim=-1, dtype=torch.float64)
    return (norms.square() / shape[2]).reshape(shape[:2])


def _planned(
    x: Tensor,
    noise: Noise,
    alpha: float,
    shape: tuple[int, int, int],
    tokens: TokenArrays,
) -> tuple[NDArray[np.float32], NDArray[np.uint32], NDArray[np.uint32]]:
    """Magnitude, sample and position of every token, [B * L]."""
    mask, segment_ids, positions, sample_ids, where = (
        None if array is None else _as_numpy(array) for array in tokens
    )
    if mask is not None and mask.all():
        mask = None
    bare = mask is segment_ids is positions is where is None and noise.scale != "relative"
    if bare and not noise.antithetic and (sample_ids is None or sample_ids.shape == shape[:1]):
        # The common batch, with rows as wide as they are long: only the samples are new in it.
        magnitude, sample, position = _full_rows(noise, alpha, shape)
        return (
            magnitude,
            sample if sample_ids is None else sample_ids.repeat(shape[1]).astype(np.uint32),
            position,
        )
    arrays = TokenArrays(mask, segment_ids, positions, sample_ids, where)

    def mean_squares() -> NDArray[np.float64]:
        return _mean_squares(x, shape).numpy()

    return flat_arrays(plan(noise, alpha, shape, arrays, mean_squares=mean_squares, xp=np), shape)


@lru_cache(maxsize=8)
def _full_rows(
    noise: Noise, alpha: float, shape: tuple[int, int, int]
) -> tuple[NDArray[np.float32], NDArray[np.uint32], NDArray[np.uint32]]:
    how = plan(noise, alpha, shape, TokenArrays(), mean_squares=_never, xp=np)
    return flat_arrays(how, shape)


def _never() -> NoReturn:
    raise AssertionError("the relative scale has a plan of its own for every batch")


@cache
def numba_kernel() -> ModuleType | None:
    """The module of the compiled kernel; ``None`` without Numba."""
    try:
        from embnoise_torch import compiled  # noqa: PLC0415, Numba may be missing
    except ImportError:
        return None
    return compiled


def _on_cpu(
    x: Tensor,
    magnitude: NDArray[np.float32],
    sample: NDArray[np.uint32],
    position: NDArray[np.uint32],
    step: int,
    key: tuple[int, int],
    law: Distribution,
) -> None:
    compiled = numba_kernel()
    if compiled is None:
        _with_numpy(x, magnitude, sample, position, step, key, law)
        return
    code = compiled.TABLE
    if law is UNIFORM:
        code = compiled.UNIFORM
    elif law is RADEMACHER:
        code = compiled.RADEMACHER
    memory = _memory(x)

    chunk = max(1, _CHUNK // x.shape[1])
    threads = 1 if x.numel() < _SERIAL else torch.get_num_threads()
    taken = np.zeros(1, np.int64)

    def work() -> None:
        compiled.perturb(
            memory, magnitude, sample, position, step, *key, code, law.table, taken, chunk
        )

    together(work, threads)


def _memory(x: Tensor) -> NDArray[Any]:
    """A tensor's memory as an array of the element types that the compiled kernel knows."""
    if x.dtype == torch.float16:
        return x.view(torch.uint16).numpy()
    if x.dtype == torch.bfloat16:
        return x.view(torch.int16).numpy()
    return x.numpy()


def _with_numpy(
    x: Tensor,
    magnitude: NDArray[np.float32],
    sample: NDArray[np.uint32],
    position: NDArray[np.uint32],
    step: int,
    key: tuple[int, int],
    law: Distribution,
) -> None:
    if x.dtype != torch.bfloat16:
        perturb(x.numpy(), magnitude, sample, position, step, key, law)
        return
    # NumPy has no bfloat16: widen a block at a time, and let PyTorch round it back.
    rows = max(1, _CHUNK // x.shape[1])
    for start in range(0, x.shape[0], rows):
        part = slice(start, start + rows)
        wide = x[part].float()
        perturb(wide.numpy(), magnitude[part], sample[part], position[part], step, key, law)
        x[part] = wide.to(x.dtype)


def _flat(how: Plan, shape: tuple[int, int, int]) -> tuple[Tensor, Tensor, Tensor]:
    """A plan's magnitude, sample and position in full, float32 and int64 words of shape [B * L]."""
    magnitude, sample, position = (array.expand(shape[:2]).reshape(-1) for array in how)
    return magnitude, sample.long() & 0xFFFFFFFF, position.long() & 0xFFFFFFFF


def _on_device(
    x: Tensor,
    tokens: tuple[Tensor, Tensor, Tensor],
    step: int,
    key: tuple[int, int],
    law: Distribution,
    xp: Namespace,
) -> None:
    rows = max(1, _BLOCK // x.shape[1])
    for start in range(0, x.shape[0], rows):
        part = slice(start, start + rows)
        scale, sample, position = (array[part] for array in tokens)
        x[part] = perturbed(
            x[part], scale, sample, position, step, key, law, xp=xp, word=torch.int64
        )


def _as_numpy(tensor: Tensor | NDArray[Any]) -> NDArray[Any]:
    if isinstance(tensor, np.ndarray):
        return tensor
    if tensor.requires_grad or tensor.device.type != "cpu":
        tensor = tensor.detach().cpu()
    return (tensor.float() if tensor.dtype == torch.bfloat16 else tensor).numpy()
