"""The kit on layers with one fault each, which the frameworks share."""

import pytest

from tests.frameworks import is_tested
from tests.testing.faults.families import correct, faulty
from tests.testing.zoo import holds, is_caught, raises_no_alarm, some

# Each how many faults are tested by default; the others are for the sweep.
EVERY = {"torch": 8, "jax": 12, "keras": 12}
TESTED = [framework for framework in EVERY if is_tested(framework)]
CORRECT = [layer for framework in TESTED for layer in correct(framework)]
FAULTY = [layer for framework in TESTED for layer in some(faulty(framework), EVERY[framework])]

name = lambda layer: layer.name  # noqa: E731


@pytest.mark.parametrize("layer", some(CORRECT, 2), ids=name)
def test_the_layer_without_a_fault_keeps_its_promises(layer):
    holds(layer)


@pytest.mark.sweep
@pytest.mark.parametrize("layer", CORRECT, ids=name)
def test_no_false_alarm(layer):
    raises_no_alarm(layer, [1])


@pytest.mark.parametrize("layer", FAULTY, ids=name)
def test_a_fault_is_named(layer):
    is_caught(layer)
