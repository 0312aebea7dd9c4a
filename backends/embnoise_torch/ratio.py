"""How large the noise is beside the embeddings, measured on the last lookup."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

import torch
from torch import Tensor, nn
from torch.nn.functional import embedding

from embnoise.backend import embedding_shape
from embnoise_torch.ranks.shards import is_dtensor
from embnoise_torch.source import AttachedSource
from embnoise_torch.tracing.custom_op import add_ready_

__all__ = ["is_part", "noise_ratio"]


@torch.no_grad()
def noise_ratio(source: AttachedSource, module: nn.Module) -> float | None:
    """The RMS of the noise over the RMS of the embeddings, of the tokens that got noise.

    Args:
        source: The noise of an embedding.
        module: The embedding. What its last lookup looked up is looked up again.

    Returns:
        ``None`` if the last lookup is not known, no token of it got noise, or the embedding is not
        all on this rank.
    """
    latest = source.latest()
    if latest is None or any(map(is_part, module.parameters())):
        return None
    ids, draw = latest
    if ids.is_floating_point():  # a channel of the embeddings: ids were not known
        return None
    if isinstance(module, nn.Embedding) and module.max_norm is not None:
        rows = module.weight.clone()  # a lookup changes those that are too large
        result = embedding(ids, rows, max_norm=module.max_norm, norm_type=module.norm_type)
    else:
        with _evaluating(module):
            result = module.forward(ids)  # hooks need not know
    x: Tensor = (result[0] if isinstance(result, tuple) else result).float()
    noisy = x.clone(memory_format=torch.contiguous_format)
    add_ready_(noisy, source.noise, source.at(embedding_shape(noisy), draw))
    noise = noisy - x
    got = (noise != 0).any(-1)
    if not got.any():
        return None
    return float(noise[got].norm() / x[got].norm())


def is_part(parameter: Tensor) -> bool:
    """Whether a parameter is sharded, or is not there outside of its module's forward."""
    return (
        is_dtensor(parameter)
        or parameter.numel() == 0
        or parameter.ndim < 2
        or parameter.untyped_storage().nbytes() == 0
    )


@contextmanager
def _evaluating(module: nn.Module) -> Iterator[None]:
    """A context in which the module is in evaluation mode: measuring must draw no random number."""
    modes = {each: each.training for each in module.modules()}
    module.eval()
    try:
        yield
    finally:
        for each, training in modes.items():
            each.training = training
