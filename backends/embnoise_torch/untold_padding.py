"""Warnings of padding that nothing tells, which gets noise and counts in L."""

from __future__ import annotations

import warnings
from collections.abc import Sequence

import torch
from torch import Tensor

from embnoise.backend import Noise, TokenArrays
from embnoise_torch.model.layouts import are_equal
from embnoise_torch.model.model_call import CallTokens
from embnoise_torch.model.row_parts import is_of_others, parents_of
from embnoise_torch.model.special_ids import SpecialIds
from embnoise_torch.model.untold_arguments import (
    DOCUMENTS,
    tells_documents,
    tells_padding_by_name,
    tells_positions,
    tells_segments,
    tells_unnamed,
)

__all__ = ["FIRST", "UntoldPadding", "warn_of_missed_calls"]

_TELLS = {
    "unknown": tells_padding_by_name,
    "unknown_documents": tells_documents,
    "unknown_segments": tells_segments,
    "unknown_positions": tells_positions,
    "unnamed": tells_unnamed,
}
"""What decides about the fields of ``CallTokens`` under whose names nothing is known."""

FIRST = 8
"""How many lookups are looked at for what is only warned of. For all, a GPU would be waited for."""


def warn_of_missed_calls() -> None:
    """Warn that listeners were replaced, which ``Handle`` has found."""
    warnings.warn(
        "embnoise: the forward of a module was replaced after attach(), by accelerate's "
        "unwrap_model(keep_fp32_wrapper=False) perhaps, so the mask of this call may have been "
        "missed. From the next call on, it is known again.",
        RuntimeWarning,
        stacklevel=4,
    )


