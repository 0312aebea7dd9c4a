"""The NumPy layer as JAX functions."""

import jax
import jax.numpy as jnp
import numpy as np


class Arrays:
    """What the NumPy layer needs of JAX."""

    stop = staticmethod(jax.lax.stop_gradient)
    numpy = staticmethod(np.asarray)

    @staticmethod
    def array(values, like):
        return jnp.asarray(np.asarray(values, np.float32).astype(like.dtype))


class Counting:
    """Its training calls are its steps."""

    def __init__(self, layer):
        self.layer = layer

    def __call__(self, x, *, training, mask=None):
        return self.layer(Arrays, x, mask, None, training)


class Stepped(Counting):
    """It is given the step."""

    def __call__(self, x, *, training, mask=None, step=0):
        return self.layer(Arrays, x, mask, step, training)


class Packing(Counting):
    """It is given the step, and documents."""

    def __call__(self, x, *, training, mask=None, segment_ids=None, step=0):
        return self.layer(Arrays, x, mask, step, training, segment_ids)


def make(layer):
    if layer.packs:
        return Packing(layer)
    return (Stepped if layer.takes_step else Counting)(layer)
