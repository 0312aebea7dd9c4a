"""Lookups in Keras on TensorFlow, as graphs: alone, with our noise, and with that of others."""

from __future__ import annotations

import math
from collections.abc import Callable
from functools import partial
from typing import Any

import keras
import tensorflow as tf

from embnoise import neftune
from embnoise_keras import EmbeddingNoise
from timing import Runs

ALPHA = 5.0
VERSIONS = f"Keras {keras.__version__}, TensorFlow {tf.__version__}"


def runs(shape: tuple[int, int, int], dtype: str, vocabulary: int) -> Runs:
    """The lookups of ids [B, L]; shape is [B, L, d]."""
    batch, length, dim = shape
    table = keras.layers.Embedding(vocabulary, dim, dtype=dtype)
    ours = EmbeddingNoise(neftune(alpha=ALPHA), dtype=dtype)
    gaussian = keras.layers.GaussianNoise(1e-5, dtype=dtype)
    ids = tf.random.uniform((batch, length), 0, vocabulary, tf.int32)
    magnitude = ALPHA / math.sqrt(length * dim)

    def uniform(ids: Any) -> Any:
        x = table(ids)
        return x + tf.random.uniform(tf.shape(x), -magnitude, magnitude, x.dtype)

    lookups: dict[str, Callable[[Any], Any]] = {
        "lookup": table,
        "embnoise": lambda ids: ours(table(ids), training=True),
        "uniform, by hand": uniform,
        "GaussianNoise": lambda ids: gaussian(table(ids), training=True),
    }

    def run(lookup: Callable[[Any], Any]) -> None:
        lookup(ids)[0, 0, 0].numpy()  # which waits for the result

    graphs = {
        name: tf.function(lookup, autograph=False).get_concrete_function(ids)
        for name, lookup in lookups.items()
    }
    return {name: partial(run, graph) for name, graph in graphs.items()}
