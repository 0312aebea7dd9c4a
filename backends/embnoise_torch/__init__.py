"""embnoise for PyTorch: ``add_noise``, ``EmbeddingNoise``, ``attach`` and ``inspect``."""

from embnoise_torch.attach import attach
from embnoise_torch.functional import add_noise
from embnoise_torch.handle import Handle
from embnoise_torch.inspection import inspect
from embnoise_torch.layer import EmbeddingNoise

__all__ = ["EmbeddingNoise", "Handle", "add_noise", "attach", "inspect"]
