"""Keras: ``fit`` of an attached model, with Keras's own backups and the handle's state beside.

The model has no dropout, whose masks Keras's backups do not resume, with noise or without it.
"""

from __future__ import annotations

import json

import keras
import numpy as np

from embnoise import linear, neftune
from embnoise_keras import EmbeddingNoise, attach
from tests.keras.models import VOCABULARY, numpy


class Watch(keras.callbacks.Callback):
    """Notes what an epoch made of the table, saves the handle's state, and may kill."""

    def __init__(self, table, handle, path, note, kill):
        super().__init__()
        self.table, self.handle, self.path, self.note, self.kill = table, handle, path, note, kill

    def on_train_begin(self, logs=None):
        if self.handle is not None and self.path.exists():
            self.handle.load_state_dict(json.loads(self.path.read_text()))

    def on_train_batch_end(self, batch, logs=None):
        self.kill()

    def on_epoch_end(self, epoch, logs=None):
        self.note(numpy(self.table.embeddings))
        if self.handle is not None:
            self.path.write_text(json.dumps(self.handle.state_dict()))


def train(folder, note, kill, *, as_layer=False):
    keras.backend.clear_session()
    keras.utils.set_random_seed(0)
    noise = neftune(alpha=linear(20.0, 1.0, 12))
    table = keras.layers.Embedding(VOCABULARY, 8, name="embed")
    layers = [table, *([EmbeddingNoise(noise)] if as_layer else [])]
    model = keras.Sequential([*layers, keras.layers.Flatten(), keras.layers.Dense(1)])
    model.compile(keras.optimizers.Adam(0.01), "mse")
    ids = np.random.default_rng(0).integers(VOCABULARY, size=(12, 5)).astype("int32")
    targets = np.linspace(-1, 1, 12, dtype="float32")[:, None]
    model.build((None, 5))
    handle = None if as_layer else attach(model, noise)
    model.fit(
        ids,
        targets,
        batch_size=4,
        epochs=4,
        shuffle=False,
        verbose=0,
        callbacks=[
            keras.callbacks.BackupAndRestore(str(folder / "backup"), delete_checkpoint=False),
            Watch(table, handle, folder / "noise.json", note, kill),
        ],
    )
    if handle is not None:
        handle.remove()
    return {weight.path: numpy(weight) for weight in model.weights}
