"""Which modules of Flax Linen are a model's, and which of them get noise."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import fields, replace
from typing import Any

import flax.linen as nn
import numpy as np

from embnoise.backend import Noise, is_match, noise_by_layer

__all__ = ["ONLY", "Places", "is_same", "root_of"]

ONLY = ""
"""Stands for the path of a model's only embedding, until it is called."""


class Places:
    """Which modules get noise, and which noise.

    Args:
        noise: What noise to add.
        paths: Paths and patterns of paths; ``[ONLY]`` for the model's only embedding.
    """

    def __init__(self, noise: Noise, paths: Sequence[str]) -> None:
        self.only = list(paths) == [ONLY]
        self._noise = noise
        self._noises = noise_by_layer(noise, paths)

    def find(self, module: nn.Module, path: str) -> str | None:
        """The path or the pattern by which a module gets noise; ``None`` if it gets none."""
        if self.only:
            return ONLY if isinstance(module, nn.Embed) else None
        if path in self._noises:
            return path
        return next((each for each in self._noises if is_match(each, path, "/")), None)

    def noise_of(self, path: str) -> Noise:
        """The noise of a module, or with the path ``ONLY`` that of the only embedding."""
        own = replace(self._noise, stream=f"{self._noise.stream}/{path}")
        return self._noises.get(path, own)


def root_of(module: nn.Module) -> nn.Module:
    """The outermost module that a module is in, or the module itself."""
    while isinstance(module.parent, nn.Module):
        module = module.parent
    return module


def is_same(one: Any, other: Any) -> bool:
    """Whether two fields of modules are equal, or two modules in all but their place and name."""
    if one is other:
        return True
    if isinstance(one, nn.Module):
        names = [field.name for field in fields(one) if field.name not in {"parent", "name"}]
        return type(one) is type(other) and all(
            is_same(getattr(one, name), getattr(other, name)) for name in names
        )
    if isinstance(one, Mapping) and isinstance(other, Mapping):
        return one.keys() == other.keys() and all(is_same(one[key], other[key]) for key in one)
    if isinstance(one, list | tuple) and isinstance(other, list | tuple):
        return len(one) == len(other) and all(map(is_same, one, other))
    return np.array_equal(one, other)  # fields may be arrays
