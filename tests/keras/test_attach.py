"""``attach`` on Keras models, on whichever backend this process has."""

import keras
import numpy as np
import pytest

import embnoise
from embnoise import linear, neftune
from embnoise_keras import EmbeddingNoise, NoiseReport, attach
from tests.keras.models import (
    DIM,
    IDS,
    MASK,
    MODELS,
    TARGETS,
    Subclassed,
    fit,
    functional,
    numpy,
    sequential,
)

over_models = pytest.mark.parametrize("kind", MODELS)


def lookup_of(model):
    return next(each for each in model.layers if isinstance(each, keras.layers.Embedding))


@over_models
@pytest.mark.parametrize("eager", [False, True])
def test_attached_noise_is_that_of_the_layer(kind, eager):
    noise = neftune(alpha=linear(50, 0, 8), length=5)
    build = MODELS[kind]
    model, expected = build(), build(EmbeddingNoise(noise))
    for each in (model, expected):
        each.compile(keras.optimizers.SGD(0.1), "mse", run_eagerly=eager)
    with attach(model, noise) as handle:
        assert fit(model, epochs=2) == pytest.approx(fit(expected, epochs=2), abs=1e-6)
        assert handle.step == 4


@over_models
def test_evaluation_and_a_removed_noise_are_clean(kind):
    model = MODELS[kind]()
    model.compile(keras.optimizers.SGD(0.0), "mse")
    clean, predicted = fit(model), model.predict(IDS, verbose=0)
    evaluated = model.evaluate(IDS, TARGETS, verbose=0)
    handle = attach(model, neftune(50.0))
    assert fit(model) != clean
    assert (model.predict(IDS, verbose=0) == predicted).all()
    assert model.evaluate(IDS, TARGETS, verbose=0) == evaluated
    handle.remove()
    handle.remove()
    assert fit(model) == clean
    assert "call" not in vars(model)
    assert "call" not in vars(lookup_of(model))


@over_models
def test_nothing_of_it_is_saved(kind, tmp_path):
    model = MODELS[kind]()
    model.compile("sgd", "mse")
    fit(model)
    before = [weight.path for weight in model.weights]
    with attach(model, neftune()):
        fit(model)
        assert [weight.path for weight in model.weights] == before
        model.save_weights(tmp_path / "noisy.weights.h5")
        if kind != "subclassed":
            model.save(tmp_path / "model.keras")
            loaded = keras.models.load_model(tmp_path / "model.keras")
            assert type(lookup_of(loaded)) is keras.layers.Embedding
            assert "call" not in vars(lookup_of(loaded))
    clean = MODELS[kind]()
    clean(IDS)
    clean.load_weights(tmp_path / "noisy.weights.h5")
    assert (clean.predict(IDS, verbose=0) == model.predict(IDS, verbose=0)).all()


def test_a_loaded_run_goes_on_from_the_step_that_it_is_told(tmp_path):
    noise = neftune(alpha=linear(50, 0, 8))
    model = functional()
    model.compile(keras.optimizers.SGD(0.1), "mse")
    with attach(model, noise) as handle:
        fit(model)
        model.save(tmp_path / "model.keras")
        loaded = keras.models.load_model(tmp_path / "model.keras")
        with attach(loaded, noise) as other:
            other.step = handle.step
            assert fit(loaded, epochs=2) == fit(model, epochs=2)


def test_the_output_projection_is_clean():
    model = Subclassed()
    x = np.random.default_rng(0).standard_normal((4, 5, DIM)).astype(np.float32)
    model(IDS)
    clean = numpy(model.embed(x, reverse=True))
    with attach(model, neftune(50.0)):
        assert (numpy(model.embed(x, reverse=True, training=True)) == clean).all()
        assert (numpy(model.embed(IDS, training=True)) != numpy(model.embed(IDS))).all()


def test_lengths_come_from_mask_zero_or_from_what_describes_the_ids():
    for model, options in [
        (functional(), {}),
        (sequential(), {"describe": lambda ids: {"mask": ids != 0}}),
    ]:
        model(IDS)
        embed = lookup_of(model)
        clean = numpy(embed(IDS))
        with attach(model, neftune(), **options):
            noisy = numpy(embed(IDS, training=True))
        expected = embnoise.add_noise(clean, neftune(), mask=MASK)
        np.testing.assert_allclose(noisy, expected, rtol=0, atol=1e-6)


def test_lookups_outside_the_model_s_call_are_calls_of_their_own():
    model = sequential()
    model(IDS)
    embed = lookup_of(model)
    clean = numpy(embed(IDS))
    with attach(model, neftune()) as handle:
        for step in range(2):
            expected = embnoise.add_noise(clean, neftune(), step=step)
            noisy = numpy(embed(IDS, training=True))
            np.testing.assert_allclose(noisy, expected, rtol=0, atol=1e-6)
            assert handle.step == step + 1


def test_gradient_accumulation():
    model = functional()
    model.compile(keras.optimizers.SGD(0.1, gradient_accumulation_steps=2), "mse")
    with attach(model, neftune(), calls_per_step=2) as handle:
        fit(model)
        assert handle.step == 1


