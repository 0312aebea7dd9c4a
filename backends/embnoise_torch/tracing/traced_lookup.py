"""A lookup of an attached model under a transformation: its token arrays, then its noise.

Which mask belongs to a lookup depends on values, so an operator finds out when the program runs.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor

from embnoise.backend import TokenArrays, embedding_shape
from embnoise_torch import _compat
from embnoise_torch.model.model_call import CallTokens, calls_in, flat_calls
from embnoise_torch.source import AttachedSource, packed
from embnoise_torch.tracing.transforms import add_counted, check_tokens, counted_key, find_by_key

__all__ = ["add_lookup"]


@torch.library.custom_op("embnoise::resolve", mutates_args=())
def resolve(x: Tensor, ids: Tensor | None, told: Sequence[Tensor | None], source: str) -> Tensor:
    """The mask and the segments of a lookup, ``packed``."""
    found: Any = find_by_key(source)
    with _compat.untraced():
        described = found.resolve(ids, embedding_shape(x)[:2], TokenArrays(), calls_in(told))
        return packed(described, x)


@resolve.register_fake
def _(x: Tensor, ids: Tensor | None, told: Sequence[Tensor | None], source: str) -> Tensor:
    return x.new_empty((2, *embedding_shape(x)[:2]), dtype=torch.int64)


@resolve.register_vmap
def _(info: Any, in_dims: Any, x: Any, ids: Any, told: Any, source: str) -> tuple[Tensor, int]:
    def sample(array: Tensor | None, dim: int | None, index: int) -> Any:
        return array if array is None or dim is None else array.select(dim, index)

    told_dims = in_dims[2] or [None] * len(told)
    samples = [
        resolve(
            sample(x, in_dims[0], index),
            sample(ids, in_dims[1], index),
            [sample(each, dim, index) for each, dim in zip(told, told_dims, strict=True)],
            source,
        )
        for index in range(info.batch_size)
    ]
    return torch.stack(samples), 0


def add_lookup(
    x: Tensor,
    source: AttachedSource,
    ids: Tensor | None,
    given: TokenArrays,
    calls: Sequence[CallTokens],
) -> Tensor:
    """The output of a lookup with noise: see ``AttachedSource.ready_lookup`` for the arrays."""
    tokens = given
    if all(each is None for each in given[:-1]) and not _compat.is_jit_tracing():
        key = counted_key(source.number)
        mask, segments = resolve(x.detach(), ids, flat_calls(calls), key).unbind(0)
        tokens = given._replace(mask=mask, segment_ids=segments)
    check_tokens(x, tokens)
    return add_counted(x, source, ids, tokens)
