"""What the arguments of one call of a module say about its tokens.

The names are those of ``transformers``. Padding comes from ``attention_mask``; in packed rows,
documents come from ``cu_seq_lens_q`` (one flattened row), ``seq_idx``, document numbers in
``attention_mask``, or ``position_ids`` that start again. The tokens of a decoder have the same
names with ``decoder_`` in front.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Sequence
from typing import Any, NamedTuple

import numpy as np
import torch
from torch import Tensor
from torch.nn.functional import pad

from embnoise.backend import format_value, likeliest_ids
from embnoise_torch.model.batches import (
    CUMULATIVE,
    NAMES,
    TELLING,
    ModelCall,
    as_tensor,
    entries_of,
)

__all__ = [
    "WHERE",
    "CallTokens",
    "calls_in",
    "flat_calls",
    "have_mask",
    "is_among",
    "may_have_ids",
    "tells_padding",
    "tokens_in",
    "unfilled",
]

_NOT_TOKENS = ("mask", "position", "type", "segment", "label", "cache", "length")
"""An integer argument with one of these in its name has no ids of tokens."""


class CallTokens(NamedTuple):
    """The tensors of a call that tell about its tokens; ``resolve_tokens`` reads them."""

    ids: Tensor | None
    """[B, L]: ``input_ids``. What is looked up is compared with it."""
    other_ids: Tensor | None
    """[B, L]: another argument that looks like ids, in a call without ``input_ids``."""
    mask: Tensor | None
    """[B, L], or longer by what is cached; of any other shape or dtype it cannot be read."""
    positions: Tensor | None
    """[B, L], or [n, B, L] for n kinds of positions."""
    cumulative: Tensor | None
    """[n + 1]: where the documents of one flattened row begin and end."""
    documents: Tensor | None
    """[B, L]: the number of every token's document."""
    rival_ids: Tensor | None = None
    """The ids of the other side of an encoder-decoder, if the lookup may be on either."""
    rival_mask: Tensor | None = None
    """The mask of that side."""
    unknown: Tensor | None = None
    """What is a mask or lengths by its name, which is not one that is known: see ``untold_in``."""
    unknown_documents: Tensor | None = None
    """What is the numbers of documents by its name."""
    unknown_segments: Tensor | None = None
    """The same, which may also be the numbers of the two segments of BERT."""
    unknown_positions: Tensor | None = None
    """What is the positions of tokens by its name."""
    unnamed: Tensor | None = None
    """What may be any of these by its values alone."""
    beside: Tensor | None = None
    """[n, B', L']: the arguments that look like ids, beside these two; -1 fills them up."""
    cached: Tensor | None = None
    """Empty, if the call has a cache: a mask that is longer than the ids is then of that, too."""
    unread: Tensor | None = None
    """Empty, if all that the call has is an object that cannot be read."""

    @property
    def likely_ids(self) -> Tensor | None:
        """``input_ids``, or without them what is looked up most likely."""
        return self.other_ids if self.ids is None else self.ids


def tokens_in(call: ModelCall, prefix: str) -> CallTokens:
    """What a call tells about its tokens, or with the prefix ``DECODER`` about its decoder's."""
    given, *rest = map(call.get, NAMES[prefix])
    ids, cumulative = as_tensor(given), None
    mask, positions, documents = map(_told, rest)
    if positions is not None and positions.dtype is torch.bool:
        positions = positions.long()
    if not prefix:
        for name in CUMULATIVE:
            if (given := call.get(name)) is not None:
                cumulative = _told(given)
    if mask is not None and ids is not None and ids.ndim == mask.ndim == 1:
        mask = mask[None]  # of one row
    others = [] if prefix else _like_ids(call)
    other_ids = _likeliest(others) if ids is None else None
    told = CallTokens(ids, other_ids, mask, positions, cumulative, documents)
    if told.likely_ids is not None:
        told = told._replace(beside=_beside(told.likely_ids, others))
    if _has_cache(call):
        told = told._replace(cached=torch.empty(0))
    return told


def _has_cache(call: ModelCall) -> bool:
    """Whether there are tokens of earlier calls."""
    return any(
        ("past" in name or "cache" in name) and "position" not in name and _holds_tokens(value)
        for name, value in call.items()
    )


def _holds_tokens(cache: Any) -> bool:
    """Whether something is a cache that is not empty; ``use_cache`` is none."""
    if cache is None or isinstance(cache, bool | int | str | np.generic):
        return False
    if isinstance(cache, Tensor) and cache.ndim == 0:
        return False
    if not hasattr(cache, "get_seq_length"):
        return not hasattr(cache, "__len__") or len(cache) > 0
    try:
        length = cache.get_seq_length()
    except ValueError:  # transformers: all of its layers are recurrent
        return True
    return not isinstance(length, int) or length > 0  # a tensor's value would be waited for


