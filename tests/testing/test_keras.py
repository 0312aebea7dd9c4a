"""The kit on Keras layers, on the backend that Keras runs on."""

import pytest

from tests.testing.keras_layers import CORRECT, FAULTY
from tests.testing.zoo import holds, is_caught, raises_no_alarm, some, without_slow

# A fault overflows, which NumPy warns of under JAX.
pytestmark = pytest.mark.filterwarnings("ignore:overflow encountered in cast:RuntimeWarning")

name = lambda layer: layer.name  # noqa: E731


# They take 10 to 30 s, most of it in compilers; the others have the same noise.
SLOW = {
    "attach_functional", "attach_sequential", "EmbeddingNoise_by_its_count",
    "EmbeddingNoise_gaussian", "EmbeddingNoise_linear", "EmbeddingNoise_symnoise", "keras_model",
    "GaussianNoise_without_seed", "keras_neftune", "keras_padded", "keras_without_seed",
}  # fmt: skip
SAMPLED = without_slow(CORRECT, SLOW)


@pytest.mark.parametrize("layer", SAMPLED, ids=name)
def test_a_correct_layer_keeps_its_promises(layer):
    holds(layer)


@pytest.mark.parametrize("layer", some(CORRECT, 5, SLOW), ids=name)
def test_no_false_alarm(layer):
    raises_no_alarm(layer, [1])


@pytest.mark.parametrize("layer", FAULTY, ids=name)
def test_a_fault_is_named(layer):
    is_caught(layer)
