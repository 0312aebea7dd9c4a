"""Masks that cannot be read, or are those of other tokens, and their errors."""

from __future__ import annotations

from torch import Tensor

from embnoise.backend import format_value
from embnoise_torch.model.documents import ADDITIVE
from embnoise_torch.model.model_call import CallTokens

__all__ = ["HINT", "is_float", "is_readable", "of_others", "unreadable"]

HINT = "pass attach(..., tokens=...), a function that returns the mask of what is looked up"
"""What to do where it is not known whose mask it is."""


def is_readable(mask: Tensor | None) -> bool:
    """Whether lengths can be read from a mask."""
    return mask is not None and mask.ndim == 2 and not mask.is_floating_point()


def is_float(mask: Tensor | None) -> bool:
    """Whether a mask [B, L] may be additive."""
    return mask is not None and mask.ndim == 2 and mask.is_floating_point()


def _described(call: CallTokens) -> str:
    for name, each in zip(
        ("attention_mask", "cu_seq_lens_q", "seq_idx", "input_ids", "ids"),
        (call.mask, call.cumulative, call.documents, call.ids, call.other_ids),
        strict=True,
    ):
        if each is not None:
            return f"{name} ({format_value(each)})"
    raise AssertionError(call)


def of_others(call: CallTokens, shape: tuple[int, int], *, states: bool) -> ValueError:
    """The error of a call about other tokens than those of a lookup, of B rows and L columns."""
    if states:
        rows, length = shape
        return ValueError(
            f"layer must see the tokens that the model was called with, got {rows} rows of "
            f"{length} hidden states beside {_described(call)}; {HINT}, or an empty dict if all "
            "of them are real"
        )
    return ValueError(
        f"the ids that the embedding looks up, of shape {shape}, are not those that the model "
        f"was called with, so its {_described(call)} may be of other tokens; {HINT}"
    )


def unreadable(call: CallTokens) -> Exception:
    """The error of a call whose mask is not [B, L], or may be additive."""
    if is_float(call.mask):
        # Read as "nonzero is real", an additive mask would mean the opposite of what it says.
        return TypeError(
            "attention_mask must be of a boolean or integer dtype, got "
            f"{format_value(call.mask)}. If it is 1 for real tokens and 0 for padding, pass "
            f"attention_mask.long(); {ADDITIVE}"
        )
    return ValueError(
        f"attention_mask must be of shape [B, L], got {format_value(call.mask)}: sequence lengths "
        "cannot be read from it. Pass a [B, L] mask, position_ids that start again or "
        "cu_seq_lens_q (packed rows), or attach(..., tokens=...)"
    )
