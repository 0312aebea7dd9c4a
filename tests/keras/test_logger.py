"""``NoiseLogger``: the noise in the logs of ``fit``."""

from contextlib import nullcontext

import keras
import numpy as np
import pytest

import embnoise
from embnoise import linear, neftune
from embnoise_keras import EmbeddingNoise, NoiseLogger, attach
from tests.keras.models import DIM, IDS, TARGETS, fit, numpy, sequential


def test_it_logs_alpha_and_the_ratio():
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
            callbacks=[NoiseLogger()],
            validation_data=(IDS, TARGETS),
        ).history
    assert history["noise_alpha"] == [7.0, 5.0]
    x = numpy(model.layers[0](IDS[2:]))
    noisy = embnoise.add_noise(x, neftune(alpha=5.0), step=3)
    ratio = np.sqrt(((noisy - x) ** 2).mean() / (x**2).mean())
    assert history["noise_ratio"][1] == pytest.approx(ratio, rel=1e-4)
    assert set(history) == {"loss", "val_loss", "noise_alpha", "noise_ratio"}
    with pytest.raises(ValueError, match="model has no noise to log"):
        fit(model, callbacks=[NoiseLogger()])


def test_it_knows_steps_that_the_call_was_given():
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
    history = model.fit(IDS, TARGETS, verbose=0, callbacks=[NoiseLogger()]).history
    assert history["noise_alpha"] == [3.0]


def test_without_it_nothing_is_recorded():
    layer = EmbeddingNoise(neftune())
    model = sequential(layer)
    model.compile("sgd", "mse")
    fit(model, callbacks=[NoiseLogger()])
    step, ratio = layer.last_call.step, layer.last_call.ratio
    assert (step, ratio > 0) == (1, True)
    fit(model)
    assert (layer.last_call.step, layer.last_call.ratio) == (step, ratio)


def test_paused_noise_has_ratio_0():
    layer = EmbeddingNoise(neftune())
    model = sequential(layer)
    model.compile("sgd", "mse")
    with layer.paused():
        history = model.fit(IDS, TARGETS, verbose=0, callbacks=[NoiseLogger()]).history
    assert history["noise_ratio"] == [0.0]


def test_a_second_noise_is_named_after_its_embedding():
    text, image = (keras.layers.Embedding(20, DIM, name=name) for name in ("text", "image"))
    ids = keras.Input((5,), dtype="int32")
    model = keras.Model(ids, keras.ops.mean(text(ids) + image(ids), axis=(1, 2))[:, None])
    model.compile("sgd", "mse")
    with attach(model, neftune(), layer="text"), attach(model, neftune(stream="i"), layer="image"):
        history = model.fit(IDS, TARGETS, verbose=0, callbacks=[NoiseLogger()]).history
    names = {"noise_alpha", "noise_ratio", "noise_alpha_image", "noise_ratio_image"}
    assert set(history) == {"loss", *names}


@pytest.mark.parametrize("streams", [("", ""), ("", "d")])
def test_layers_that_draw_the_same_noise_are_warned_of(streams):
    ids = keras.Input((5,), dtype="int32")
    x = keras.layers.Embedding(20, DIM)(ids)
    noises = [
        EmbeddingNoise(neftune(stream=each), name=f"n{each}{i}") for i, each in enumerate(streams)
    ]
    shared = noises[0](noises[0](x))  # twice one layer, whose steps differ
    model = keras.Model(ids, keras.ops.mean(shared + noises[1](x), axis=(1, 2))[:, None])
    model.compile("sgd", "mse")
    equal = pytest.warns(RuntimeWarning, match=r"\['n0', 'n1'\] draw the same noise.*stream=")
    with equal if streams[0] == streams[1] else nullcontext():
        model.fit(IDS, TARGETS, verbose=0, callbacks=[NoiseLogger()])
