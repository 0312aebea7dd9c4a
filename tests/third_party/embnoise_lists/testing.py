"""How the test suite talks to the adapter."""

import numpy as np

from embnoise_lists import Lists


def from_numpy(array: np.ndarray) -> Lists:
    return Lists(array.tolist(), array.shape, array.dtype.name)


def to_numpy(lists: Lists) -> np.ndarray:
    return np.array(lists.values, dtype=lists.dtype).reshape(lists.shape)
