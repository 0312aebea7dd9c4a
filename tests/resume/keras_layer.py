"""Keras: ``fit`` of a model with an ``EmbeddingNoise`` layer, whose count Keras's backups have."""

from __future__ import annotations

from tests.resume import keras_fit


def train(folder, note, kill):
    return keras_fit.train(folder, note, kill, as_layer=True)
