"""Global random state, which the kit leaves as it was."""

from __future__ import annotations

import contextlib
import random
from collections.abc import Iterator

import numpy as np

from embnoise.testing.drivers import DriverBase

__all__ = ["keeping_random_state"]


@contextlib.contextmanager
def keeping_random_state(driver: DriverBase) -> Iterator[None]:
    """A context that restores the random state of Python, NumPy and the framework."""
    with contextlib.ExitStack() as stack:
        stack.callback(random.setstate, random.getstate())
        stack.callback(np.random.set_state, np.random.get_state())  # noqa: NPY002
        stack.enter_context(driver.kept_state())
        yield
