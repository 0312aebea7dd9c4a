"""The kit on JAX layers."""

import pytest

from tests.testing.jax_faults import FAULTY
from tests.testing.jax_layers import CORRECT
from tests.testing.zoo import PROFILES, holds, is_caught, raises_no_alarm, some, without_slow

name = lambda layer: layer.name  # noqa: E731

# They take 10 to 60 s, most of it in JAX's compiler; the others have the same noise.
SLOW = {
    "equinox: attach", "equinox: own seed", "equinox: Uniform", "jax: gaussian", "jax: symnoise",
    "linen: attach", "nnx: Embedded",
    "nnx: counting", "nnx: EmbeddingNoise", "nnx: attach", "jax: add_noise", "jax: Folded",
    "jax: relative", "jax: annealed", "linen: Uniform", "linen: counting", "nnx: Uniform",
    "nnx: Factorized", "linen: EmbeddingNoise",
}  # fmt: skip
SAMPLED = without_slow(CORRECT, SLOW)


@pytest.mark.parametrize("layer", SAMPLED, ids=name)
@pytest.mark.parametrize("profile", PROFILES)
def test_a_correct_layer_keeps_its_promises(layer, profile):
    holds(layer, profile)


@pytest.mark.parametrize("layer", some(CORRECT, 5, SLOW), ids=name)
def test_no_false_alarm(layer):
    raises_no_alarm(layer, [1])


@pytest.mark.parametrize("layer", some(FAULTY, 2), ids=name)
def test_a_fault_is_named(layer):
    is_caught(layer)
