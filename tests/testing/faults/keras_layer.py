"""The NumPy layer as Keras layers, on whichever backend Keras runs."""

import keras
import numpy as np
from keras import ops


class Arrays:
    """What the NumPy layer needs of Keras."""

    stop = staticmethod(ops.stop_gradient)
    numpy = staticmethod(ops.convert_to_numpy)

    @staticmethod
    def array(values, like):
        return ops.cast(ops.convert_to_tensor(np.asarray(values, np.float32)), like.dtype)


class Counting(keras.layers.Layer):
    """Its training calls are its steps."""

    def __init__(self, layer):
        super().__init__()
        self.layer = layer
        self.supports_masking = True

    def call(self, x, mask=None, training=None):
        return self.layer(Arrays, x, mask, None, training)


class Stepped(Counting):
    """It is given the step."""

    def call(self, x, mask=None, training=None, step=0):
        return self.layer(Arrays, x, mask, step, training)


class Packing(Counting):
    """It is given the step, and documents."""

    def call(self, x, mask=None, training=None, segment_ids=None, step=0):
        return self.layer(Arrays, x, mask, step, training, segment_ids)


def make(layer):
    if layer.packs:
        return Packing(layer)
    return (Stepped if layer.takes_step else Counting)(layer)
