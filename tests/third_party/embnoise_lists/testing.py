"""The driver of embnoise's kit for lists; its own test suite uses it too."""

from __future__ import annotations

import numpy as np

from embnoise.testing import DriverBase
from embnoise_lists import Lists

try:
    import ml_dtypes  # noqa: F401, so that NumPy knows bfloat16
except ModuleNotFoundError:
    BFLOAT16 = ()
else:
    BFLOAT16 = ("bfloat16",)


class ListsDriver(DriverBase):
    name = "lists"
    dtypes = ("float32", "float16", "float64", *BFLOAT16)

    def to_numpy(self, lists):
        return np.array(lists.values, dtype=lists.dtype).reshape(lists.shape)

    def from_numpy(self, array, dtype=None):
        array = array.astype(dtype or array.dtype)
        return Lists(array.tolist(), array.shape, array.dtype.name)

    def seed(self, seed):
        """There is no global random state."""


driver = ListsDriver()
