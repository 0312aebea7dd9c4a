"""What the tests of models share: a batch, and its noise in NumPy."""

import jax.numpy as jnp
import numpy as np

import embnoise

VOCABULARY, DIM = 20, 16
IDS = jnp.array([[1, 2, 3, 0, 0], [4, 5, 6, 7, 8]])
MASK = IDS != 0


def same(left, right):
    """Whether two arrays have the same bits."""
    return np.asarray(left).tobytes() == np.asarray(right).tobytes()


def reference(x, noise, *, step=0, **arguments):
    """The same noise from NumPy, for JAX's arrays."""
    given = {
        name: np.asarray(value) if hasattr(value, "shape") else value
        for name, value in arguments.items()
    }
    return embnoise.add_noise(np.asarray(x), noise, step=step, **given)
