"""PyTorch as an array namespace, for the core's functions."""

from __future__ import annotations

from typing import Any

import numpy as np
import torch
from torch import Tensor

__all__ = ["Namespace"]


class Namespace:
    """``torch`` as a ``FusedArrayNamespace`` that creates arrays on one device."""

    def __init__(self, device: torch.device) -> None:
        self.device = device
        self.float64 = None if device.type in _WITHOUT_FLOAT64 else torch.float64

    def __getattr__(self, name: str) -> Any:
        return getattr(torch, name)

    def arange(self, stop: int, dtype: torch.dtype = torch.int64) -> Tensor:
        return torch.arange(stop, dtype=dtype, device=self.device)

    def argsort(self, x: Tensor, axis: int, stable: bool) -> Tensor:
        return torch.argsort(x, dim=axis, stable=stable)

    def asarray(self, value: Any, dtype: torch.dtype | None = None) -> Tensor:
        if isinstance(value, np.ndarray):
            return _on_device(value, self.device)
        return torch.asarray(value, dtype=dtype, device=self.device)

    def astype(self, x: Tensor, dtype: torch.dtype) -> Tensor:
        return x.to(dtype)

    def roll(self, x: Tensor, shift: int, axis: int) -> Tensor:
        return torch.roll(x, shift, axis)

    def sqrt(self, x: Tensor) -> Tensor:
        # On the CPU, torch.sqrt of a float32 is off by one ulp for every fifth integer.
        wide = x.cpu().double() if self.float64 is None else x.double()
        return torch.sqrt(wide).to(device=x.device, dtype=x.dtype)

    def take(self, x: Tensor, index: Tensor) -> Tensor:
        return x[index]

    def take_along_axis(self, x: Tensor, index: Tensor, axis: int) -> Tensor:
        return torch.take_along_dim(x, index, axis)


_WITHOUT_FLOAT64 = ("mps",)

# Tables of unit values, moved to a device once; the array is kept so that its id stays its own.
_TABLES: dict[tuple[int, torch.device], tuple[np.ndarray[Any, Any], Tensor]] = {}


def _on_device(table: np.ndarray[Any, Any], device: torch.device) -> Tensor:
    place = (id(table), device)
    if place not in _TABLES:
        _TABLES[place] = table, torch.tensor(table, device=device)
    return _TABLES[place][1]
