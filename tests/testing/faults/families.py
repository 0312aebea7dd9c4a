"""All families of faults."""

from collections.abc import Callable
from typing import Any

from tests.testing.faults import arguments, counters, masks, reuse, sizes, state
from tests.testing.zoo import Faulty

FAULTS = [
    *reuse.FAULTS,
    *counters.FAULTS,
    *masks.FAULTS,
    *sizes.FAULTS,
    *state.FAULTS,
    *arguments.FAULTS,
]


def faulty(framework: str, make: Callable[..., Any]) -> list[Faulty]:
    """The faults that a framework can have, as layers of it."""
    return [fault.layer(framework, make) for fault in FAULTS if framework in fault.frameworks]
