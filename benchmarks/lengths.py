"""What varying lengths cost in Keras's ``fit`` on TensorFlow, compilation included.

    python benchmarks/lengths.py            # about two minutes
    python benchmarks/lengths.py --quick

Every ``fit`` is the first epoch of a new process: a bidirectional LSTM over batches of 30 lengths,
with and without noise. The processes take turns; figures are medians.
"""

from __future__ import annotations

import argparse
import os
import statistics
import subprocess
import sys
import time

from machine import processor

VARIANTS = ["plain", "noise"]
LENGTHS, BATCH, VOCABULARY, DIM = range(10, 40), 8, 1000, 64


def fit_seconds(variant: str) -> float:
    """The seconds of one epoch of ``fit``, in a process that has compiled nothing yet."""
    import keras  # noqa: PLC0415, the parent process does without
    import numpy as np  # noqa: PLC0415
    import tensorflow as tf  # noqa: PLC0415

    from embnoise import neftune  # noqa: PLC0415
    from embnoise_keras import EmbeddingNoise  # noqa: PLC0415

    random = np.random.default_rng(0)
    batches = [random.integers(0, VOCABULARY, (BATCH, length)) for length in LENGTHS]
    data = tf.data.Dataset.from_generator(
        lambda: ((ids, ids[:, 0] % 2) for ids in batches),
        output_signature=(
            tf.TensorSpec((BATCH, None), tf.int64), tf.TensorSpec((BATCH,), tf.int64),
        ),
    )  # fmt: skip
    noise = [EmbeddingNoise(neftune(5.0))] if variant == "noise" else []
    rest = [keras.layers.Bidirectional(keras.layers.LSTM(DIM)), keras.layers.Dense(2)]
    model = keras.Sequential([keras.layers.Embedding(VOCABULARY, DIM), *noise, *rest])
    loss = keras.losses.SparseCategoricalCrossentropy(from_logits=True)
    model.compile("adam", loss)
    start = time.perf_counter()
    model.fit(data, verbose=0)
    return time.perf_counter() - start


def in_a_process(variant: str) -> float:
    """``fit_seconds`` in a new process."""
    again = [sys.executable, __file__, "--variant", variant]
    environment = {"TF_CPP_MIN_LOG_LEVEL": "3", **os.environ, "KERAS_BACKEND": "tensorflow"}
    ran = subprocess.run(again, check=True, env=environment, stdout=subprocess.PIPE, text=True)
    return float(ran.stdout.split()[-1])


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--quick", action="store_true", help="one round")
    parser.add_argument("--variant", choices=VARIANTS, help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    if arguments.variant is not None:
        print(fit_seconds(arguments.variant))
        return
    print(f"{processor()}; fit over {len(LENGTHS)} lengths, B={BATCH}, d={DIM}:")
    seconds: dict[str, list[float]] = {variant: [] for variant in VARIANTS}
    for _ in range(1 if arguments.quick else 5):
        for variant, own in seconds.items():
            own.append(in_a_process(variant))
    plain, noise = (statistics.median(own) for own in seconds.values())
    print(f"  plain {plain:.2f} s = 1;  with noise {noise:.2f} s = {noise / plain:.2f}")


if __name__ == "__main__":
    main()
