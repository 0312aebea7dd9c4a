"""Lookups of parts of rows, of whose length nothing tells, and of something else."""

from __future__ import annotations

import warnings
from collections.abc import Sequence

import torch
from torch import Tensor

from embnoise_torch.model.layouts import are_equal, are_in, find_layout
from embnoise_torch.model.model_call import CallTokens, is_among, unfilled
from embnoise_torch.model.special_ids import SpecialIds

__all__ = ["check_rows", "is_of_others", "parents_of", "warns_of_starts"]

_HIGHEST_FIRST = 2
"""The highest position at which whole rows begin: RoBERTa counts from its padding's, which is 1."""


def check_rows(ids: Tensor, calls: Sequence[CallTokens], padding: int | None) -> None:
    """Raise if what is looked up is a column of a call's ids, or its rows in one.

    Nothing would tell the length of the rows then, if there is no mask. Of a longer part of the
    rows, which may be all that the model reads, and of rows that follow what is cached, warn.

    Args:
        ids: What is looked up.
        calls: The active calls.
        padding: The id of padding, if it is known. The rest of the rows may be nothing else.
    """
    whole = [call for call in calls if call.ids is not None and call.ids.shape == ids.shape]
    if whole and all(_follows_others(call) for call in whole):
        warnings.warn(
            "embnoise: the model was called with a cache of earlier tokens, and L is that of the "
            "tokens after them. If they belong to the same rows, the noise is too large: pass "
            "neftune(length=L); if not, attach(..., tokens=...)",
            RuntimeWarning,
            stacklevel=2,
        )
    for place, call in enumerate(calls):
        rows = call.likely_ids
        if rows is None or rows.ndim != 2 or 1 in rows.shape[1:] or ids.shape == rows.shape:
            continue
        rows = rows.to(ids)
        # Other ids than input_ids may be equal by chance.
        column = _is_column(ids, rows) and (call.ids is not None or len(rows) > 1)
        if column:
            raise _untold_length(ids, rows, column=True)
        if is_among(ids, call.beside):
            continue
        # A call further inside may tell the documents of rows that the model has joined.
        if _mixes(ids, rows) and not any(map(_tells_documents, calls[:place])):
            raise _untold_length(ids, rows, column=False)
        if _are_part(ids, rows, _real_in(call, rows, padding)):
            _warn_of_part()
    if ids.ndim in (1, 2) and ids.numel() == len(ids) > 1:  # one token of each row, perhaps
        for rows in (each for call in calls for each in unfilled(call.beside)):
            if rows.shape != ids.shape and min(rows.shape) > 1 and _is_column(ids, rows.to(ids)):
                raise _untold_length(ids, rows, column=True)
        if _are_given_inside(ids, calls):
            _warn_of_part()


def _tells_documents(call: CallTokens) -> bool:
    if not (call.cumulative is call.documents is call.positions is None):
        return True
    mask = call.mask  # which may number them
    return mask is not None and mask.ndim == 2 and bool((mask > 1).any())


def _is_column(ids: Tensor, rows: Tensor) -> bool:
    return ids.numel() == len(rows) and bool((rows == ids.reshape(-1, 1)).all(dim=0).any())


def _mixes(ids: Tensor, rows: Tensor) -> bool:
    """Whether ids of one row are the tokens of several: all, or all real ones.

    0, 1, 2, ... are a whole table, unless the rows are these numbers themselves.
    """
    if ids.ndim not in (1, 2) or len(rows) == 1 or ids.numel() <= rows.shape[1]:
        return False
    joined = ids.flatten()
    if len(joined) > ids.shape[-1]:
        return False
    if torch.equal(joined, torch.arange(len(joined), device=ids.device, dtype=ids.dtype)):
        return are_equal(joined, rows.flatten())
    return ids.numel() == rows.numel() or are_in(joined, rows)


def _are_given_inside(ids: Tensor, calls: Sequence[CallTokens]) -> bool:
    """Whether a call inside of another one was given these ids, one for each row of that."""
    inside = False
    for call in calls:
        given = call.likely_ids
        if given is None:
            continue
        if inside and given.ndim == 2 and len(given) == len(ids) < given.numel():
            return not is_among(ids.flatten(), call.beside)
        inside |= given.numel() == len(ids) and are_equal(given.flatten().to(ids), ids.flatten())
    return False


def _untold_length(ids: Tensor, rows: Tensor, *, column: bool) -> ValueError:
    return ValueError(
        f"the model looks up ids of shape {tuple(ids.shape)}, which are "
        f"{'one token of each row' if column else 'tokens of several rows'} of the "
        f"{tuple(rows.shape)} that it was called with, so nothing tells their L. Look up "
        "whole rows, or pass neftune(length=L)"
    )


def _warn_of_part() -> None:
    warnings.warn(
        "embnoise: the model looks up a part of each row that it was called with, and "
        "L is that of the part. If it looks the rest up by itself, the noise is too "
        "large: look up whole rows, or pass neftune(length=L)",
        RuntimeWarning,
        stacklevel=2,
    )


