"""``add_noise`` for tensors: the pure function."""

from __future__ import annotations

import torch
from torch import Tensor

from embnoise.backend import (
    Noise,
    TokenArrays,
    check_bool,
    check_noise,
    format_value,
    prepare,
)
from embnoise_torch import _compat
from embnoise_torch.kernels import add_
from embnoise_torch.ranks.shards import check_dtensor, is_dtensor, whole
from embnoise_torch.ranks.surroundings import check_part
from embnoise_torch.tracing import custom_op
from embnoise_torch.tracing.planned import add_compiled
from embnoise_torch.tracing.pure import pure_source
from embnoise_torch.tracing.transforms import add_pure, check_tokens, is_recorded, step_tensor

__all__ = ["add_noise", "check_tensor"]


def check_tensor(x: object) -> None:
    """Raise a TypeError unless ``x`` is a tensor that can take noise."""
    if not isinstance(x, Tensor):
        raise TypeError(f"x must be a torch.Tensor, got {format_value(x)}")
    if x.layout != torch.strided or x.is_nested:
        kind = "a nested tensor" if x.is_nested else f"layout {x.layout}"
        hint = "; pad it (torch.nested.to_padded_tensor) and pass the mask" if x.is_nested else ""
        raise TypeError(f"x must be a dense tensor, got {kind}{hint}")


@_compat.constant_in_dynamo
def _number_of(noise: Noise) -> int:
    return pure_source(noise).number


def add_noise(
    x: Tensor,
    noise: Noise,
    *,
    step: int | Tensor,
    training: bool = True,
    mask: Tensor | None = None,
    segment_ids: Tensor | None = None,
    positions: Tensor | None = None,
    sample_ids: Tensor | None = None,
    where: Tensor | None = None,
) -> Tensor:
    """Embeddings with noise added: a pure function of its arguments, with gradient 1.

    Args:
        x: Embeddings [B, L, d], or [L, d] taken as B = 1; float16, bfloat16, float32 or float64,
            on any device. A DTensor gets the noise of the whole tensor.
        noise: What noise to add.
        step: The training step, at least 0, counted modulo 2**32: an int, or an integer tensor of
            one element. Each step draws new noise; the same step, with the same sample ids,
            repeats it.
        training: No noise if false.
        mask: [B, L], nonzero for a real token; all are real by default.
        segment_ids: Integers [B, L], 0 for padding, equal positive values for one document of a
            packed row. Negative values are documents too, or an error where they are known: use
            0 for padding.
        positions: Integers [B, L]. By default the real tokens that precede a token in its row, or
            in its segment if ``segment_ids`` and per-token ``sample_ids`` are both given.
            Counted modulo 2**32.
        sample_ids: Integers [B] or [B, L]; by default the row's number. Counted modulo
            2**32.
        where: [B, L], nonzero for the tokens to noise; all by default. It does not change L.

    Returns:
        A new tensor of x's shape, dtype and device; ``x`` itself where there is nothing to add:
        not training, alpha 0, or no token.

    Raises:
        TypeError: An argument of the wrong type or dtype.
        ValueError: An argument of the wrong shape or out of range; ``x`` is a sum over ranks that
            is still to be taken, or a part of sequences of which nothing tells which.

    Example:
        >>> import torch
        >>> from embnoise import neftune
        >>> from embnoise_torch import add_noise
        >>> x = torch.zeros(2, 4, 8)
        >>> noisy = add_noise(x, neftune(alpha=5.0), step=3)
        >>> bool(noisy.abs().max() <= 5 / (4 * 8) ** 0.5)
        True
        >>> add_noise(x, neftune(alpha=5.0), step=3, training=False) is x
        True
    """
    check_tensor(x)
    tokens = TokenArrays(mask, segment_ids, positions, sample_ids, where)
    if is_dtensor(x):
        tokens = tokens.map(whole)
    elif torch.compiler.is_compiling() or _compat.is_transformed(x):
        return _add_recorded(x, noise, step, training, tokens)
    prepared = prepare(x, noise, step=step, training=training, tokens=tokens)
    if prepared is None:
        return x
    check_part(noise, tokens)
    noisy = x.clone(memory_format=torch.contiguous_format)
    if is_dtensor(x):
        check_dtensor(x)
        custom_op.add_ready_(noisy, noise, custom_op.Ready(prepared))
    else:
        custom_op.call_opaque(add_, noisy, noise, prepared)
    return noisy


def _add_recorded(
    x: Tensor, noise: Noise, step: int | Tensor, training: bool, tokens: TokenArrays
) -> Tensor:
    """The same where values may be unknown: the operator prepares the rest when it runs."""
    some = check_tokens(x, tokens)
    check_noise(noise)
    if not (check_bool("training", training) and some) or noise.alpha == 0:
        return x
    if not torch.compiler.is_compiling() or is_recorded():
        return add_pure(x, noise, step, tokens)
    arrays = [step_tensor(x, step), *tokens]
    return add_compiled(x, None, arrays, noise, _number_of(noise), fresh=False)
