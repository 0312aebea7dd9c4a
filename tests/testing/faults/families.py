"""All families of faults."""

from tests.testing.faults import arguments, counters, masks, reuse, sizes, state

FAULTS = [
    *reuse.FAULTS,
    *counters.FAULTS,
    *masks.FAULTS,
    *sizes.FAULTS,
    *state.FAULTS,
    *arguments.FAULTS,
]
