"""``EmbeddingNoise`` in Keras models, on whichever backend this process has."""

import itertools

import keras
import numpy as np
import pytest

import embnoise
from embnoise import Noise, linear, neftune
from embnoise.backend import Counter
from embnoise_keras import EmbeddingNoise, add_noise, attach
from tests.keras.models import DIM, IDS, MASK, fit, functional, numpy, sequential

X = np.random.default_rng(0).standard_normal((4, 5, DIM)).astype(np.float32)
COMPILED = [{}, {"run_eagerly": True}]
if keras.backend.backend() == "tensorflow":
    COMPILED.append({"jit_compile": True})


def close(left, right):
    np.testing.assert_allclose(numpy(left), numpy(right), rtol=0, atol=1e-6)


def test_it_counts_its_training_calls():
    layer = EmbeddingNoise(neftune())
    for step in range(3):
        assert layer.step == step
        expected = embnoise.add_noise(X, neftune(), step=step, mask=MASK)
        close(layer(X, mask=MASK, training=True), expected)
    assert (numpy(layer(X)) == X).all()
    assert layer.step == 3
    layer.step = 7
    close(layer(X, training=True), embnoise.add_noise(X, neftune(), step=7))


def test_an_explicit_step_is_pure():
    layer = EmbeddingNoise(neftune())
    close(layer(X, step=7, training=True), embnoise.add_noise(X, neftune(), step=7))
    assert layer.step == 0


def test_the_optimizer_s_iterations_will_do():
    iterations = keras.optimizers.SGD().iterations
    iterations.assign(7)
    noisy = EmbeddingNoise(neftune())(X, step=iterations, training=True)
    close(noisy, embnoise.add_noise(X, neftune(), step=7))