def test_reports_in_the_logs():
    model = sequential()
    model.compile(keras.optimizers.SGD(0.0), "mse")
    noise = neftune(alpha=linear(8, 0, 8))
    with attach(model, noise):
        history = model.fit(
            IDS,
            TARGETS,
            batch_size=2,
            epochs=2,
            verbose=0,
            shuffle=False,
            callbacks=[NoiseReport()],
            validation_data=(IDS, TARGETS),
        ).history
    assert history["noise_alpha"] == [7.0, 5.0]
    x = numpy(lookup_of(model)(IDS[2:]))
    noisy = embnoise.add_noise(x, neftune(alpha=5.0), step=3)
    ratio = np.sqrt(((noisy - x) ** 2).mean() / (x**2).mean())
    assert history["noise_ratio"][1] == pytest.approx(ratio, rel=1e-4)
    assert set(history) == {"loss", "val_loss", "noise_alpha", "noise_ratio"}
    with pytest.raises(ValueError, match="model must have noise"):
        fit(model, callbacks=[NoiseReport()])


def test_the_report_knows_steps_that_the_call_was_given():
    class Model(keras.Model):
        def __init__(self):
            super().__init__()
            self.embed = keras.layers.Embedding(20, DIM)
            self.noise = EmbeddingNoise(neftune(alpha=linear(8, 0, 8)))

        def call(self, ids, training=None):
            x = self.noise(self.embed(ids), step=5, training=training)
            return keras.ops.mean(x, axis=(1, 2))[:, None]

    model = Model()
    model.compile("sgd", "mse")
    history = model.fit(IDS, TARGETS, verbose=0, callbacks=[NoiseReport()]).history
    assert history["noise_alpha"] == [3.0]


def test_a_callback_reads_and_sets_the_step():
    model = sequential()
    model.compile("sgd", "mse")
    handle, seen = attach(model, neftune()), []

    class Jump(keras.callbacks.Callback):
        def on_train_batch_begin(self, batch, logs=None):
            seen.append(handle.step)
            if batch == 0:
                handle.step = 7

    fit(model, callbacks=[Jump()])
    assert (seen, handle.step) == ([0, 8], 9)


def test_an_old_handle_does_not_end_a_new_noise():
    model = sequential()
    model(IDS)
    old = attach(model, neftune())
    old.remove()
    with attach(model, neftune()):
        old.remove()
        embed = lookup_of(model)
        assert (numpy(embed(IDS, training=True)) != numpy(embed(IDS))).all()


class OneHot(keras.layers.Layer):
    def call(self, ids):
        return keras.ops.one_hot(keras.ops.cast(ids, "int32"), 20)


def test_a_lookup_of_another_class_may_be_named():
    model = keras.Sequential([OneHot(name="lookup"), keras.layers.Flatten()])
    model(IDS)
    with attach(model, neftune(), layer="lookup"):
        noisy = numpy(model(IDS, training=True))
    expected = embnoise.add_noise(np.eye(20, dtype=np.float32)[IDS], neftune())
    np.testing.assert_allclose(noisy, expected.reshape(4, -1), rtol=0, atol=1e-6)


class Two(keras.Model):
    def __init__(self):
        super().__init__()
        self.first = keras.layers.Embedding(5, 4, name="first")
        self.second = keras.layers.Embedding(6, 4, name="second")

    def call(self, ids):
        return self.first(ids) + self.second(ids)


class Trained(Two):
    def call(self, ids, training=None):
        return super().call(ids)


def test_a_layer_is_chosen():
    for choice in (lambda model: model.second, lambda model: "second"):
        model, ids = Trained(), IDS[:, :2] % 5
        model(ids)
        with attach(model, neftune(), layer=choice(model)):
            assert (numpy(model.first(ids, training=True)) == numpy(model.first(ids))).all()
            assert (numpy(model.second(ids, training=True)) != numpy(model.second(ids))).all()


@pytest.mark.parametrize(
    ("call", "kind", "message"),
    [
        (lambda: attach(Two(), neftune()), ValueError, "the model has 2 embeddings to choose from"),
        (lambda: attach(Two(), neftune()), ValueError, r"'first' \(5, 4\), 'second' \(6, 4\)"),
        (lambda: attach(Two(), neftune(), layer="third"), ValueError, "got 'third', which 0 are"),
        (lambda: attach(Two(), neftune(), layer=3), TypeError, "layer must be a layer, its name"),
        (lambda: attach(keras.Sequential(), neftune()), ValueError, "the model has no embeddings"),
        (lambda: attach(print, neftune()), TypeError, "model must be a Keras model or layer, got"),
        (lambda: attach(sequential(), 5.0), TypeError, "noise must be a Noise, got 5.0"),
        (lambda: attach(sequential(), neftune(linear(1, 0))), ValueError, "unbound schedule"),
        (lambda: attach(sequential(), neftune(), describe=3), TypeError, "describe must be a cal"),
    ],
)
def test_wrong_calls_change_nothing(call, kind, message):
    with pytest.raises(kind, match=message):
        call()


def test_it_says_so_when_keras_will_never_train_the_model():
    model = Two()
    with pytest.warns(RuntimeWarning, match="call has no argument `training`"):
        attach(model, neftune(), layer=model.first)


def test_attaching_twice_is_refused():
    model = sequential()
    with attach(model, neftune()), pytest.raises(ValueError, match="noise attached to 'embedding"):
        attach(model, neftune())
