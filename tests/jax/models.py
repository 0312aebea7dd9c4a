"""One small decoder, tied to its table, in Flax NNX, Flax Linen and Equinox; and its noise."""

import equinox as eqx
import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
from flax import nnx

import embnoise

VOCABULARY, DIM = 20, 16
IDS = jnp.array([[1, 2, 3, 0, 0], [4, 5, 6, 7, 8]])
MASK = IDS != 0


class NnxModel(nnx.Module):
    def __init__(self, rngs):
        self.embed = nnx.Embed(VOCABULARY, DIM, rngs=rngs)
        self.dense = nnx.Linear(DIM, DIM, rngs=rngs)

    def __call__(self, ids):
        x = self.embed(ids)
        return x, self.embed.attend(self.dense(x))


class LinenModel(nn.Module):
    def setup(self):
        self.embed = nn.Embed(VOCABULARY, DIM)
        self.dense = nn.Dense(DIM)

    def __call__(self, ids, decoder_ids=None):
        x = self.embed(ids)
        if decoder_ids is not None:
            return x, self.embed(decoder_ids)
        return x, self.embed.attend(self.dense(x))


class EquinoxModel(eqx.Module):
    """It takes one row, as Equinox has it."""

    embed: eqx.nn.Embedding
    dense: eqx.nn.Linear

    def __init__(self, key):
        keys = jax.random.split(key)
        self.embed = eqx.nn.Embedding(VOCABULARY, DIM, key=keys[0])
        self.dense = eqx.nn.Linear(DIM, DIM, key=keys[1])

    def __call__(self, ids):
        x = jax.vmap(self.embed)(ids)
        return x, jax.vmap(self.dense)(x) @ self.embed.weight.T


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
