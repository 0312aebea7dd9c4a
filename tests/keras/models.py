"""Small Keras models, built anew with the same weights."""

import keras
import numpy as np

VOCABULARY, DIM = 20, 16
IDS = np.array([[1, 2, 3, 0, 0], [4, 5, 6, 7, 8], [9, 9, 9, 9, 0], [1, 1, 1, 1, 1]], np.int32)
TARGETS = np.ones((4, 1), np.float32)
MASK = IDS != 0


def numpy(tensor):
    return np.asarray(keras.ops.convert_to_numpy(tensor))


def sequential(*noise, **options):
    keras.utils.set_random_seed(0)
    return keras.Sequential(
        [
            keras.layers.Embedding(VOCABULARY, DIM, **options),
            *noise,
            keras.layers.Flatten(),
            keras.layers.Dense(1),
        ]
    )


def functional(*noise, **options):
    keras.utils.set_random_seed(0)
    ids = keras.Input((5,), dtype="int32")
    x = keras.layers.Embedding(VOCABULARY, DIM, mask_zero=True, **options)(ids)
    for layer in noise:
        x = layer(x)
    return keras.Model(ids, keras.layers.Dense(1)(keras.layers.GlobalAveragePooling1D()(x)))


class Subclassed(keras.Model):
    """A decoder whose output projection is the table, in reverse."""

    def __init__(self, *noise):
        keras.utils.set_random_seed(0)
        super().__init__()
        self.embed = keras.layers.ReversibleEmbedding(VOCABULARY, DIM)
        self.noise = list(noise)

    def call(self, ids, training=None):
        x = self.embed(ids)
        for layer in self.noise:
            x = layer(x, training=training)
        return keras.ops.mean(self.embed(x, reverse=True), axis=(1, 2))[:, None]


class Probe(keras.layers.Layer):
    """Remembers what it was given in training."""

    def __init__(self, shape=(4, 5, DIM)):
        super().__init__(name="probe")
        self.supports_masking = True
        self._shape = shape

    def build(self, _):
        self.seen = self.add_weight(shape=self._shape, trainable=False, initializer="zeros")

    def call(self, x, training=False):
        if training:
            self.seen.assign(keras.ops.stop_gradient(x))
        return x


MODELS = {"sequential": sequential, "functional": functional, "subclassed": Subclassed}


def fit(model, epochs=1, **options):
    """The losses of batches of two rows, each with the noise of one step."""
    history = model.fit(
        IDS, TARGETS, batch_size=2, epochs=epochs, shuffle=False, verbose=0, **options
    )
    return history.history["loss"]


def probed(model, inputs, shape=(4, 5, DIM), **options):
    """What the model's ``probe`` is given in one step of ``fit`` that changes no weight."""
    model.compile(keras.optimizers.SGD(0.0), "mse", **options)
    model.fit(inputs, np.zeros(shape, np.float32), batch_size=len(IDS), shuffle=False, verbose=0)
    probe = next(layer for layer in model._flatten_layers() if isinstance(layer, Probe))
    return numpy(probe.seen)
