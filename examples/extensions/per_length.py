"""A scale rule of your own: alpha / L, whatever the embedding size.

A scale rule is a name and a function of alpha, the sequence's length L and the embedding size d.
"""

import embnoise


def per_length(alpha, length, dim):
    """The magnitude of a token; called with float32 arrays, or with numbers."""
    return alpha / length


PER_LENGTH = embnoise.register(embnoise.ScaleRule("per_length", per_length, formula="alpha/L"))


def make_layer(*, dim, alpha, seed):
    """A layer for the property-test kit."""
    noise = embnoise.Noise(alpha, scale="per_length", seed=seed)

    def layer(x, *, training, mask, step):
        return embnoise.add_noise(x, noise, training=training, mask=mask, step=step)

    return layer
