"""The layer without a fault, and all families of faults, in each framework."""

from collections.abc import Callable
from importlib import import_module
from typing import Any

from tests.testing.faults import (
    arguments,
    counters,
    later,
    layer,
    masks,
    paths,
    reuse,
    sizes,
    state,
)
from tests.testing.zoo import Correct, Faulty

FAULTS = [
    *reuse.FAULTS,
    *counters.FAULTS,
    *masks.FAULTS,
    *sizes.FAULTS,
    *state.FAULTS,
    *arguments.FAULTS,
    *later.FAULTS,
    *paths.FAULTS,
]


def _make(framework: str) -> Callable[..., Any]:
    """What makes a layer of the framework, which nothing else here imports."""
    made: Callable[..., Any] = import_module(f"tests.testing.faults.{framework}_layer").make
    return made


def correct(framework: str) -> list[Correct]:
    """The layer without a fault."""
    return layer.correct(framework, _make(framework))


def faulty(framework: str) -> list[Faulty]:
    """The faults that a framework can have, as layers of it."""
    make = _make(framework)
    return [fault.layer(framework, make) for fault in FAULTS if framework in fault.frameworks]
