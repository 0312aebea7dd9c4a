"""Lookups in PyTorch: alone, with our noise, and with that of others."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial

import torch
import transformers
from torch import Tensor, nn

from overhead import attached, hooked
from timing import Runs

ALPHA = 5.0
VERSIONS = f"PyTorch {torch.__version__}, transformers {transformers.__version__}"


def masked(table: nn.Embedding, mask: Tensor, ids: Tensor) -> Tensor:
    """As in the training code of NEFTune's authors: L is a row's own, and padding gets no noise."""
    x: Tensor = table(ids)
    magnitude = ALPHA / torch.sqrt(mask.sum(1) * x.shape[-1])
    noise = torch.zeros_like(x).uniform_(-1, 1) * mask[:, :, None]
    return x + (noise * magnitude[:, None, None]).to(x.dtype)


def normal(table: nn.Embedding, ids: Tensor) -> Tensor:
    """Gaussian noise of one size, as in R3F."""
    x: Tensor = table(ids)
    return x + 1e-5 * torch.randn_like(x)


def runs(shape: tuple[int, int, int], dtype: str, vocabulary: int) -> Runs:
    """The lookups of ids [B, L]; shape is [B, L, d]."""
    batch, length, dim = shape
    table = nn.Embedding(vocabulary, dim, dtype=getattr(torch, dtype))
    ids = torch.randint(0, vocabulary, (batch, length))
    mask = torch.ones_like(ids)
    lookups: dict[str, Callable[[Tensor], Tensor]] = {
        "lookup": table,
        "embnoise": attached(table),
        "transformers hook": hooked(table),
        "uniform, with a mask": partial(masked, table, mask),
        "Gaussian": partial(normal, table),
    }
    return {name: partial(lookup, ids) for name, lookup in lookups.items()}
