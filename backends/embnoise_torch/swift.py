"""Noise in ms-swift, from an external plug-in of two lines."""

from __future__ import annotations

from typing import Any

from swift.callbacks import callbacks_map

from embnoise.backend import Noise
from embnoise_torch.transformers import NoiseCallback

__all__ = ["register"]


def register(noise: Noise, **options: Any) -> None:
    """Make ``--callbacks embnoise`` add noise; call it in a file for ``--external_plugins``.

    Args:
        noise: What noise to add.
        **options: Further arguments of ``NoiseCallback``.

    Raises:
        TypeError: As for ``NoiseCallback``.

    Example:
        >>> from embnoise import neftune
        >>> from embnoise_torch.swift import register
        >>> register(neftune(alpha=5.0), where="completion")
    """
    NoiseCallback(noise, **options)  # what is wrong with it is said before a model is loaded
    callbacks_map["embnoise"] = lambda args, trainer: NoiseCallback(noise, **options)
