"""The arrays of a batch as a framework's arrays, and the Python that makes them."""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

from embnoise.testing.drivers import DriverBase
from embnoise.testing.inputs import Inputs, in_numpy

__all__ = ["GIVEN", "array_of", "array_source", "given_array", "given_source"]

GIVEN = ("mask", "segment_ids")
"""What a layer is given besides the embeddings or the ids."""


def array_of(
    driver: DriverBase, inputs: Inputs, values: NDArray[Any], dtype: str | None = None
) -> Any:
    """Values of a batch, [B, L, ...], as the framework's array."""
    if inputs.swapped:
        swapped = np.ascontiguousarray(values.swapaxes(0, 1))
        return driver.from_numpy(swapped, dtype).swapaxes(0, 1)
    return driver.from_numpy(np.ascontiguousarray(values), dtype)


def array_source(inputs: Inputs, name: str, dtype: str | None = None) -> str:
    """Python for ``array_of``, given the name of the values."""
    given = "" if dtype is None else f", {dtype!r}"
    if inputs.swapped:
        swapped = f"np.ascontiguousarray({name}.swapaxes(0, 1))"
        return f"driver.from_numpy({swapped}{given}).swapaxes(0, 1)"
    return f"driver.from_numpy({name}{given})"


def given_array(driver: DriverBase, inputs: Inputs, name: str) -> Any:
    """The framework's ``mask`` or ``segment_ids``."""
    values = inputs.mask if name == "mask" else inputs.segments
    dtype = _dtype(inputs, name)
    return array_of(driver, inputs, values.astype(in_numpy(dtype)), _only_of_frameworks(dtype))


def given_source(inputs: Inputs, name: str) -> str:
    """Python for ``given_array``."""
    return array_source(inputs, name, _only_of_frameworks(_dtype(inputs, name)))


def _dtype(inputs: Inputs, name: str) -> str:
    return inputs.mask_dtype if name == "mask" else inputs.segments_dtype


def _only_of_frameworks(dtype: str) -> str | None:
    """A dtype that NumPy does not have, which the driver converts to."""
    return None if in_numpy(dtype) == dtype else dtype
