"""``add_noise`` for tensors: the pure function."""

from __future__ import annotations

import torch
from torch import Tensor

from embnoise import _check
from embnoise.noise import Noise
from embnoise.tokens import TokenArrays
from embnoise_torch import operator
from embnoise_torch.kernels import add_

__all__ = ["add_noise", "check_embeddings", "step_of"]

_DTYPES = (torch.float16, torch.bfloat16, torch.float32, torch.float64)


def check_embeddings(x: object) -> tuple[int, int, int]:
    """B, L and d of embeddings ``x``; raises unless ``x`` is a tensor that can take noise."""
    if not isinstance(x, Tensor):
        raise TypeError(f"x must be a torch.Tensor, got {_check.shown(x)}")
    shape = _check.embeddings(x)
    if x.dtype not in _DTYPES:
        raise TypeError(
            f"x must be float16, bfloat16, float32 or float64, got {_check.dtype_name(x)}"
        )
    if x.layout != torch.strided:
        raise TypeError(f"x must be a dense tensor, got layout {x.layout}")
    # Asking a plain tensor for what it has not takes its time.
    if type(x) is not Tensor and hasattr(x, "device_mesh"):
        raise TypeError("x must be a plain tensor, got a DTensor: pass x.to_local()")
    return shape


def step_of(step: object) -> int:
    """A step as an int of at least 0, from an int or an integer tensor of one element."""
    if isinstance(step, Tensor):
        if step.numel() != 1 or step.is_floating_point() or step.dtype == torch.bool:
            raise ValueError(
                f"step must be an integer or an integer tensor of one element, got {step!r}"
            )
        step = int(step)
    return _check.integer("step", step, least=0)


class _Pure:
    """A source without state: the arguments of one traced call of ``add_noise``."""

    def __init__(self, noise: Noise) -> None:
        self.noise = noise
        self.number = operator.register(self)

    def apply_(self, x: Tensor, *arrays: Tensor | None) -> None:
        step, *tokens = arrays
        now = step_of(step)
        shape = check_embeddings(x)
        add_(x, self.noise, self.noise.alpha_at(now), now, shape, TokenArrays(*tokens))


_PURE: dict[Noise, _Pure] = {}


@torch.compiler.assume_constant_result  # type: ignore[untyped-decorator]
def _number_of(noise: Noise) -> int:
    if noise not in _PURE:
        _PURE[noise] = _Pure(noise)
    return _PURE[noise].number


def add_noise(
    x: Tensor,
    noise: Noise,
    *,
    step: int | Tensor = 0,
    training: bool = True,
    mask: Tensor | None = None,
    segment_ids: Tensor | None = None,
    positions: Tensor | None = None,
    sample_ids: Tensor | None = None,
    where: Tensor | None = None,
) -> Tensor:
    """Embeddings with noise added: a pure function of its arguments, with gradient 1.

    Args:
        x: embeddings [B, L, d], or [L, d] taken as B = 1; float16, bfloat16, float32 or float64,
            on any device.
        noise: what noise to add.
        step: the training step, at least 0: an int, or an integer tensor of one element.
        training: no noise if false.
        mask: [B, L], nonzero for a real token; all are real by default.
        segment_ids: integers [B, L], 0 for padding, equal positive values for one document of a
            packed row.
        positions: integers [B, L]. By default the real tokens that precede a token in its row, or
            in its segment if ``segment_ids`` and per-token ``sample_ids`` are both given.
        sample_ids: integers [B] or [B, L]; by default the row's number.
        where: [B, L], nonzero for the tokens to noise; all by default. It does not change L.

    Returns:
        A new tensor of x's shape, dtype and device; ``x`` itself where there is nothing to add:
        not training, alpha 0, or no token.

    Raises:
        TypeError: an argument of the wrong type or dtype.
        ValueError: an argument of the wrong shape or out of range.

    Example:
        >>> import torch
        >>> from embnoise import neftune
        >>> from embnoise_torch import add_noise
        >>> x = torch.zeros(2, 4, 8)
        >>> noisy = add_noise(x, neftune(alpha=5.0), step=3)
        >>> bool(noisy.abs().max() <= 5 / (4 * 8) ** 0.5)
        True
        >>> add_noise(x, neftune(alpha=5.0), training=False) is x
        True
    """
    shape = check_embeddings(x)
    tokens = TokenArrays(mask, segment_ids, positions, sample_ids, where)
    tokens.check(shape)
    if not isinstance(noise, Noise):
        raise TypeError(f"noise must be a Noise, got {_check.shown(noise)}")
    if not _check.flag("training", training) or noise.alpha == 0 or x.numel() == 0:
        return x
    if torch.compiler.is_compiling():
        word = torch.as_tensor(step, dtype=torch.int64)
        noisy = x.clone(memory_format=torch.contiguous_format)
        operator.apply_(noisy.detach(), [word, *tokens], _number_of(noise))
        return noisy
    now = step_of(step)
    alpha = noise.alpha_at(now)
    if alpha == 0:
        return x
    noisy = x.clone(memory_format=torch.contiguous_format)
    operator.unseen(add_, noisy, noise, alpha, now, shape, tokens)
    return noisy
