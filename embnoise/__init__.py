"""Training-time noise on embedding layers, the same in every framework.

The core: what noise to add (``Noise``, ``neftune``, ``symnoise`` and the schedules), and
``add_noise`` for NumPy, the executable specification. It imports NumPy and the standard library
alone; ``embnoise_torch`` and its siblings bring the noise to a framework.
"""

from embnoise.distributions import Distribution
from embnoise.noise import Noise, neftune, symnoise
from embnoise.reference import add_noise
from embnoise.schedules import (
    Schedule,
    constant,
    cosine,
    exponential,
    linear,
    polynomial,
    sigmoid,
)

__version__ = "0.1.0"

__all__ = [
    "Distribution",
    "Noise",
    "Schedule",
    "add_noise",
    "constant",
    "cosine",
    "exponential",
    "linear",
    "neftune",
    "polynomial",
    "sigmoid",
    "symnoise",
]
