"""No call of ours moves a global random state."""

import random

import numpy as np

from embnoise import neftune
from tests.backends import KERAS, property_of_backends
from tests.frameworks import is_tested, needs
from tests.strategies import embeddings, noises

if KERAS:
    import keras

    import embnoise_keras
if KERAS == "tensorflow":
    import tensorflow as tf
if is_tested("torch"):
    import torch

    import embnoise_torch


def states():
    legacy = np.random.get_state()  # noqa: NPY002, the state that must not move
    of_torch = torch.get_rng_state().tolist() if is_tested("torch") else None
    return random.getstate(), (legacy[0], legacy[1].tobytes(), *legacy[2:]), of_torch


@property_of_backends(noises())
def test_add_noise(backend, noise):
    before = states()
    backend.add_noise(embeddings((2, 3, 5)), noise, step=0)
    assert states() == before


@needs("torch")
def test_layer_and_attachment():
    model = torch.nn.Sequential(torch.nn.Embedding(10, 8), torch.nn.Linear(8, 1))
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
    before = states()
    layer = embnoise_torch.EmbeddingNoise(neftune())
    with embnoise_torch.attach(model, neftune(), optimizer=optimizer) as handle:
        for _ in range(3):
            layer(model(torch.tensor([[1, 2, 3]]))).sum().backward()
            optimizer.step()
        handle.load_state_dict(handle.state_dict())
    assert states() == before


def draws_of_keras(between=lambda: None):
    """What the global generators of Keras and of its backend give around a call."""
    keras.utils.set_random_seed(0)
    drawn = []
    for _ in range(2):
        drawn.append(np.asarray(keras.ops.convert_to_numpy(keras.random.normal((3,)))))
        if KERAS == "tensorflow":
            drawn.append(tf.random.uniform((3,)).numpy())
        between()
    return np.array(drawn).tobytes()


@needs("keras")
def test_keras_layer_and_attachment():
    model = keras.Sequential([keras.layers.Embedding(10, 8), keras.layers.Dense(1)])
    ids = np.array([[1, 2, 3]])
    model(ids)
    layer = embnoise_keras.EmbeddingNoise(neftune())

    def between():
        layer(np.zeros((1, 3, 8), np.float32), training=True)
        with embnoise_keras.attach(model, neftune()):
            model(ids, training=True)

    assert draws_of_keras(between) == draws_of_keras()
    assert draws_of_keras(lambda: keras.random.normal((1,))) != draws_of_keras()


@needs("keras")
def test_a_graph_that_keras_asks_what_it_computes():
    """``attach`` runs a model's own functions, which may draw, as those that mask tokens do."""
    own = keras.random.SeedGenerator(0)

    def draws(ids):
        random.random()  # noqa: S311
        np.random.random()  # noqa: NPY002
        if KERAS != "jax":  # which has no global generator where it traces
            keras.random.uniform((1,))
        if KERAS == "torch":
            torch.rand(1)
        if KERAS == "tensorflow":
            tf.random.uniform((1,))
            tf.random.uniform((1,), seed=1)
            tf.random.get_global_generator().uniform((1,))
        seen = keras.random.uniform(keras.ops.shape(ids), seed=own)
        return keras.ops.where(seen < 0.5, 1, ids)

    symbolic = keras.Input((None,), dtype="int32")
    masked = keras.layers.Lambda(draws, output_shape=(None,))(symbolic)
    model = keras.Model(symbolic, keras.layers.Embedding(10, 8)(masked))
    generators = [own.state]
    if KERAS == "tensorflow":
        generators.append(tf.random.get_global_generator().state)
    start = [np.array(keras.ops.convert_to_numpy(each)) for each in generators]

    def between():
        embnoise_keras.attach(model, neftune()).remove()

    drawn = draws_of_keras(between)
    before = states()
    between()
    assert states() == before
    assert drawn == draws_of_keras()
    for each, value in zip(generators, start, strict=True):
        assert np.array_equal(keras.ops.convert_to_numpy(each), value)


def test_the_test_would_notice():
    before = states()
    np.random.random()  # noqa: NPY002
    assert states() != before


@needs("torch")
def test_the_test_would_notice_in_torch():
    before = states()
    torch.rand(1)
    assert states() != before
