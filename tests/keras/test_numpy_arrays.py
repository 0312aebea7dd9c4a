"""Embeddings that are no tensors of Keras's backend, on each of its backends."""

import keras
import numpy as np
import pytest

from embnoise import neftune
from embnoise_keras import add_noise


@pytest.mark.parametrize("x", [np.zeros((1, 2, 8), np.float32), [[[1.0]]]], ids=["array", "list"])
def test_an_array_of_numpy_is_refused_with_a_hint(x):
    message = rf"x must be a tensor of Keras's backend, {keras.backend.backend()}, got .*; pass "
    with pytest.raises(TypeError, match=message + r"keras\.ops\.convert_to_tensor\(x\), or call"):
        add_noise(x, neftune(), step=0)
    add_noise(keras.ops.convert_to_tensor(x, "float32"), neftune(), step=0)
