"""The kit's driver for NumPy: a layer is any callable."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
from numpy.typing import NDArray

from embnoise.testing.drivers import named, signature_of

__all__ = ["NumpyDriver", "driver"]


class NumpyDriver:
    """A layer is a callable that names ``training``, or has an attribute of that name."""

    name = "numpy"
    dtypes = {  # noqa: RUF012, nobody's to change
        "embeddings": ("float32", "float16", "float64"),
        "ids": ("float32",),
    }

    def make(
        self, make_layer: Callable[..., Any], *, dtype: str, dim: int, alpha: Any, seed: int
    ) -> Any:
        return make_layer(dim=dim, alpha=alpha, seed=seed)

    def call(self, layer: Any, inputs: Any, **keywords: Any) -> Any:
        self.switch(layer, keywords["training"])
        return layer(inputs, **named(signature_of(layer), keywords))

    def switch(self, layer: Any, training: bool) -> None:
        """Set the layer's ``training``, if it has one."""
        if hasattr(layer, "training"):
            layer.training = training

    def to_numpy(self, array: Any) -> NDArray[Any]:
        return np.array(array)

    def from_numpy(self, array: NDArray[Any], dtype: str | None = None) -> NDArray[Any]:
        return np.array(array, dtype)

    def gradient(
        self, call: Callable[..., Any], layer: Any, inputs: Any, weights: Any, *, of: str
    ) -> None:
        return None

    def seed(self, seed: int) -> None:
        np.random.seed(seed % 2**32)  # noqa: NPY002, the state that a layer may follow

    def random_state(self) -> bytes:
        """NumPy's global state, which the kit watches in every framework."""
        return b""


driver = NumpyDriver()
