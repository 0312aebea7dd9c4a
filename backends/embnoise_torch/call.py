"""What a model's own call says of its tokens: masks, packed documents and labels.

The names are those of ``transformers``. Padding comes from ``attention_mask`` [B, L]; where rows
are packed, documents come from ``cu_seq_lens_q`` (one flattened row) or from ``position_ids`` that
start again.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

import torch
from torch import Tensor

from embnoise.backend import format_value

__all__ = ["WHERE", "Call", "described", "tokens_of"]

Call = Mapping[str, Any]
"""The arguments of a model's call, by name."""

_CUMULATIVE = ("cu_seq_lens_q", "cu_seq_lens")


def described(call: Call) -> list[Tensor | None]:
    """The tensors of a call that ``tokens_of`` reads: mask, position ids, cumulative lengths.

    Raises:
        ValueError: the mask is of a kind that no lengths can be read from.
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
                "attention_mask must be of shape [B, L] for the lengths of the noise to be read "
                f"from it, got {format_value(mask)}; give such a mask, or position_ids or "
                "cu_seq_lens_q for packed rows"
            )
        mask = None
    # Positions of several kinds (for images, say) have a third dimension and tell no documents.
    usable = isinstance(positions, Tensor) and positions.ndim == 2
    return [mask, positions if usable else None, cumulative]


def tokens_of(
    mask: Tensor | None, positions: Tensor | None, cumulative: Tensor | None, shape: tuple[int, int]
) -> tuple[Tensor | None, Tensor | None]:
    """The mask and the segment ids of a batch of ``shape`` [B, L].

    Raises:
        ValueError: the tensors do not fit the batch.
    """
    batch, length = shape
    if mask is not None and mask.shape[1] > length:
        mask = mask[:, -length:]  # a prefix of cached keys is no part of this call
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


def _labelled(call: Call) -> Tensor:
    labels = call.get("labels")
    if not isinstance(labels, Tensor):
        raise ValueError(f"where needs labels in the model's call, got {format_value(labels)}")
    return labels != -100


WHERE: dict[str, Callable[[Call], Tensor]] = {
    "prompt": lambda call: ~_labelled(call),
    "completion": _labelled,
}
