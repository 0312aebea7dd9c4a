"""The kit on Keras layers, on the backend that Keras runs on."""

from dataclasses import replace

import pytest

from embnoise.testing import check_layer, iter_checks
from tests.frameworks import KERAS_BACKEND, kept_kernels
from tests.testing.keras_faults import FAULTY, OF_THE_FRAMEWORK
from tests.testing.keras_layers import CORRECT
from tests.testing.zoo import PROFILES, holds, is_caught, raises_no_alarm, some, without_slow

# A fault overflows, which NumPy warns of under JAX.
pytestmark = pytest.mark.filterwarnings("ignore:overflow encountered in cast:RuntimeWarning")

name = lambda layer: layer.name  # noqa: E731


# They take 10 to 30 s, most of it in compilers; the others have the same noise.
SLOW = {
    "attach_functional", "attach_sequential", "EmbeddingNoise_by_its_count",
    "EmbeddingNoise_gaussian", "EmbeddingNoise_linear", "EmbeddingNoise_symnoise", "keras_model",
    "GaussianNoise_without_seed", "keras_embedding", "keras_neftune", "keras_padded",
    "keras_without_seed", "keras_mixed_precision",
}  # fmt: skip
SAMPLED = without_slow(CORRECT, SLOW)


@pytest.mark.parametrize("layer", SAMPLED, ids=name)
@pytest.mark.parametrize("profile", PROFILES)
def test_a_correct_layer_keeps_its_promises(layer, profile):
    holds(layer, profile)


@pytest.mark.sweep
@pytest.mark.parametrize("layer", CORRECT, ids=name)
def test_no_false_alarm(layer):
    with kept_kernels():
        raises_no_alarm(layer, [1])


@pytest.mark.parametrize("layer", some(FAULTY, 2), ids=name)
def test_a_fault_is_named(layer):
    is_caught(layer)


@pytest.mark.parametrize("wanted", ["EmbeddingNoise", "GaussianNoise"])
def test_the_test_of_keras_passes(wanted):
    layer = next(layer for layer in CORRECT if layer.name == wanted)
    claiming = replace(layer, claims=replace(layer.claims, framework_test=True))
    checks = iter_checks(claiming.case(), profile="quick")
    found = next(check.run() for check in checks if check.spec.code == "EN61")
    assert (found.status, found.message, found.assertions) == ("passed", "", 1)


def test_a_compiled_layer_that_follows_keras_has_its_gradient():
    """Keras has another generator after each seed, and the compiled function knows the first."""
    layer = next(layer for layer in CORRECT if layer.name == "keras_without_seed")
    checks = iter_checks(layer.case(), profile="quick")
    found = next(check.run() for check in checks if check.spec.code == "EN22")
    wanted = "passed" if KERAS_BACKEND == "tensorflow" else "not_claimed"
    assert found.status == wanted, found.message


def test_gradients_that_overflow_without_noise_show_nothing():
    layer = next(layer for layer in CORRECT if layer.name == "keras_mixed_precision")
    checks = iter_checks(layer.case(), profile="quick")
    found = next(check.run() for check in checks if check.spec.code == "EN59")
    assert found.status == "passed", found.message


@pytest.mark.sweep
@pytest.mark.parametrize("layer", OF_THE_FRAMEWORK, ids=name)
def test_nothing_else_shows_a_fault_that_the_test_of_keras_shows(layer):
    report = check_layer(layer.case(), profile="quick", raises=False)
    assert [result.code for result in report.results if result.wrong] == ["EN61"], report.table()


@pytest.mark.parametrize("code", ["EN19", "EN46", "EN52"])
def test_a_gaussian_for_a_uniform_is_one_message(code):
    """Its rows, steps and channels are of other sizes for no other reason."""
    layer = next(layer for layer in FAULTY if layer.name == "NormalForUniform")
    checks = iter_checks(layer.case(), profile="quick")
    found = next(check.run() for check in checks if check.spec.code == code)
    assert (found.status, found.message) == ("not_tested", "EN10 within_bound failed")
