"""Noise under PyTorch's transformations: ``torch.func``, ``make_fx``, ``torch.export``, tracing.

There, a tensor may have no memory that a kernel could write to. Transformations see one operator
instead, which returns the noisy embeddings of a detached tensor. ``vmap`` and fake tensors have
rules for it. Derivatives of every order and direction are those of the identity, since
``add_transformed`` writes the operator's result over a differentiable copy of the embeddings.

B batch, L tokens in a row, d channels, N samples of a ``vmap``.
"""

from __future__ import annotations

import json
import uuid
import warnings
from functools import lru_cache
from typing import Any

import torch
from torch import Tensor

from embnoise.backend import Noise, TokenArrays, embedding_shape, format_value, resolve_step
from embnoise_torch import _compat
from embnoise_torch.tracing import custom_op
from embnoise_torch.tracing.custom_op import Source
from embnoise_torch.tracing.pure import described, pure_source

__all__ = [
    "add_counted",
    "add_pure",
    "check_tokens",
    "counted_key",
    "find_by_key",
    "is_recorded",
    "noisy",
    "step_tensor",
]

_PROCESS = uuid.uuid4().hex[:12]


@_compat.constant_in_dynamo
def is_recorded() -> bool:
    """Whether code that is compiled is exported, or inside of a transformation of ``torch.func``.

    The operator of ``tracing.custom_op`` does for other compiled code, with less memory.
    """
    return torch.compiler.is_exporting() or _compat.in_functorch()


@_compat.constant_in_dynamo
def _pure_key(noise: Noise) -> str:
    """What the operator finds the noise by: its description, which does in any process."""
    try:
        return described(noise)
    except TypeError:
        if torch.compiler.is_exporting() or _compat.is_jit_tracing():
            raise
        return _key_in_process(pure_source(noise).number)


@_compat.constant_in_dynamo
def counted_key(number: int) -> str:
    """What the operator finds a source by that counts its calls: see ``call_number``."""
    return _key_in_process(number, custom_op.call_number())


def _key_in_process(*numbers: int) -> str:
    return f"{'.'.join(map(str, numbers))}@{_PROCESS}"


@lru_cache(maxsize=256)
def _described_source(key: str) -> Source:
    return pure_source(Noise.from_dict(json.loads(key)))


def find_by_key(key: str) -> Source:
    """The source with this key.

    Raises:
        RuntimeError: It belongs to another process, or is no longer alive.
    """
    if key.startswith("{"):
        return _described_source(key)
    numbers, _, process = key.partition("@")
    source = custom_op.find(int(numbers.partition(".")[0])) if process == _PROCESS else None
    if source is None:
        raise RuntimeError(
            f"this program refers to the noise {key!r}, which belongs to another process or to a "
            "layer or an attached model that no longer exists. Trace or export it again, in "
            "evaluation mode if it needs no noise; or use add_noise, or EmbeddingNoise with step="
        )
    return source


@torch.library.custom_op("embnoise::noisy", mutates_args=(), tags=(torch.Tag.cudagraph_unsafe,))
def noisy(
    x: Tensor,
    inputs: Tensor | None,
    step: Tensor | None,
    mask: Tensor | None,
    segment_ids: Tensor | None,
    positions: Tensor | None,
    sample_ids: Tensor | None,
    where: Tensor | None,
    rows: Tensor | None,
    source: str,
) -> Tensor:
    """A copy of ``x`` to which ``Source.add_traced_`` has added its noise."""
    with _compat.untraced():
        result = x.clone(memory_format=torch.contiguous_format)
        tokens = TokenArrays(mask, segment_ids, positions, sample_ids, where)
        custom_op.call_opaque(find_by_key(source).add_traced_, result, inputs, step, tokens, rows)
        return result


@noisy.register_fake
def _(x: Tensor, *_: Any) -> Tensor:
    return torch.empty_like(x, memory_format=torch.contiguous_format)


@noisy.register_vmap
def _(
    info: Any,
    in_dims: tuple[int | None, ...],
    x: Tensor,
    inputs: Tensor | None,
    step: Tensor | None,
    *rest: Any,
) -> tuple[Tensor, int]:
    *tokens, rows, source = rest
    count = info.batch_size
    if step is None and info.randomness == "error":
        raise RuntimeError(
            "vmap: noise that counts its calls (EmbeddingNoise, attach) is random, which "
            "randomness='error' refuses. Pass randomness='different' to vmap: each sample gets the "
            "noise that it gets as a row of the batch; or 'same'"
        )
    dims = in_dims[0], in_dims[1], *in_dims[3:8]
    x, inputs, *tokens = (
        _in_front(array, dim, count) for array, dim in zip((x, inputs, *tokens), dims, strict=True)
    )
    if step is not None and in_dims[2] is not None:  # a kernel takes one step
        steps = step.movedim(in_dims[2], 0)
        samples = [
            noisy(x[i], inputs, steps[i], *(a if a is None else a[i] for a in tokens), rows, source)
            for i in range(count)
        ]
        return torch.stack(samples), 0
    batch, length = x.shape[1:3] if x.ndim == 4 else (1, x.shape[1])
    if rows is None:
        rows = torch.arange(batch, device="cpu")
    if step is None and info.randomness == "different":
        first = torch.arange(count, device="cpu")[:, None] * (rows.max() + 1)
        rows = (first + rows).reshape(-1)
    else:
        rows = rows.repeat(count)
    merged = (_merge_rows(array, count * batch, length) for array in tokens)
    result = noisy(x.reshape(-1, *x.shape[-2:]), inputs, step, *merged, rows, source)
    return result.reshape(x.shape), 0


