"""The kit's driver for NumPy, where a layer is any callable."""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

from embnoise.testing.drivers import DriverBase

__all__ = ["NumpyDriver", "driver"]


class NumpyDriver(DriverBase):
    """A layer is a callable that names ``training`` or has an attribute of that name."""

    name = "numpy"
    dtypes = ("float32", "float16", "float64")
    fused = True

    def switch(self, layer: Any, training: bool) -> None:
        """Set the layer's attribute ``training``, if it has one."""
        if hasattr(layer, "training"):
            layer.training = training

    def to_numpy(self, array: Any) -> NDArray[Any]:
        return np.array(array)

    def from_numpy(self, array: NDArray[Any], dtype: str | None = None) -> NDArray[Any]:
        return np.array(array, dtype)

    def seed(self, seed: int) -> None:
        np.random.seed(seed % 2**32)  # noqa: NPY002, the state that a layer may follow

    def random_state(self) -> bytes:
        """Empty: the kit watches NumPy's global state itself, with every driver."""
        return b""


driver = NumpyDriver()