class UntoldPadding:
    """What may be padding in the lookups of an embedding, although no mask says so.

    Args:
        noise: Where its alpha is 0, nothing is warned of.
        special: The special ids of the model.
    """

    def __init__(self, noise: Noise, special: SpecialIds) -> None:
        self._noise = noise
        self._special = special
        self._has_warned = False
        self._has_warned_of_unread = False
        self.looks_at_ids = FIRST if special.padding_shows_at else 0
        """In how many more lookups ids are searched for padding."""
        self.looks_at_arguments = FIRST
        """In how many more of them an argument may turn out to be a mask."""
        self._looks_at_masks = FIRST if special.padding_shows_at else 0
        """In how many more of them a mask may turn out to be true for padding."""
        self.looks_at_others = FIRST
        """In how many more of them the ids are compared with those of the calls."""
        self.looks_closely = FIRST
        """In how many more of them that may be an argument of any name."""

    def warn_without_calls(self) -> None:
        """Warn, once, of a lookup outside of any call."""
        if self._has_warned or self._noise.alpha == 0:
            return
        self._has_warned = True
        warnings.warn(
            "embnoise: an embedding was called outside of a call of its model, as for "
            "inputs_embeds, or in a part of it that is compiled by itself, so nothing tells about "
            "padding and its rows are taken as full. Pass attach(..., tokens=...), a function that "
            "returns the mask of what is looked up, or attach to the model that calls the "
            "embedding.",
            RuntimeWarning,
            stacklevel=4,
        )

    def warn_of_ids(self, ids: Tensor, mask: Tensor | None = None) -> None:
        """Warn if ids begin or end with padding.

        Args:
            ids: What is looked up, for which no call tells a mask.
            mask: What was taken for its mask all the same.
        """
        if self.looks_at_ids == 0:
            return
        self.looks_at_ids -= 1
        if self._noise.alpha == 0 or not self._special.begin_or_end(ids, mask):
            return
        self.looks_at_ids, padding = 0, self._special.padding
        warnings.warn(
            f"embnoise: what is looked up begins or ends with {padding}, the id of padding, and "
            "nothing told its mask, so padding gets noise and counts in L. Pass the model an "
            "attention_mask (decoder_attention_mask on the side of a decoder), or "
            f"attach(..., tokens=lambda ids: {{'mask': ids != {padding}}})",
            RuntimeWarning,
            stacklevel=4,
        )

    def warn_of_unread(self, calls: Sequence[CallTokens]) -> None:
        """Warn, once, of a call whose only argument may be a batch, and cannot be read.

        Args:
            calls: The active calls, none of which tells a mask.
        """
        if self._has_warned_of_unread or self._noise.alpha == 0:
            return
        if all(call.unread is None for call in calls):
            return
        self._has_warned_of_unread = True
        warnings.warn(
            "embnoise: the only argument of a call around the embedding is an object that cannot "
            "be read, so its mask, if it has one, is unknown, and the rows are taken as full. Pass "
            "attach(..., tokens=...), a function that takes it by its name and returns the mask, "
            "such as lambda batch: {'mask': batch.mask}, or tokens=lambda: {} if there is no "
            "padding",
            RuntimeWarning,
            stacklevel=4,
        )

    def warn_of_others(self, ids: Tensor, calls: Sequence[CallTokens]) -> None:
        """Warn if the ids of all calls are others: perhaps this is not the token embedding.

        Args:
            ids: What is looked up, for which no call tells a mask.
            calls: The active calls.
        """
        if not calls or self.looks_at_others == 0:
            return
        self.looks_at_others -= 1
        if self._noise.alpha == 0 or not is_of_others(ids, calls, self._special):
            return
        self.looks_at_others = 0
        warnings.warn(
            f"embnoise: what an embedding looks up, of shape {tuple(ids.shape)}, is not what the "
            "model was called with. If it is the numbers of positions or of types, pass "
            "attach(..., layer=...), the embedding of the tokens; if they are tokens, "
            "attach(..., tokens=...), a function that returns their mask, or tokens=lambda: {}",
            RuntimeWarning,
            stacklevel=4,
        )

    def check_mask(self, ids: Tensor | None, mask: Tensor | None) -> None:
        """Raise if a mask is true for padding alone.

        Args:
            ids: What is looked up; ``None`` for hidden states.
            mask: What a call tells about it.
        """
        if self._looks_at_masks == 0 or ids is None or mask is None or mask.shape != ids.shape:
            return
        self._looks_at_masks -= 1
        padding = self._special.padding
        real, others = mask != 0, torch.ne(ids, padding).to(mask.device)  # type: ignore[arg-type]
        if bool((real != others).all()) and bool(real.any()) and bool(others.any()):
            raise ValueError(
                "attention_mask must be nonzero for real tokens and 0 for padding, got one that is "
                f"nonzero where {padding} is, the id of padding, and nowhere else; if it is true "
                "for padding, pass the model its opposite, or attach(..., tokens=...)"
            )

    def warn_of_arguments(
        self,
        ids: Tensor | None,
        shape: tuple[int, int],
        calls: Sequence[CallTokens],
        tokens: TokenArrays,
        *,
        has_mask: bool,
    ) -> None:
        """Warn if an argument of a call is a mask, lengths or documents by its shape and values.

        Args:
            ids: What is looked up; ``None`` for hidden states.
            shape: B and L.
            calls: The active calls.
            tokens: What they tell.
            has_mask: Whether one of them has a mask. Only documents are warned of then.
        """
        if self.looks_at_arguments == 0:
            return
        untold = [
            (tells, given)
            for call in calls
            for field, tells in _TELLS.items()
            if (given := getattr(call, field)) is not None and (field in DOCUMENTS or not has_mask)
        ]
        if not untold:
            return
        self.looks_at_arguments -= 1
        if self._noise.alpha == 0 or _has_documents(tokens):
            return
        rows = [torch.zeros(shape, dtype=torch.int64) if ids is None else ids]
        if ids is not None:
            rows += parents_of(ids, calls)
        found = next(
            (
                given
                for tells, given in untold
                # Ids may be 0 and 1, but what is looked up is no mask of itself.
                if not any(are_equal(given.to(each.device), each) for each in rows)
                and any(tells(given, each) for each in rows)
            ),
            None,
        )
        if found is None:
            return
        self.looks_at_arguments = 0
        warnings.warn(
            f"embnoise: an argument of the model's call, of shape {tuple(found.shape)}, looks like "
            "a mask, lengths or documents under a name that is not known, unlike attention_mask, "
            "or in one of several nested batches, so the rows are taken as full. If it tells "
            "padding, pass attach(..., tokens=...), a function that takes it by its name and "
            "returns the mask, true for real tokens, such as lambda mask: {'mask': mask}, or for "
            "packed rows the segment_ids; if not, tokens=lambda: {}",
            RuntimeWarning,
            stacklevel=4,
        )


def _has_documents(tokens: TokenArrays) -> bool:
    """Whether some row has several documents, as far as a call tells."""
    segments = tokens.segment_ids
    return segments is not None and bool((segments > 1).any())
