"""A distribution of your own: Laplace noise, which has heavier tails than the Gaussian.

A distribution is a name and a quantile function. Once registered, it is known by its name: in
``Noise`` and in saved configurations, in the claims of the property-test kit, and on the command
line (``embnoise check laplace:make_layer --distribution laplace``).
"""

import math

import embnoise


def quantile(probability: float) -> float:
    """The inverse of the distribution function, for a scale of 1."""
    tail = min(probability, 1 - probability)
    return math.copysign(math.log(2 * tail), probability - 0.5)


LAPLACE = embnoise.register(embnoise.Distribution("laplace", quantile))


def make_layer(*, dim, alpha, seed):
    """A layer for the property-test kit."""
    noise = embnoise.neftune(alpha, distribution="laplace", seed=seed)

    def layer(x, *, training, mask, step):
        return embnoise.add_noise(x, noise, training=training, mask=mask, step=step)

    return layer
