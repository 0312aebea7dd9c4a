"""The arguments of a call that may tell padding or documents under names that are not known.

Names alone say little: the values of such an argument decide what it is warned of as.

B rows and L tokens of the lookup.
"""

from __future__ import annotations

import re
from functools import lru_cache
from typing import Any, Literal

import numpy as np
import torch
from torch import Tensor

from embnoise.backend import is_positions
from embnoise_torch import _compat
from embnoise_torch.model.batches import TELLING, ModelCall, as_tensor, entries_of, is_unread
from embnoise_torch.model.documents import are_placed
from embnoise_torch.model.model_call import CallTokens

__all__ = [
    "DOCUMENTS",
    "may_tell_padding",
    "tells_documents",
    "tells_padding_by_name",
    "tells_positions",
    "tells_segments",
    "tells_unnamed",
    "untold_in",
]

_PADDING = re.compile(
    r"(.*_)?(masks?|padding|pad|valid|lengths?|lens?|seq_?lens?|n_?tokens|num_tokens)(_.*)?"
)
_DOCUMENTS = re.compile(
    r"(.*_)?(segments?|seg|documents?|docs?|sequences?|seq)_?(ids?|idx|index|numbers?)"
    r"|batch(_(idx|index|vector))?"  # the graphs of nodes
)
_SEGMENTS = re.compile(r"seg|seq|sequence")
_NEITHER = re.compile(
    r"loss|label|prompt|completion|assistant|response|action|answer|reward|image|pixel|video|audio|"
    r"speech|mel|feature|frame|head|causal|special|type|span|mlm|position|past|cache|"
    r"global|done|terminal|reset|"
    r"^encoder|memory|cross"  # of what a decoder attends to
)

DOCUMENTS = ("unknown_documents", "unknown_segments", "unknown_positions")
"""The fields of ``CallTokens`` for documents under names that are not known."""

_ARRAYS = (Tensor, np.ndarray, list, tuple)

Field = Literal[
    "unknown", "unknown_documents", "unknown_segments", "unknown_positions", "unnamed", ""
]


@_compat.constant_in_dynamo
def may_tell_padding(name: str) -> bool:
    """Whether an argument is a mask or lengths by its name, other than the names that are known."""
    return name not in TELLING and _field_of(name) == "unknown"


@_compat.constant_in_dynamo
def _field_in_dynamo(name: str) -> Field:
    return _field_of(name)


@lru_cache(maxsize=1024)
def _field_of(name: str) -> Field:
    """The field of ``CallTokens`` for an argument; "" for what tells neither."""
    if is_positions(name):
        return "unknown_positions"
    if _NEITHER.search(name):
        return ""
    if "target" in name:  # of a loss, or the tokens of a decoder
        return "unnamed"
    if _PADDING.fullmatch(name):
        return "unknown"
    if not _DOCUMENTS.fullmatch(name):
        return "unnamed"
    return "unknown_segments" if _SEGMENTS.search(name) else "unknown_documents"


def untold_in(call: ModelCall, *, has_mask: bool = False) -> list[CallTokens]:
    """The arguments of a call that may tell padding or documents, each in a ``CallTokens`` alone.

    A name that is known is so at the top only, not in a batch inside of another one.

    Args:
        call: The arguments.
        has_mask: Whether the padding is known, so that only documents are looked for.
    """
    nothing = CallTokens(None, None, None, None, None, None)
    found = [nothing._replace(unread=torch.empty(0))] if is_unread(call) else []
    for rows in () if has_mask or torch.compiler.is_compiling() else call.values():
        if lengths := _lengths_of(rows):
            found.append(nothing._replace(unnamed=torch.tensor(lengths, device="cpu")))
    for name, value, depth in entries_of(call):
        if not isinstance(value, _ARRAYS) or (depth == 0 and name in TELLING):
            continue
        given = as_tensor(value)
        if given is None or given.ndim == 0 or given.is_meta or given.is_complex():
            continue
        known = _masks_ids(name, call) or (name == "offsets" and given.ndim == 1)  # of bags
        field: Field = "unknown" if known else _field_in_dynamo(name)
        if has_mask and field not in DOCUMENTS:
            continue
        if field and (field == "unknown" or not given.is_floating_point()):
            found.append(nothing._replace(**{field: given}))
    return found


def _lengths_of(rows: Any) -> list[int]:
    """The lengths of rows of integers in a list, which a model pads or joins."""
    if not isinstance(rows, list | tuple) or len(rows) < 2:
        return []
    lengths = []
    for row in rows:
        given = as_tensor(row)
        if given is None or given.ndim != 1 or given.is_floating_point():
            return []
        if given.dtype is torch.bool:
            return []
        lengths.append(len(given))
    return lengths


def _masks_ids(name: str, call: ModelCall) -> bool:
    """Whether an argument is the mask of ids beside it, as ``answer_mask`` of ``answer_ids``."""
    stem = name.removesuffix("attention_mask").removesuffix("mask")
    return stem not in ("", name) and f"{stem}ids" in call


