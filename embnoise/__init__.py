"""Training-time noise on embedding layers, the same in every framework.

The core: what noise to add (``Noise``, ``neftune``, ``symnoise`` and the schedules), and
``add_noise`` for NumPy, the executable specification. It imports only NumPy and the standard
library; ``embnoise_torch``, ``embnoise_jax`` and ``embnoise_keras`` bring the noise to a framework.
"""

from embnoise._distributions import Distribution
from embnoise._inspection import inspect_table
from embnoise._inspection_report import Inspection
from embnoise._noise import Noise, neftune, symnoise
from embnoise._reference import add_noise
from embnoise._register import register
from embnoise._scales import ScaleRule
from embnoise._schedules import (
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
    "Inspection",
    "Noise",
    "ScaleRule",
    "Schedule",
    "add_noise",
    "constant",
    "cosine",
    "exponential",
    "inspect_table",
    "linear",
    "neftune",
    "polynomial",
    "register",
    "sigmoid",
    "symnoise",
]
