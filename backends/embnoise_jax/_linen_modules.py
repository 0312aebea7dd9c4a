"""Which modules of Flax Linen are a model's, and which of them get noise."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import fields, is_dataclass, replace
from functools import partial
from types import CellType, FunctionType
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
    (kind, own), (other_kind, others) = _parts(one), _parts(other)
    if kind != other_kind:
        return False
    if own is None or others is None:
        return np.array_equal(one, other)  # fields may be arrays
    return own.keys() == others.keys() and all(is_same(own[key], others[key]) for key in own)


def _content(cell: CellType) -> Any:
    """What a function closes over; of another function, which may be itself, the code."""
    try:
        return getattr(cell.cell_contents, "__code__", cell.cell_contents)
    except ValueError:  # nothing yet
        return None


def _parts(value: Any) -> tuple[object, Mapping[Any, Any] | None]:
    """What kind a value is of, and its parts, if it is compared by these."""
    if isinstance(value, Mapping):
        return Mapping, value
    if isinstance(value, list | tuple):
        return Sequence, dict(enumerate(value))
    parts: dict[str, Any] | None = None
    if is_dataclass(value):
        parts = {each.name: getattr(value, each.name, None) for each in fields(value)}
        if isinstance(value, nn.Module):
            parts = {name: each for name, each in parts.items() if name not in {"parent", "name"}}
    elif isinstance(value, partial):
        parts = {"func": value.func, "args": value.args, "keywords": value.keywords}
    elif isinstance(value, FunctionType):  # a factory makes it anew for each model
        parts = {"code": value.__code__, "cells": list(map(_content, value.__closure__ or ()))}
    return type(value), parts