def tells_padding_by_name(given: Tensor, ids: Tensor) -> bool:
    """Whether a mask or lengths by its name fits ids, and tells that not all rows are full."""
    rows, length = shape = (1, *ids.shape)[-2:]
    given = next(iter(_in_rows(given, shape)), given)
    if _is_causal(given):
        return False
    if given.ndim != 1:
        # Of rows without padding, all values are the same, whatever they are.
        return tuple(given.shape) in (shape, shape[::-1]) and _varies(given)
    if len(given) == rows > 1:
        return bool((given < length).any())
    if rows > 1 or len(given) == 0:
        return False
    if len(given) == length:  # a mask of the one row
        return _varies(given)
    # Of flattened documents, their lengths or where they begin and end.
    is_cumulative = bool(given[0] == 0)
    end = int(given[-1] if is_cumulative else given.sum())
    return 0 < end <= length and (end < length or len(given) - is_cumulative > 1)


def tells_documents(given: Tensor, ids: Tensor) -> bool:
    """Whether the numbers of documents by their name fit ids, and tell several in a row."""
    shape = (1, *ids.shape)[-2:]
    if given.numel() == 0 or (1, *given.shape)[-2:] != shape or given.numel() != ids.numel():
        return False
    given = given.reshape(shape)
    changes = given[:, 1:] != given[:, :-1]
    # The ids of the tokens of documents change more often, unless they are padded.
    return 0 < int(changes.sum()) <= changes.numel() / 2


def tells_segments(given: Tensor, ids: Tensor) -> bool:
    """The same, where 0, 0, 1, 1 may also be the two segments of BERT."""
    return tells_documents(given, ids) and (
        bool((given > 1).any() | (given < 0).any()) or _falls(given)
    )


def tells_positions(given: Tensor, ids: Tensor) -> bool:
    """Whether positions by their name fit ids, count up, and start again in the middle of a row.

    Or are -1 beside a row's tokens, which is padding.
    """
    rows, length = (1, *ids.shape)[-2:]
    if given.ndim > 2 or (1, *given.shape)[-2:] not in ((rows, length), (1, length)) or length < 2:
        return False
    given = given.reshape(-1, length).long()
    padding = ~are_placed(given)
    lowest = given.masked_fill(padding, given.max()).amin(dim=1, keepdim=True)
    given = torch.where(padding, lowest, given)
    before, after = given[:, :-1], given[:, 1:]
    starts = after == lowest
    counts = bool((given[:, :1] == lowest).all()) and bool((starts | (after == before + 1)).all())
    return counts and bool((starts & (before > lowest)).any() | padding.any())


def tells_unnamed(given: Tensor, ids: Tensor) -> bool:
    """Whether values can hardly be anything but a mask, or lengths, that tell padding."""
    rows, length = shape = (1, *ids.shape)[-2:]
    if given.numel() == 0 or _is_causal(given):
        return False
    if given.ndim > 2 and bool((given != given.bool()).any()):
        return False
    given, *others = _in_rows(given, shape) or [given]
    if given.ndim > 1:
        return tuple(given.shape) == shape and any(map(_is_mask, (given, *others)))
    if rows > 1:
        return (
            len(given) == rows
            and bool((given.min() > 0) & (given.min() < length))
            and (int(given.max()) == length)
        )
    if not 1 < len(given) < length or given.dtype is torch.bool:
        return False
    is_cumulative = given[0] == 0
    lengths = given.diff() if is_cumulative else given
    return len(lengths) > 1 and bool((lengths > 0).all()) and int(lengths.sum()) == length


def _in_rows(given: Tensor, shape: tuple[int, int]) -> list[Tensor]:
    """An argument as lengths [B] or as a mask [B, L], of which it may be either one or the other.

    A mask of queries and keys, [B, ..., L], is one of keys: of those that some query sees, or of
    those that all do if it is true where nothing is seen. If either is that of full rows, so is it.
    It is not known what other arguments with more axes than two are.
    """
    rows, length = shape
    if given.ndim <= 2:
        return [given[:, 0] if given.shape == (rows, 1) != shape else given]
    if given.numel() == 0 or given.shape[-1] not in (1, length):
        return []
    if given.numel() == rows * length:
        return [given.reshape(shape)]
    if given.shape[-1] == 1 or len(given) % rows:
        return []
    seen = (given == given.max()).reshape(rows, -1, length)  # an additive mask is 0 there
    keys = [seen.any(dim=1), seen.all(dim=1)]
    return keys if all(map(_varies, keys)) else []


def _is_mask(given: Tensor) -> bool:
    """Whether values are 0 and 1 that begin or end each row."""
    bits = given.bool()
    # A row is full, as it is of a batch that is as long as the longest; no prompt fills one.
    some = bits.any(1)
    is_mask = bool((given == bits).all()) and bool((some & ~bits.all(1)).any())
    return is_mask and bool((bits.all(1) | ~some).any()) and (_falls(bits) or _falls(~bits))


def _varies(given: Tensor) -> bool:
    return bool((given != given.flatten()[:1]).any())


def _is_causal(given: Tensor) -> bool:
    """Whether a square mask hides from each token those that follow it."""
    if given.ndim != 2 or given.shape[0] != given.shape[1] or len(given) < 2:
        return False
    return torch.equal(given != given[0, 0], torch.ones_like(given, dtype=torch.bool).triu(1))


def _falls(given: Tensor) -> bool:
    """Whether no value of a row is larger than the one before."""
    return bool((given[..., 1:].int() <= given[..., :-1].int()).all())