def test_it_takes_the_mask_that_keras_passes_on():
    embed = keras.layers.Embedding(20, DIM, mask_zero=True)
    x = embed(IDS)
    noisy = EmbeddingNoise(neftune())(x, training=True)
    close(noisy, embnoise.add_noise(numpy(x), neftune(), step=0, mask=MASK))
    segments = np.where(MASK, 1 + np.arange(5) // 2, 0)
    noisy = EmbeddingNoise(neftune())(X, segment_ids=segments, training=True)
    close(noisy, embnoise.add_noise(X, neftune(), step=0, segment_ids=segments))


def test_micro_batches_are_one_batch():
    layer = EmbeddingNoise(neftune(alpha=linear(5, 1, 4)), calls_per_step=2)
    for step in range(3):
        parts = [numpy(layer(part, training=True)) for part in (X[:3], X[3:])]
        expected = embnoise.add_noise(X, neftune(alpha=5.0 - step), step=step)
        close(np.concatenate(parts), expected)


@pytest.mark.parametrize("options", COMPILED, ids=str)
@pytest.mark.parametrize("build", [sequential, functional])
def test_fit_follows_the_schedule(build, options):
    seen = []
    for layer in (EmbeddingNoise(neftune(alpha=linear(9, 0, 4))), EmbeddingNoise(neftune(0.0))):
        model = build(layer)
        model.compile(keras.optimizers.SGD(0.0), "mse", **options)
        seen.append(fit(model, epochs=3))
        assert layer.step == 6
    noisy, clean = seen
    assert noisy[0] != clean[0]
    assert noisy[1] != noisy[0]
    assert noisy[2] == pytest.approx(clean[2], abs=1e-6)  # at step 4 alpha is 0


def test_every_way_to_fit_gives_the_same_losses():
    losses = []
    for options in COMPILED:
        model = functional(EmbeddingNoise(neftune(50.0)))
        model.compile(keras.optimizers.SGD(0.1), "mse", **options)
        losses.append(fit(model, epochs=2))
    for one, other in itertools.pairwise(losses):
        assert one == pytest.approx(other, rel=1e-5)


def test_gradient_accumulation():
    layer = EmbeddingNoise(neftune(), calls_per_step=2)
    model = functional(layer)
    model.compile(keras.optimizers.SGD(0.1, gradient_accumulation_steps=2), "mse")
    fit(model)
    assert layer.step == 1
    assert list(layer._counters().values()) == [Counter(1, 0, 0, 2)]


@pytest.mark.parametrize("options", COMPILED[:2], ids=str)
def test_saved_in_the_middle_of_a_schedule_it_goes_on(tmp_path, options):
    model = functional(EmbeddingNoise(neftune(alpha=linear(9, 0, 8), seed=3), name="noise"))
    model.compile(keras.optimizers.Adam(0.01), "mse", **options)
    fit(model)
    model.save(tmp_path / "model.keras")
    loaded = keras.models.load_model(tmp_path / "model.keras")
    layer = loaded.get_layer("noise")
    assert (layer.step, layer.noise) == (2, neftune(alpha=linear(9, 0, 8), seed=3))
    assert fit(loaded, epochs=2) == fit(model, epochs=2)


def test_a_learning_rate_schedule_as_alpha():
    schedule = keras.optimizers.schedules.PolynomialDecay(5.0, 4, 1.0)
    layer = EmbeddingNoise(neftune(schedule))
    for step in range(3):
        close(layer(X, training=True), embnoise.add_noise(X, neftune(alpha=5.0 - step), step=step))
    twin = EmbeddingNoise.from_config(layer.get_config())
    close(twin(X, step=2, training=True), layer(X, step=2, training=True))
    model = sequential(EmbeddingNoise(neftune(schedule)))
    model.compile(keras.optimizers.SGD(0.0), "mse")
    fit(model)


def test_the_config_is_the_layer():
    layer = EmbeddingNoise(
        Noise(linear(5, 0, 9), distribution="gaussian", seed=2**60), calls_per_step=3, name="mine"
    )
    config = keras.saving.serialize_keras_object(layer)
    assert config["registered_name"] == "embnoise>EmbeddingNoise"
    twin = keras.saving.deserialize_keras_object(config)
    assert (twin.noise, twin.calls_per_step, twin.name) == (layer.noise, 3, "mine")


def test_mixed_precision_keeps_the_dtype():
    keras.mixed_precision.set_dtype_policy("mixed_bfloat16")
    try:
        layer = EmbeddingNoise(neftune(50.0))
        model = functional(layer)
        assert model.layers[2].compute_dtype == "bfloat16"
        x = keras.ops.cast(X, "bfloat16")
        noisy = layer(x, training=True)
        assert keras.backend.standardize_dtype(noisy.dtype) == "bfloat16"
        assert (numpy(keras.ops.cast(noisy, "float32")) != numpy(x).astype(np.float32)).any()
        model.compile("sgd", "mse")
        assert np.isfinite(fit(model)).all()
    finally:
        keras.mixed_precision.set_dtype_policy("float32")


def test_it_keeps_a_dtype_that_is_not_its_policy_s():
    x = keras.ops.cast(X, "bfloat16")
    for training in (True, False):
        noisy = EmbeddingNoise(neftune(50.0))(x, training=training)
        assert keras.backend.standardize_dtype(noisy.dtype) == "bfloat16"


class BuildsNoise(keras.layers.Layer):
    """Makes its noise when Keras builds it, in `fit` maybe without any state."""

    def build(self, shape):
        self.noise = EmbeddingNoise(neftune(50.0))

    def call(self, x, training=None):
        return self.noise(x, training=training)


def test_it_may_be_made_while_a_model_is_built():
    outer = BuildsNoise()
    model = sequential(outer)
    model.compile(keras.optimizers.SGD(0.0), "mse")
    assert fit(model) != fit(model)
    assert outer.noise.step == 4


def test_each_time_step_of_a_time_distributed_layer_is_a_call():
    inner = sequential(layer := EmbeddingNoise(neftune(50.0), calls_per_step=3))
    ids = keras.Input((3, 5), dtype="int32")
    model = keras.Model(ids, keras.layers.TimeDistributed(inner)(ids))
    model(np.stack([IDS] * 3, axis=1), training=True)
    assert (layer.step, layer.lookups) == (1, 3)
    with attach(model, neftune(50.0, stream="attached")) as handle:
        model(np.stack([IDS] * 3, axis=1), training=True)
        assert (handle.step, handle.lookups) == (1, 3)


def test_symbolic_calls_keep_shape_dtype_and_mask():
    ids = keras.Input((None,), dtype="int32")
    x = keras.layers.Embedding(20, DIM, mask_zero=True)(ids)
    noisy = EmbeddingNoise(neftune())(x)
    assert (noisy.shape, noisy.dtype) == (x.shape, x.dtype)
    assert noisy._keras_mask is not None


@pytest.mark.parametrize(
    ("call", "kind", "message"),
    [
        (
            lambda: EmbeddingNoise(5.0),
            TypeError,
            r"noise must be a Noise, got 5.0; did you mean neftune\(alpha=5.0\)\?",
        ),
        (lambda: EmbeddingNoise(neftune(linear(1, 2))), ValueError, "alpha is the unbound sched"),
        (
            lambda: EmbeddingNoise(neftune(), calls_per_step=0),
            ValueError,
            "calls_per_step must be at least 1, got 0",
        ),
        (
            lambda: EmbeddingNoise(neftune(lambda step: 1.0)).get_config(),
            TypeError,
            "alpha must be a number or a registered schedule to be saved",
        ),
    ],
)
def test_wrong_calls(call, kind, message):
    with pytest.raises(kind, match=message):
        call()


@pytest.mark.skipif(keras.backend.backend() != "torch", reason="torch.compile is PyTorch's")
def test_torch_compile_warns_of_nothing():
    torch = pytest.importorskip("torch")
    noise = neftune()
    noisy = torch.compile(lambda x: add_noise(x, noise, step=3), backend="eager")
    close(noisy(torch.tensor(X)), embnoise.add_noise(X, noise, step=3))
