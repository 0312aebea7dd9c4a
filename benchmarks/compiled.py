"""What the noise costs in JAX and in TensorFlow, compiled, as ratios measured in one run.

    python benchmarks/compiled.py            # about a minute
    python benchmarks/compiled.py --quick    # some seconds, for a look

Beside it stands what users write by hand: the framework's own uniform draw, added. All that is
compared takes turns, round after round; figures are medians over the rounds.
"""

from __future__ import annotations

import argparse
import os
import subprocess
import sys
from collections.abc import Callable
from functools import partial
from typing import Any

from embnoise import Noise, neftune
from machine import processor
from timing import Runs, interleaved

SHAPE = BATCH, LENGTH, DIM = 8, 512, 2048
NOISES = {
    "embnoise": neftune(5.0),
    "embnoise, gaussian": neftune(5.0, distribution="gaussian"),
}


def jax_runs() -> tuple[Runs, str]:
    """Jitted functions of the embeddings and the step."""
    import jax  # noqa: PLC0415, each part is a process with one framework
    import jax.numpy as jnp  # noqa: PLC0415

    from embnoise_jax import add_noise  # noqa: PLC0415

    x = jax.random.normal(jax.random.key(0), SHAPE)
    mask = jnp.ones(SHAPE[:2], bool)

    def by_hand(x: Any, step: Any) -> Any:
        key = jax.random.fold_in(jax.random.key(1), step)
        return x + jax.random.uniform(key, x.shape, minval=-0.01, maxval=0.01)

    functions: dict[str, Callable[[Any, Any], Any]] = {
        "x + 1": lambda x, step: x + 1,
        "by hand": by_hand,
        **{name: partial(_ours, add_noise, noise, {}) for name, noise in NOISES.items()},
        "embnoise, with a mask": partial(_ours, add_noise, neftune(5.0), {"mask": mask}),
    }

    def run(function: Any) -> None:
        function(x, 3).block_until_ready()

    runs: Runs = {name: partial(run, jax.jit(each)) for name, each in functions.items()}
    return runs, f"JAX {jax.__version__}, x + jax.random.uniform(...) by hand"


def tensorflow_runs() -> tuple[Runs, str]:
    """Functions of the embeddings and the step, each a graph without XLA but for our kernel."""
    import keras  # noqa: PLC0415
    import tensorflow as tf  # noqa: PLC0415

    from embnoise_keras import add_noise  # noqa: PLC0415

    x = tf.random.normal(SHAPE)
    step = tf.constant(3, tf.int64)
    mask = tf.ones(SHAPE[:2], tf.int32)
    layer = keras.layers.GaussianNoise(0.01)
    functions: dict[str, Callable[[Any, Any], Any]] = {
        "x + 1": lambda x, step: x + 1,
        "by hand": lambda x, step: x + tf.random.uniform(tf.shape(x), -0.01, 0.01),
        "keras GaussianNoise": lambda x, step: layer(x, training=True),
        **{name: partial(_ours, add_noise, noise, {}) for name, noise in NOISES.items()},
        "embnoise, with a mask": partial(_ours, add_noise, neftune(5.0), {"mask": mask}),
    }

    def run(function: Any) -> None:
        function(x, step)[0, 0, 0].numpy()

    runs: Runs = {
        name: partial(run, tf.function(each, autograph=False)) for name, each in functions.items()
    }
    return runs, f"TensorFlow {tf.__version__}, x + tf.random.uniform(...) by hand"


def _ours(add_noise: Any, noise: Noise, tokens: dict[str, Any], x: Any, step: Any) -> Any:
    return add_noise(x, noise, step=step, **tokens)


PARTS = {"jax": jax_runs, "tensorflow": tensorflow_runs}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--quick", action="store_true", help="fewer rounds")
    parser.add_argument("--part", choices=PARTS)
    arguments = parser.parse_args()
    if arguments.part is None:
        print(f"{processor()}; float32, B={BATCH}, L={LENGTH}, d={DIM}")
        for part in PARTS:
            again = [sys.executable, __file__, "--part", part]
            environment = {"TF_CPP_MIN_LOG_LEVEL": "3", **os.environ}
            subprocess.run(again + ["--quick"] * arguments.quick, check=True, env=environment)
        return
    runs, title = PARTS[arguments.part]()
    seconds = interleaved(runs, 5 if arguments.quick else 30)
    print(f"{title}:")
    for name, own in seconds.items():
        print(f"  {name:22} {1e3 * own:6.1f} ms   {own / seconds['by hand']:5.2f} of by hand")


if __name__ == "__main__":
    main()