def _in_front(array: Tensor | None, dim: int | None, count: int) -> Any:
    """The array with the samples of a ``vmap`` as its first dimension."""
    if array is None:
        return None
    return array.expand(count, *array.shape) if dim is None else array.movedim(dim, 0)


def _merge_rows(array: Tensor | None, rows: int, length: int) -> Tensor | None:
    """A token array [N, ...] as one of N * B rows: [N * B, L], or [N * B] for one value per row."""
    if array is None:
        return None
    array = array.reshape(rows, -1)
    return array if array.shape[1] == length else array.reshape(rows)


def check_tokens(x: Tensor, tokens: TokenArrays) -> bool:
    """Raise unless the token arrays fit ``x``; returns whether that has any element."""
    if torch.compiler.is_compiling():
        tokens.check(embedding_shape(x))
        return x.numel() > 0
    with _compat.untraced():  # checks are not part of a traced program
        tokens.check(embedding_shape(x))
        return x.numel() > 0


def add_transformed(
    x: Tensor, inputs: Tensor | None, step: Tensor | None, tokens: TokenArrays, key: str
) -> Tensor:
    """Embeddings with the noise of a source added, under any transformation.

    Args:
        x: Embeddings [B, L, d] or [L, d].
        inputs: What was looked up, where that is known.
        step: The step; ``None`` if the source counts its calls.
        tokens: What the caller knows about the tokens.
        key: What the operator finds the source by.
    """
    result = noisy(x.detach(), inputs, step, *tokens, None, key)
    # Mapped by vmap where the result is, even if x is not. A selective checkpoint may keep the sum,
    # which must not be overwritten.
    copy = (x + torch.zeros_like(result)).clone(memory_format=torch.contiguous_format)
    copy.detach().copy_(result)
    return copy


def add_pure(x: Tensor, noise: Noise, step: int | Tensor, tokens: TokenArrays) -> Tensor:
    """``add_noise`` under a transformation, with arguments that have been checked."""
    return add_transformed(x, None, step_tensor(x, step), tokens, _pure_key(noise))


def add_counted(x: Tensor, source: Source, inputs: Tensor | None, tokens: TokenArrays) -> Tensor:
    """Embeddings with the next noise of a source added, under a transformation."""
    if _compat.is_jit_tracing():
        raise RuntimeError(
            "torch.jit.trace: noise that counts its calls (EmbeddingNoise, attach) cannot be "
            "traced, since a traced program has no counter. Trace in evaluation mode, which has "
            "no noise, or under paused(); or use add_noise, or EmbeddingNoise with step=tensor"
        )
    return add_transformed(x, inputs, None, tokens, counted_key(source.number))


def step_tensor(x: Tensor, step: Any) -> Tensor:
    """The step as an int64 tensor of no dimensions.

    Raises:
        TypeError: ``step`` is neither an int nor an integer tensor of one element.
        ValueError: The same, or it is negative.
    """
    if isinstance(step, Tensor):
        if _compat.is_jit_tracing():
            with _compat.untraced():
                _check_step(step)
        else:
            _check_step(step)
        return step.reshape(()).long()
    # Dynamo cannot trace a symbolic int through resolve_step.
    if isinstance(step, bool) or not isinstance(step, int | torch.SymInt) or step < 0:
        step = resolve_step(step)
    if _compat.is_jit_tracing():
        warnings.warn(
            f"step={step} is a constant of the trace: the traced function adds the same noise in "
            "every call. Pass the step as a tensor",
            torch.jit.TracerWarning,  # type: ignore[attr-defined]
            stacklevel=4,
        )
    # Fake tensors take no others; vmap would map what new_full returns.
    if not torch.compiler.is_compiling() and _compat.has_own_dispatch(x):
        return x.new_full((), step, dtype=torch.int64, device="cpu")
    return torch.full((), step, dtype=torch.int64, device="cpu")


def _check_step(step: Tensor) -> None:
    if step.numel() != 1 or step.is_floating_point() or step.dtype == torch.bool:
        raise ValueError(
            "step must be an integer or an integer array of one element, got " + format_value(step)
        )
