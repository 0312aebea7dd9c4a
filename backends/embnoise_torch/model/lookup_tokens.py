"""The mask and the documents of what is looked up, from what the calls around it tell.

Hidden states stand for the ids of a call around them that have their shape.

B rows and L tokens of the lookup; B' and L' those of a call.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor
from torch.nn.functional import pad

from embnoise.backend import TokenArrays
from embnoise_torch.model.documents import segments_of
from embnoise_torch.model.layouts import (
    SAME,
    Layout,
    are_equal,
    are_renumbered,
    find_layout,
    is_same,
)
from embnoise_torch.model.model_call import CallTokens, is_among, tells_padding, unfilled
from embnoise_torch.model.refused_masks import HINT, is_float, is_readable, of_others, unreadable
from embnoise_torch.model.special_ids import SpecialIds

__all__ = ["ids_of_shape", "resolve_tokens"]


def ids_of_shape(shape: tuple[int, int], calls: Sequence[CallTokens]) -> Tensor | None:
    """The ids of the innermost call that has some for hidden states [B, L, d]; else ``None``.

    Args:
        shape: B and L.
        calls: The active calls, from the innermost to the outermost.
    """
    known = [call for call in calls if call.rival_ids is None]
    for ids in (*(call.ids for call in known), *(call.other_ids for call in known)):
        if ids is not None and ids.ndim in (1, 2) and (1, *ids.shape)[-2:] == shape:
            return ids
    return None


def resolve_tokens(
    ids: Tensor | None,
    shape: tuple[int, int],
    calls: Sequence[CallTokens],
    special: SpecialIds,
    *,
    warns: bool = True,
) -> tuple[TokenArrays, bool] | None:
    """The mask and the segments of a lookup, and whether it is transposed to them.

    ``None`` stands for padding that a model looks up by itself.

    The innermost call that has a mask or documents for these very ids is taken, as a whole. A call
    that has only position ids may have lost its mask on the way, so it comes after the others.

    Args:
        ids: What is looked up; ``None`` for hidden states, of whatever was looked up.
        shape: B and L.
        calls: The active calls, from the innermost to the outermost.
        special: The special ids of the model.
        warns: As for ``segments_of``.

    Raises:
        TypeError: The only mask is floating-point.
        ValueError: No call can be read, or none is about these tokens.
    """
    states = ids is None
    known_ids = ids_of_shape(shape, calls) if states else ids
    has_masks = any(call.mask is not None or call.unknown is not None for call in calls)
    lookup = _Lookup(known_ids, shape, special, states=states, warns=warns, has_masks=has_masks)
    chosen: tuple[CallTokens, Layout] | None = None
    moved: tuple[CallTokens, Layout] | None = None
    unread: list[CallTokens] = []
    stranger = None
    known = False
    for call in calls:
        layout = lookup.layout_of(call)
        if layout is None:
            about_others = tells_padding(call) or (
                states and (call.ids is not None or lookup.are_pooled(call))
            )
            stranger = stranger or (call if about_others else None)
            continue
        known = known or call.ids is not None
        if is_readable(call.mask) or call.cumulative is not None or call.documents is not None:
            return lookup.tokens(call, layout)
        if call.mask is not None:
            unread.append(call)
        if call.positions is not None:
            chosen = chosen or (call, layout)
        if layout.transposed or layout.lengthens:
            moved = moved or (call, layout)
    if states and known:
        # What has no ids is inside the model, which made the mask from what it was given.
        unread = [call for call in unread if call.ids is not None]
    if unread and (chosen is None or is_float(unread[0].mask)):
        raise unreadable(unread[0])
    if calls and not known and chosen is None and lookup.is_padding():
        return None
    # A model gives positions to hidden states of its own making, too.
    if stranger is not None and not known and (states or chosen is None):
        raise of_others(stranger, shape, states=states)
    if moved is not None:
        # What the model has added to its rows, it has given positions too.
        return lookup.tokens(*(chosen or moved), added=moved[1])
    if chosen is not None:
        return _told_beside(unread, lookup, *chosen)
    return lookup.without_placeholders(None, None), False


def _told_beside(
    unread: list[CallTokens], lookup: _Lookup, call: CallTokens, layout: Layout
) -> tuple[TokenArrays, bool]:
    """What the positions of a call tell, unless they leave out what an unread mask may tell."""
    told = lookup.tokens(call, layout)
    if unread and lookup.may_have_padding_in(told[0]):
        raise unreadable(unread[0])
    return told


class _Lookup:
    """What is looked up; or with ``states`` hidden states, and their ids if those are known."""

    def __init__(
        self,
        ids: Tensor | None,
        shape: tuple[int, int],
        special: SpecialIds,
        *,
        states: bool,
        warns: bool,
        has_masks: bool,
    ) -> None:
        if ids is not None and ids.shape != shape:
            ids = ids.reshape(shape) if ids.numel() == shape[0] * shape[1] else None
        self.ids = ids
        self.shape = shape
        self.special = special
        self.states = states
        self.warns = warns
        self.has_masks = has_masks
        """Whether any call has what may be a mask, perhaps of another argument."""
        self.hidden: Tensor | None = None
        self.joined = False
        """Whether it has the tokens of several arguments of a call, of which one has a mask."""
        self.held = False
        """Whether one of the calls so far, which are further inside, has exactly these ids."""

    def layout_of(self, call: CallTokens) -> Layout | None:
        """How the lookup lies beside the ids of a call; ``None`` if that is about other tokens."""
        if self.ids is not None:
            if self.ids is call.ids and call.rival_ids is None:
                self.held = True
                return SAME
            for ids in (call.ids, call.other_ids):
                if ids is None or ids.ndim not in (1, 2):
                    continue
                given = ids.to(self.ids.device).reshape((1, *ids.shape)[-2:])
                # Of two arguments that look like ids, a mask is that of the first.
                same_shape = given.shape == self.ids.shape
                if (ids is call.ids or same_shape) and self._is_beside(call, given):
                    return None
                mask = call.mask if is_readable(call.mask) else None
                if mask is not None and mask.shape != given.shape:
                    mask = None
                # What a call further inside was given may have been made of these ids, but may
                # also be that of another argument, which has ids in common with them.
                layout = find_layout(self.ids, given, mask, self.special, similar=not self.held)
                self.held = self.held or are_equal(self.ids, given)
                if layout is None and ids is not call.ids and are_renumbered(self.ids, given):
                    layout = SAME
                if layout is not None and self._is_of_rival(call, given):
                    return None
                if layout is not None and layout.lengthens:
                    self.joined = self.joined or self._joins(call, layout)
                if layout is not None and self.special.placeholders:
                    self._hide(layout.apply(given))
                if layout is not None and layout.lengthens and self._has_mask(call):
                    return SAME  # the mask is that of the longer rows
                if layout is not None or ids is call.ids or same_shape:
                    return layout
        return SAME if self._fits(call) and not self.are_pooled(call) else None

    def are_pooled(self, call: CallTokens) -> bool:
        """Whether hidden states [n, d] are one of each row of a call, or the tokens of all rows."""
        ids = call.other_ids
        pooled = self.states and ids is not None and ids.ndim == 2 and len(ids) > 1
        return pooled and self.shape in ((1, len(ids)), (1, ids.numel()))  # type: ignore[arg-type, union-attr]

    def _has_mask(self, call: CallTokens) -> bool:
        """Whether the mask of a call has the shape of the lookup, rather than of the ids."""
        return is_readable(call.mask) and call.mask.shape == self.shape  # type: ignore[union-attr]

    def _is_beside(self, call: CallTokens, given: Tensor) -> bool:
        """Whether the lookup is of an argument beside the ids of a call, and not of these."""
        assert self.ids is not None
        return (
            not is_same(self.ids, given)  # without waiting for a GPU
            and is_among(self.ids, call.beside)
            and not are_equal(self.ids, given)
        )

    def _joins(self, call: CallTokens, layout: Layout) -> bool:
        """Whether the lookup is of a call's ids and of other arguments, whose masks are unknown."""
        return self.has_masks and _have_part(self._added(layout), call.beside)

    def _is_of_rival(self, call: CallTokens, given: Tensor) -> bool:
        """Whether the lookup is of the other side of an encoder-decoder, with the same ids."""
        rival = call.rival_ids
        if rival is None or self.ids is None or rival.ndim != 2:
            return False
        here, there = is_same(self.ids, given), is_same(self.ids, rival)
        if here != there:
            return there
        if not here and find_layout(self.ids, rival, None, self.special) is None:
            return False
        masks = call.mask, call.rival_mask
        if masks == (None, None) or (
            masks[0] is not None and masks[1] is not None and torch.equal(masks[0], masks[1])
        ):
            return False
        raise ValueError(
            "the ids that the embedding looks up are both input_ids and decoder_input_ids, whose "
            f"masks differ; {HINT}"
        )

    def is_padding(self) -> bool:
        """Whether a model looks up nothing but padding, to lengthen its rows."""
        padding = self.special.padding
        return self.ids is not None and padding is not None and bool((self.ids == padding).all())

    def may_have_padding_in(self, tokens: TokenArrays) -> bool:
        """Whether there may be padding in rows that are taken as one document each."""
        return (
            self.ids is not None
            and not self.states
            and self.special.may_begin_or_end(self.ids)
            and (tokens.mask is None or bool(tokens.mask.all()))
            and (tokens.segment_ids is None or bool((tokens.segment_ids == 1).all()))
        )

    def _fits(self, call: CallTokens) -> bool:
        """Whether a call without ids may be about the lookup, by the shape of its mask."""
        if self.states:
            rows, length = self.shape
            known = (call.positions, call.documents, call.mask if is_readable(call.mask) else None)
            return call.ids is None and all(
                each is None
                or (each.shape[-1] == length and each.shape[-2:-1] in ((), (1,), (rows,)))
                for each in known
            )
        if not is_readable(call.mask):
            return call.ids is None or self.ids is None
        rows, length = call.mask.shape  # type: ignore[union-attr]
        return rows == self.shape[0] and length >= self.shape[1]

    def _hide(self, given: Tensor) -> None:
        """Note the placeholders of a call that the model replaced before the lookup."""
        assert self.ids is not None
        hidden = self.special.are_placeholders(given) & self.special.are_dummies(self.ids)
        self.hidden = hidden if self.hidden is None else self.hidden | hidden

    def tokens(
        self, call: CallTokens, layout: Layout, added: Layout | None = None
    ) -> tuple[TokenArrays, bool]:
        """The arrays that a call tells, and whether the lookup is transposed to them.

        Args:
            call: The call.
            layout: How the lookup lies beside it.
            added: How the lookup lies beside what the model was given, if that is another call.
        """
        rows, length = self.shape[::-1] if layout.transposed else self.shape
        length -= layout.before + layout.after
        mask = call.mask if is_readable(call.mask) else None
        if mask is not None:
            if mask.shape[0] != rows or mask.shape[1] < length:
                raise ValueError(
                    f"attention_mask must be of shape {(rows, length)}, got shape "
                    f"{tuple(mask.shape)}"
                )
            if mask.shape[1] > length:
                if call.cached is None and not bool((mask == mask[:1, :1]).all()):
                    raise ValueError(
                        f"attention_mask must be of shape {(rows, length)}, as what is looked up, "
                        f"or the call must have a cache, got shape {tuple(mask.shape)}: nothing "
                        f"tells which columns are of other tokens; {HINT}"
                    )
                mask = mask[:, mask.shape[1] - length :]  # cached keys are not part of this call
        elif is_float(call.mask):
            raise unreadable(call)
        padding = self._padding() if mask is None and layout is SAME else None
        segments = segments_of(call, mask, (rows, length), padding=padding, warns=self.warns)
        if segments is not None and padding is not None:
            segments = self._without_padding(segments, padding)
        if layout.transposed:
            self.ids = None if self.ids is None else self.ids.T
            self.hidden = None if self.hidden is None else self.hidden.T
            return self.without_placeholders(mask, segments), True
        if layout is not SAME:
            mask, segments = (
                None if each is None else layout.apply(each) for each in (mask, segments)
            )
        added = added or layout
        if added.lengthens:
            mask = self._extended(mask, added)
        return self.without_placeholders(mask, segments), False

    def _padding(self) -> Tensor | None:
        """Where the id of padding is, if that is known."""
        if self.special.padding is None or self.ids is None:
            return None
        return torch.eq(self.ids, self.special.padding)

    def _without_padding(self, segments: Tensor, padding: Tensor) -> Tensor:
        """The documents of packed rows, 0 for those that are nothing but padding.

        Packed rows that were padded to some multiple end with some, of one token each perhaps, and
        rows padded on the left, whose positions stand still until the first real token, begin so.
        """
        starts = pad(segments[:, 1:] != segments[:, :-1], (1, 0), value=False)
        document = starts.cumsum(1).expand(self.shape)
        real = (~padding).to(document)
        counts = torch.zeros_like(document).scatter_add(1, document, real)
        return torch.where(counts.gather(1, document) > 0, segments, 0)

    def _added(self, layout: Layout) -> Tensor:
        """The ids that the model has put beside those of a call."""
        assert self.ids is not None
        stop = self.shape[1] - layout.after
        return torch.cat([self.ids[:, : layout.before], self.ids[:, stop:]], dim=1)

    def _extended(self, mask: Tensor | None, layout: Layout) -> Tensor:
        """The mask with the model's own tokens: real ones, unless they are padding or prompts."""
        assert self.ids is not None
        real = self.special.are_tokens(self.ids)
        if self.special.padding is None:
            added = self._added(layout)
            tokens = added[self.special.are_tokens(added)]
            # Padding is one id; several are real tokens.
            if self.joined or (tokens.numel() and bool((tokens == tokens[0]).all())):
                raise ValueError(
                    f"the model looks up {added.shape[1]} tokens more than it was called with, and "
                    "no id of padding is known to tell whether they are some: set padding_idx= of "
                    f"the embedding or pad_token_id in the model's config, or {HINT}"
                )
        inner = slice(layout.before, self.shape[1] - layout.after)
        real[:, inner] = True if mask is None else mask[:, inner] != 0
        return real

    def without_placeholders(self, mask: Tensor | None, segments: Tensor | None) -> TokenArrays:
        """The arrays, with the placeholders of images and the like taken out of the mask."""
        if self.special.placeholders and self.ids is not None:
            hidden = self.special.are_placeholders(self.ids)
            if self.hidden is not None:
                hidden |= self.hidden
            mask = ~hidden if mask is None else (mask != 0) & ~hidden.to(mask.device)
        if segments is None:
            return TokenArrays(mask)
        if mask is not None and mask is not segments:
            segments = torch.where(mask != 0, segments.to(mask.device), 0)
        # Of numbers that are the mask as well, a GPU makes those NaN that nothing has checked.
        return TokenArrays(segments, segments)


def _have_part(ids: Tensor, arguments: Tensor | None) -> bool:
    """Whether some columns of ids, one after another, are one of several arguments."""
    for each in unfilled(arguments):
        argument = each.to(ids.device)
        rows, length = argument.shape
        if rows == len(ids) and 0 < length <= ids.shape[1]:
            parts = ids.unfold(1, length, 1)
            if bool((parts == argument[:, None]).all(2).all(0).any()):
                return True
    return False
