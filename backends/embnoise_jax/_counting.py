"""Training calls that a layer counts in an array of its framework's state."""

from __future__ import annotations

import jax.numpy as jnp
from jax import Array

from embnoise.backend import Counter, Noise, TokenArrays, embedding_shape
from embnoise_jax.functional import add_noise
from embnoise_jax.namespace import NAMESPACE, promoting

__all__ = ["add_counted_noise", "pack"]


def pack(counter: Counter) -> Array:
    """A counter as one array, int32 [4]; ``Counter(*array)`` unpacks it.

    Raises:
        ValueError: A value is too large.
    """
    for name, value in counter._asdict().items():
        if isinstance(value, int) and value >= 2**31:
            raise ValueError(f"{name} must be below 2**31, got {value}")
    return jnp.array(counter, jnp.int32)


@promoting()
def add_counted_noise(
    x: Array, noise: Noise, count: Array, tokens: TokenArrays, *, calls_per_step: int
) -> tuple[Array, Array]:
    """``add_noise`` for the next training call of a counter.

    Args:
        x: Embeddings [B, L, d] or [L, d].
        noise: What noise to add.
        count: The packed counter, int32 [4].
        tokens: Without ``sample_ids``, the samples are numbered on from the step's last call.
        calls_per_step: How many calls one step takes.

    Returns:
        The noisy embeddings, and the packed counter after the call.

    Raises:
        ValueError: ``count`` has another shape, as where it is scanned along with a layer.
        TypeError: It is of another dtype, as where a model's whole state is cast or averaged.
    """
    if count.shape != (len(Counter._fields),):
        raise ValueError(
            f"the noise's count must be of shape ({len(Counter._fields)},), got {count.shape}: "
            "layers that nnx.scan or nnx.vmap runs as one stack cannot count their calls. Attach "
            "to a layer outside of the stack, such as the embedding, or call add_noise(x, noise, "
            "step=...) in the layers, with a seed= or a step of its own for each"
        )
    if not jnp.issubdtype(count.dtype, jnp.integer):
        raise TypeError(
            f"the noise's count must be of an integer dtype, got {count.dtype}: where states are "
            "cast or averaged, leave it out, as nnx.state(model, nnx.Param) does in Flax NNX"
        )
    batch = embedding_shape(x)[0]
    counter = Counter(*count)
    if tokens.sample_ids is None:
        tokens = tokens._replace(sample_ids=counter.samples + jnp.arange(batch))
    noisy = add_noise(x, noise, step=counter.step, **tokens.given())
    return noisy, pack(counter.after(batch, calls_per_step=calls_per_step, xp=NAMESPACE))
