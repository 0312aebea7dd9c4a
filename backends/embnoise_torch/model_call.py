"""Token metadata from the arguments of a model's own call: masks, packed documents and labels.

The names are those of ``transformers``. Padding comes from ``attention_mask`` [B, L]; in packed
rows, documents come from ``cu_seq_lens_q`` (one flattened row) or from ``position_ids`` that start
again.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any, TypeAlias

import torch
from torch import Tensor

from embnoise.backend import format_value

__all__ = ["WHERE", "ModelCall", "masks_of", "tokens_of"]

ModelCall: TypeAlias = Mapping[str, Any]
"""The arguments of a model's call, by name."""

_CUMULATIVE = ("cu_seq_lens_q", "cu_seq_lens")


def masks_of(call: ModelCall) -> list[Tensor | None]:
    """The tensors of a call that ``tokens_of`` reads: mask, position ids, cumulative lengths.

    Raises:
        TypeError: The mask is floating-point.
        ValueError: The mask is not [B, L], and there is nothing else to read lengths from.
    """
    if not call:
        return [None, None, None]
    mask, positions = call.get("attention_mask"), call.get("position_ids")
    cumulative = None
    for name in _CUMULATIVE:
        if call.get(name) is not None:
            cumulative = call[name]
    if mask is not None and not (isinstance(mask, Tensor) and mask.ndim == 2):
        # With documents known the mask adds nothing; with neither, L would be a guess.
        if cumulative is None and positions is None:
            raise ValueError(
                f"attention_mask must be of shape [B, L], got {format_value(mask)}: sequence "
                "lengths cannot be read from it. Pass a [B, L] mask, position_ids or "
                "cu_seq_lens_q (packed rows), or attach(..., tokens=...)"
            )
        mask = None
    if mask is not None and mask.is_floating_point():
        # Read as "nonzero is real", an additive mask would mean the opposite of what it says.
        raise TypeError(
            f"attention_mask must be of a boolean or integer dtype, got {mask.dtype}; a float mask "
            "may be additive (0 and -inf)"
        )
    # Positions of several kinds (for images, say) have a third dimension and mark no documents.
    usable = isinstance(positions, Tensor) and positions.ndim == 2
    return [mask, positions if usable else None, cumulative]


def tokens_of(
    mask: Tensor | None, positions: Tensor | None, cumulative: Tensor | None, shape: tuple[int, int]
) -> tuple[Tensor | None, Tensor | None]:
    """The mask and the segment ids of a batch of ``shape`` (B, L).

    Raises:
        ValueError: The tensors do not fit the batch.
    """
    batch, length = shape
    if mask is not None and mask.shape[1] > length:
        mask = mask[:, -length:]  # cached keys are not part of this call
    segments = None
    if cumulative is not None:
        if batch != 1:
            raise ValueError(f"cu_seq_lens_q must come with one flattened row, got {batch} rows")
        column = torch.arange(length, device=cumulative.device, dtype=cumulative.dtype)
        document = torch.searchsorted(cumulative.contiguous(), column, right=True)
        segments = torch.where(column < cumulative[-1], document, 0)[None]
    elif positions is not None:
        again = positions[:, 1:] <= positions[:, :-1]
        segments = torch.nn.functional.pad(again.cumsum(1) + 1, (1, 0), value=1)
        segments = segments.expand(batch, -1)
    return mask, segments


def _in_completion(call: ModelCall) -> Tensor:
    labels = call.get("labels")
    if not isinstance(labels, Tensor):
        raise ValueError(f"where needs labels in the model's call, got {format_value(labels)}")
    return labels != -100


def _in_prompt(call: ModelCall) -> Tensor:
    return ~_in_completion(call)


WHERE: dict[str, Callable[[ModelCall], Tensor]] = {
    "prompt": _in_prompt,
    "completion": _in_completion,
}
"""What the argument ``where`` of ``attach`` may be besides ``"all"``."""
