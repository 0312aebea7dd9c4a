"""What is known about whole rows, from what is known about this rank's part of them."""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

import torch
from torch import Tensor

from embnoise.backend import TokenArrays
from embnoise_torch.model.model_call import CallTokens, calls_in, flat_calls
from embnoise_torch.ranks.sequences import SequencePart, Sequences

__all__ = ["WholeRows", "whole_rows"]

_TOKEN_ARRAYS = len(TokenArrays._fields)


class WholeRows(NamedTuple):
    """What ``AttachedSource.resolve`` takes, of whole rows."""

    part: SequencePart
    """The tokens that this rank holds."""
    ids: Tensor | None
    given: TokenArrays
    calls: list[CallTokens]


def whole_rows(
    sequences: Sequences,
    shape: tuple[int, int],
    device: torch.device,
    given: TokenArrays,
    ids: Tensor | None = None,
    calls: Sequence[CallTokens] = (),
) -> WholeRows:
    """Gather what the ranks know: a collective operation.

    Args:
        sequences: The ranks that hold the parts.
        shape: B, and l of this rank's part.
        device: That of the embeddings.
        given: What the user tells about the tokens.
        ids: What is looked up.
        calls: What the active calls tell.

    Raises:
        ValueError: It is not known which tokens this rank holds.
    """
    if any(call.cumulative is not None for call in calls):
        raise ValueError(
            "cu_seq_lens_q cannot be read where each rank holds a part of the sequences; pass "
            "position_ids that start again at each document"
        )
    of_rows = given.sample_ids
    if of_rows is not None and of_rows.ndim == 1 and of_rows.shape[0] == shape[0] != 1:
        given = given._replace(sample_ids=None)
    else:
        of_rows = None
    arrays = [ids, *given, *flat_calls(calls)]
    whole, part = sequences.whole(
        arrays,
        shape[1],
        device,
        ids=ids,
        positions=_first(given.positions, *(call.positions for call in calls)),
        mask=_first(given.mask, *(call.mask for call in calls)),
    )
    given = TokenArrays(*whole[1 : 1 + _TOKEN_ARRAYS])
    if of_rows is not None:
        given = given._replace(sample_ids=of_rows)
    return WholeRows(part, whole[0], given, calls_in(whole[1 + _TOKEN_ARRAYS :]))


def _first(*arrays: Tensor | None) -> Tensor | None:
    return next((each for each in arrays if each is not None), None)
