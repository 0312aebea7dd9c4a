"""Keras's own test of a layer, as it is called for ``GaussianNoise`` and ``GaussianDropout``."""

import keras
import numpy as np
import pytest
from keras.src import testing  # which Keras's wheel contains

from embnoise import neftune
from embnoise_keras import EmbeddingNoise


# It gives `fit` a generator, and has it train a layer without weights.
@pytest.mark.filterwarnings("ignore:The model does not have any trainable weights:UserWarning")
@pytest.mark.filterwarnings("ignore:`shuffle=True` was passed, but will be ignored:UserWarning")
class TestAsKerasTestsGaussianNoise(testing.TestCase):
    def setUp(self):
        filtered = keras.config.is_traceback_filtering_enabled()
        super().setUp()
        if filtered:
            self.addCleanup(keras.config.enable_traceback_filtering)

    def test_basics(self):
        self.run_layer_test(
            EmbeddingNoise,
            init_kwargs={"noise": neftune(5.0)},
            input_shape=(2, 3),
            call_kwargs={"training": True},
            expected_output_shape=(2, 3),
            expected_num_trainable_weights=0,
            expected_num_non_trainable_weights=0,
            expected_num_seed_generators=1,
            expected_num_losses=0,
            supports_masking=True,
            assert_built_after_instantiation=True,
        )

    def test_correctness(self):
        layer = EmbeddingNoise(neftune(5.0))
        outputs = layer(np.ones((20, 500)), training=True)
        bound = 5 / np.sqrt(20 * 500)
        self.assertAllClose(
            np.std(keras.ops.convert_to_numpy(outputs)), bound / np.sqrt(3), atol=bound / 20
        )


class Scaled(EmbeddingNoise):
    """A layer with a weight of its own."""

    def build(self, input_shape):
        self.factor = self.add_weight(shape=(input_shape[-1],), initializer="ones", name="factor")

    def call(self, x, training=None):
        return super().call(x * self.factor, training=training)


def test_a_subclass_builds_and_saves_its_own_weights(tmp_path):
    layer = Scaled(neftune())
    model = keras.Sequential([keras.Input((3, 4)), layer])
    model(np.ones((2, 3, 4)), training=True)
    assert [weight.name for weight in layer.weights] == ["factor"]
    layer.factor.assign([1.0, 2.0, 3.0, 4.0])
    model.save_weights(tmp_path / "model.weights.h5")
    other = Scaled(neftune())
    twin = keras.Sequential([keras.Input((3, 4)), other])
    twin.load_weights(tmp_path / "model.weights.h5")
    assert (keras.ops.convert_to_numpy(other.factor) == [1, 2, 3, 4]).all()
    assert (other.step, other.lookups) == (1, 1)


def test_a_count_that_embnoise_0_1_saved_as_a_weight():
    layer = EmbeddingNoise(neftune())
    layer.load_own_variables({"0": np.array([3, 1, 4, 9])})
    assert (layer.step, layer.lookups) == (3, 9)
    with pytest.raises(ValueError, match="expected its count to be saved, got"):
        layer.load_own_variables({})