def tells_padding(call: CallTokens) -> bool:
    """Whether a call tells which tokens are padding; its position ids do not."""
    return not (call.mask is call.cumulative is call.documents is None)


def have_mask(calls: Iterable[CallTokens], mask: Tensor | None) -> bool:
    """Whether a call tells which tokens of a lookup are padding.

    On an unknown side of an encoder-decoder, what a call tells is perhaps about the other one.

    Args:
        calls: The calls.
        mask: What was taken for the mask of the lookup.
    """
    return any(
        tells_padding(call) and (mask is not None or call.rival_ids is None) for call in calls
    )


def flat_calls(calls: Iterable[CallTokens]) -> list[Tensor | None]:
    """The tensors of several calls in a row, as an operator takes them."""
    return [tensor for call in calls for tensor in call]


def calls_in(tensors: Sequence[Tensor | None]) -> list[CallTokens]:
    """The calls of ``flat_calls``."""
    size = len(CallTokens._fields)
    return [CallTokens(*tensors[start : start + size]) for start in range(0, len(tensors), size)]


def _told(value: Any) -> Tensor | None:
    """The same; without a value if there is something that cannot be read.

    It may be a mask for each kind of layer, or a block mask.
    """
    array = as_tensor(value)
    return torch.empty((0,) * 4) if array is None and value is not None else array


def _like_ids(call: ModelCall) -> list[tuple[str, Tensor]]:
    """The arguments that look like ids of tokens, by name, also those in a batch or a list."""
    found = []
    for name, value, depth in entries_of(call):
        known = depth == 0 and name in TELLING
        if known or not isinstance(value, Tensor) or value.ndim not in (1, 2):
            continue
        given = as_tensor(value)
        if given is None or given.is_meta or given.dtype is torch.bool:
            continue
        if not (given.is_floating_point() or given.is_complex()) and not _is_no_token(name):
            found.append((name, given))
    return found


def _is_no_token(name: str) -> bool:
    return any(part in name for part in _NOT_TOKENS)


def _likeliest(others: list[tuple[str, Tensor]]) -> Tensor | None:
    """What is most likely looked up in a call without ``input_ids``, the first of several."""
    likeliest = likeliest_ids([name for name, _ in others])
    return None if likeliest is None else others[likeliest][1]


def may_have_ids(call: ModelCall) -> bool:
    """Whether anything in a call may be what is looked up, and not features or settings alone."""
    for name, value, _ in entries_of(call):
        if isinstance(value, Tensor):
            numbers = value.is_floating_point() or value.is_complex() or value.dtype is torch.bool
            if not (numbers or _is_no_token(name)):
                return True
        elif not (value is None or isinstance(value, str | int | float)):
            return True
    return False


def _beside(ids: Tensor, others: list[tuple[str, Tensor]]) -> Tensor | None:
    """The arguments that look like ids, other than those that are known."""
    rest = [
        value.reshape((1, *value.shape)[-2:]).to(ids.device, torch.int64)
        for _, value in others
        if value is not ids
    ]
    if not rest:
        return None
    rows, length = (max(sizes) for sizes in zip(*(each.shape for each in rest), strict=True))
    return torch.stack([_filled(each, rows, length) for each in rest])


def _filled(ids: Tensor, rows: int, length: int) -> Tensor:
    """Ids [B, L] in a larger array, filled up with -1, which is no id."""
    return pad(ids, (0, length - ids.shape[1], 0, rows - len(ids)), value=-1)


def is_among(ids: Tensor, arguments: Tensor | None) -> bool:
    """Whether ids [B, L] or [L] are exactly one of several arguments of ``CallTokens.beside``."""
    if arguments is None:
        return False
    ids = ids.reshape((1, *ids.shape)[-2:])
    rows, length = arguments.shape[1:]
    if len(ids) > rows or ids.shape[1] > length:
        return False
    equal = arguments.to(ids.device) == _filled(ids, rows, length)
    return bool(equal.flatten(1).all(dim=1).any())


def unfilled(arguments: Tensor | None) -> Iterator[Tensor]:
    """Each of several arguments of ``CallTokens.beside`` [B', L'], without what fills it up."""
    for each in () if arguments is None else arguments:
        there = each >= 0
        yield each[there.any(1)][:, there.any(0)]


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
