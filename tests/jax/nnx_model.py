"""The model of the tests of Flax NNX: an embedding, and an output projection that shares it."""

from flax import nnx

from tests.jax.models import DIM, VOCABULARY


class NnxModel(nnx.Module):
    def __init__(self, rngs):
        self.embed = nnx.Embed(VOCABULARY, DIM, rngs=rngs)
        self.dense = nnx.Linear(DIM, DIM, rngs=rngs)

    def __call__(self, ids):
        x = self.embed(ids)
        return x, self.embed.attend(self.dense(x))
