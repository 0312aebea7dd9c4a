"""A schedule of your own: alpha rises from 0 to its peak, again and again.

A schedule is a frozen dataclass with a name and a method ``value``. A field ``steps``, which this
one does not have, would be its length.
"""

from dataclasses import dataclass

import embnoise


@embnoise.register
@dataclass(frozen=True)
class Sawtooth(embnoise.Schedule):
    """``peak * (step mod period) / period``."""

    name = "sawtooth"
    peak: float
    period: int

    def value(self, step, xp):
        """Alpha at a step: a number, or an array of the namespace ``xp`` in compiled code."""
        return self.peak * (step % self.period) / self.period
