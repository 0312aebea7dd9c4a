"""The driver of embnoise's kit for lists; its own test suite uses it too."""

from __future__ import annotations

import numpy as np

from embnoise.testing.drivers import named, signature_of
from embnoise_lists import Lists


class ListsDriver:
    name = "lists"

    def make(self, make_layer, *, dtype, dim, alpha, seed):
        return make_layer(dim=dim, alpha=alpha, seed=seed)

    def call(self, layer, inputs, **keywords):
        return layer(inputs, **named(signature_of(layer), keywords))

    def to_numpy(self, lists):
        return np.array(lists.values, dtype=lists.dtype).reshape(lists.shape)

    def from_numpy(self, array, dtype=None):
        array = array.astype(dtype or array.dtype)
        return Lists(array.tolist(), array.shape, array.dtype.name)

    def gradient(self, call, layer, inputs, weights, *, of):
        return None

    def seed(self, seed):
        pass


driver = ListsDriver()
