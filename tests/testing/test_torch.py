"""The kit on PyTorch layers."""

import pytest

from tests.testing.torch_faults import FAULTY
from tests.testing.torch_layers import CORRECT
from tests.testing.zoo import PROFILES, holds, is_caught, raises_no_alarm, some

# torch.jit is asked by the compiler about what it then leaves alone.
pytestmark = pytest.mark.filterwarnings("ignore:Dynamo:UserWarning")

SLOW = {"Factorized"}  # for its matrix product

name = lambda layer: layer.name  # noqa: E731


@pytest.mark.parametrize("layer", some(CORRECT, 3, SLOW), ids=name)
@pytest.mark.parametrize("profile", PROFILES)
def test_a_correct_layer_keeps_its_promises(layer, profile):
    holds(layer, profile)


@pytest.mark.parametrize("layer", some(CORRECT, 8, SLOW), ids=name)
def test_no_false_alarm(layer):
    raises_no_alarm(layer, [1])


@pytest.mark.parametrize("layer", some(FAULTY, 6), ids=name)
def test_a_fault_is_named(layer):
    is_caught(layer)
