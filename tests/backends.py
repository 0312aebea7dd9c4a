"""Every implementation of ``add_noise`` behind one face, NumPy in and NumPy out.

A property is written once, over ``BACKENDS``, and gets one test id per implementation.
"""

from __future__ import annotations

from collections.abc import Callable
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass
from typing import Any
from unittest import mock

import ml_dtypes
import numpy as np
import pytest
import torch

import embnoise
import embnoise_torch
from embnoise_torch import kernels

DTYPES = {
    "float16": np.dtype(np.float16),
    "bfloat16": np.dtype(ml_dtypes.bfloat16),
    "float32": np.dtype(np.float32),
    "float64": np.dtype(np.float64),
}


@dataclass(frozen=True)
class Backend:
    name: str
    native: Callable[[np.ndarray], Any]
    """An array as the framework's own."""
    numpy: Callable[[Any], np.ndarray]
    """The framework's array as NumPy's."""
    verb: Callable[..., Any]
    """The adapter's ``add_noise``."""
    using: Callable[[], AbstractContextManager[Any]] = nullcontext
    """A context that forces the implementation that the name says."""

    def add_noise(self, x: np.ndarray, noise: embnoise.Noise, **arguments: Any) -> np.ndarray:
        return self.numpy(self.add_noise_native(self.native(x), noise, **arguments))

    def add_noise_native(self, x: Any, noise: embnoise.Noise, **arguments: Any) -> Any:
        native = {
            name: self.native(value) if isinstance(value, np.ndarray) else value
            for name, value in arguments.items()
        }
        with self.using():
            return self.verb(x, noise, **native)


def to_torch(array: np.ndarray) -> torch.Tensor:
    if array.dtype == ml_dtypes.bfloat16:
        return torch.from_numpy(array.view(np.int16).copy()).view(torch.bfloat16)
    return torch.from_numpy(array.copy())


def from_torch(tensor: torch.Tensor) -> np.ndarray:
    if tensor.dtype == torch.bfloat16:
        return tensor.view(torch.int16).numpy().view(ml_dtypes.bfloat16)
    return tensor.numpy()


def without_numba() -> AbstractContextManager[Any]:
    return mock.patch.object(kernels, "numba_kernel", return_value=None)


def as_on_a_device() -> AbstractContextManager[Any]:
    """The operations that a device without a kernel of its own runs."""
    return mock.patch.object(kernels, "_COMPILED_DEVICES", ())


BACKENDS = [
    Backend("numpy", lambda x: x, lambda x: x, embnoise.add_noise),
    Backend("torch-numba", to_torch, from_torch, embnoise_torch.add_noise),
    Backend("torch-numpy", to_torch, from_torch, embnoise_torch.add_noise, without_numba),
    Backend("torch-ops", to_torch, from_torch, embnoise_torch.add_noise, as_on_a_device),
]

over_backends = pytest.mark.parametrize("backend", BACKENDS, ids=lambda backend: backend.name)
