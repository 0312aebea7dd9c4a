"""Schedules: alpha as a function of the step.

A schedule is a frozen dataclass that is called with a step and returns alpha. Step 0 gives the
first value; step ``steps`` and every later one give the last. With ``steps=None`` a schedule lasts
for the rest of the run, whose length ``bind`` fills in.

    >>> from embnoise import cosine, linear
    >>> alpha = linear(0.0, 5.0, 100).then(cosine(5.0, 1.0)).bind(1100)
    >>> alpha(0), alpha(50), alpha(100), alpha(600), alpha(5000)
    (0.0, 2.5, 5.0, 3.0, 1.0)
"""

from embnoise._schedules.base import SCHEDULES, Chain, Schedule, schedule_from_dict
from embnoise._schedules.curves import (
    constant,
    cosine,
    exponential,
    linear,
    polynomial,
    sigmoid,
)

__all__ = [
    "SCHEDULES",
    "Chain",
    "Schedule",
    "constant",
    "cosine",
    "exponential",
    "linear",
    "polynomial",
    "schedule_from_dict",
    "sigmoid",
]