def _real_in(call: CallTokens, rows: Tensor, padding: int | None) -> Tensor:
    """Which tokens of the rows of a call may be real ones, boolean."""
    if call.mask is not None and call.mask.shape == rows.shape:
        return call.mask != 0
    return torch.ones_like(rows, dtype=torch.bool) if padding is None else rows != padding


def _are_part(ids: Tensor, rows: Tensor, real: Tensor) -> bool:
    """Whether ids are some columns of the rows, one after another, and some real tokens are not.

    One token less than the rows have is what a model may shift by.
    """
    if ids.ndim not in (1, 2):
        return False
    ids = ids.reshape((1, *ids.shape)[-2:])
    length = ids.shape[1]
    if len(ids) != len(rows) or not 0 < length < rows.shape[1] - 1:
        return False
    fitting = rows[:, : rows.shape[1] - length + 1] == ids[:, :1]
    begins = fitting.all(dim=0).nonzero().flatten().tolist()
    for begin in begins:
        part = slice(begin, begin + length)
        if torch.equal(rows[:, part], ids):
            return int(real.sum()) > int(real[:, part].sum())
    return False


def warns_of_starts(calls: Sequence[CallTokens], padding: int | None) -> bool:
    """Warn if rows begin in the middle of a document by their positions; returns whether it does.

    There is no such thing behind tokens in a cache, of which ``check_rows`` warns.

    Args:
        calls: The active calls.
        padding: The id of padding, if it is known.
    """
    if any(call.cached is not None for call in calls):
        return False
    if not any(_begins_inside(call, padding) for call in calls):
        return False
    warnings.warn(
        "embnoise: by their position_ids, rows begin in the middle of a document, and L is that "
        "of the part. If other ranks hold the rest (context parallelism), the noise is too large: "
        "pass attach(..., mesh=...), the device mesh, whose dimension along L is named 'cp' or "
        "'sp'; in one process, neftune(length=L), or attach(..., tokens=...) if such rows are "
        "whole",
        RuntimeWarning,
        stacklevel=2,
    )
    return True


def _begins_inside(call: CallTokens, padding: int | None) -> bool:
    """Whether a row of a call begins with a real token at a position where no whole row does.

    Positions that do not count up there may be random ones, or the same for all tokens. If the
    last one precedes the first, the end of the row was put in front.
    """
    positions, ids = call.positions, call.likely_ids
    if positions is None or ids is None:
        return False
    if positions.ndim == 3 and len(positions) in (3, 4):
        positions = positions[0]  # those of text, or of time
    if ids.shape[-1] < 2 or positions.shape not in (ids.shape, ids.shape[-1:], (1, ids.shape[-1])):
        return False
    first, second, last = positions[..., 0], positions[..., 1], positions[..., -1]
    inside = (first > _HIGHEST_FIRST) & (second == first + 1) & (last != first - 1)
    if padding is not None:
        inside = inside & (ids[..., 0] != padding).to(inside.device)
    if call.mask is not None and call.mask.shape == ids.shape:
        inside = inside & (call.mask[..., 0] != 0).to(inside.device)
    return bool(inside.any())


def _follows_others(call: CallTokens) -> bool:
    """Whether the ids of a call come after cached ones, of which its mask, if any, is as well."""
    return call.cached is not None and (call.mask is None or call.mask.shape != call.ids.shape)  # type: ignore[union-attr]


def is_of_others(ids: Tensor, calls: Sequence[CallTokens], special: SpecialIds) -> bool:
    """Whether what is looked up are not the ids of any call, though one has some.

    Under a name of the model's own, only the numbers 0, 1, 2, ... are sure not to be ids.

    Args:
        ids: What is looked up.
        calls: The active calls.
        special: The special ids of the model.
    """
    if ids.ndim not in (1, 2) or any(call.positions is not None for call in calls):
        return False
    looked = ids.reshape((1, *ids.shape)[-2:])
    counted = torch.arange(looked.shape[1], device=looked.device)
    sure = bool((looked == counted).all()) and len(counted) > 1
    varies = bool((looked != looked[:1, :1]).any())
    found = False
    for call in calls:
        for given in (call.ids, call.other_ids, call.unnamed):
            if given is None or given.ndim not in (1, 2) or given.dtype is torch.bool:
                continue
            rows = given.to(looked.device).reshape((1, *given.shape)[-2:])
            if find_layout(looked, rows, None, special) is not None:
                return False
            if varies and not sure and are_in(looked, rows):
                return False  # a part of them, in some order
            found = found or given is call.ids or (sure and given is call.other_ids)
    return found


def parents_of(ids: Tensor, calls: Sequence[CallTokens]) -> list[Tensor]:
    """The ids of calls, of another shape, from which what is looked up was made.

    It is shorter by a token perhaps, or has them twice.
    """
    given = [call.likely_ids for call in calls]
    return [
        each
        for each in given
        if each is not None
        and each.ndim == ids.ndim == 2
        and each.shape != ids.shape
        and 2 * ids.numel() >= each.numel() > 0
        and are_in(ids, each.to(ids))
    ]
