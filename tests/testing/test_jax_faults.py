"""The kit on layers with one fault each, which the frameworks share: in JAX."""

import pytest

from tests.testing.faults.families import faulty
from tests.testing.faults.jax_layer import make
from tests.testing.faults.layer import correct
from tests.testing.zoo import holds, is_caught, raises_no_alarm, some

CORRECT = correct("jax", make)
FAULTY = faulty("jax", make)

name = lambda layer: layer.name.partition(": ")[2]  # noqa: E731


@pytest.mark.parametrize("layer", CORRECT, ids=name)
def test_the_layer_without_a_fault_keeps_its_promises(layer):
    holds(layer)


@pytest.mark.parametrize("layer", CORRECT, ids=name)
def test_no_false_alarm(layer):
    raises_no_alarm(layer, [1])


@pytest.mark.parametrize("layer", some(FAULTY, 10), ids=name)
def test_a_fault_is_named(layer):
    is_caught(layer)
