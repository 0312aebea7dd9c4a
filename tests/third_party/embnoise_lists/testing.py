"""The driver of embnoise's kit for lists; its own test suite uses it too."""

from __future__ import annotations

import numpy as np

from embnoise.testing import DriverBase
from embnoise_lists import Lists


class ListsDriver(DriverBase):
    name = "lists"
    dtypes = ("float32", "bfloat16", "float16", "float64")

    def to_numpy(self, lists):
        return np.array(lists.values, dtype=lists.dtype).reshape(lists.shape)

    def from_numpy(self, array, dtype=None):
        array = array.astype(dtype or array.dtype)
        return Lists(array.tolist(), array.shape, array.dtype.name)

    def seed(self, seed):
        """There is no global random state."""


driver = ListsDriver()
