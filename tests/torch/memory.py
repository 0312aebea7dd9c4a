"""Embeddings [2, 3, 8] that are laid out in memory in every way."""

import torch

LAYOUTS = {
    "transposed": lambda: torch.randn(8, 3, 2).permute(2, 1, 0),
    "sliced": lambda: torch.randn(2, 3, 16)[..., ::2],
    "expanded": lambda: torch.randn(1, 3, 8).expand(2, 3, 8),
}
