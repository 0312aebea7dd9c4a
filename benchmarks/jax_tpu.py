"""The noise in JAX as programs of TPUs, compiled on a machine without one.

    pip install --target tpu --no-deps "libtpu==0.0.42.*"    # the version that jax[tpu] wants
    TPU_LIBRARY_PATH=tpu/libtpu/libtpu.so python benchmarks/jax_tpu.py    # about a minute

Nothing is run: the script adds up the cycles that XLA expects its loops to take.
"""

from __future__ import annotations

import os
import re
from functools import partial
from typing import Any
from unittest import mock

os.environ["JAX_PLATFORMS"] = "cpu"
os.environ.update(  # of the machine that libtpu would ask for
    TPU_SKIP_MDS_QUERY="1",
    TPU_ACCELERATOR_TYPE="v5litepod-4",
    TPU_WORKER_ID="0",
    TPU_WORKER_HOSTNAMES="localhost",
)

import jax
import jax.numpy as jnp
from jax.experimental import topologies

from embnoise import neftune
from embnoise_jax import add_noise

SHAPE = BATCH, LENGTH, DIM = 8, 512, 2048
VOCABULARY = 32_000
TOPOLOGIES = {"v5e": "v5e:2x2", "v5p": "v5p:2x2x1", "v6e": "v6e:2x2"}


def lookup(table: Any, ids: Any, step: Any) -> Any:
    return jnp.take(table, ids, axis=0) + step.astype(table.dtype)


def noisy_lookup(table: Any, ids: Any, step: Any) -> Any:
    return add_noise(jnp.take(table, ids, axis=0), neftune(5.0), step=step)


FORMS = {"one TPU": 1, "sharded": 8}
"""How many TPUs there seem to be."""


def cycles(function: Any, dtype: Any, device: Any, devices: int) -> int:
    """What XLA expects of all loops of a program."""
    shape: Any = partial(jax.ShapeDtypeStruct, sharding=jax.sharding.SingleDeviceSharding(device))
    arguments = shape((VOCABULARY, DIM), dtype), shape(SHAPE[:2], jnp.int32), shape((), jnp.int32)
    with (
        mock.patch("jax.default_backend", return_value="tpu"),
        mock.patch("jax.device_count", return_value=devices),
    ):
        traced = jax.jit(partial(function)).trace(*arguments)
    text = traced.lower(lowering_platforms=("tpu",)).compile().as_text()
    return sum(int(found) for found in re.findall(r'"estimated_cycles":"(\d+)"', text))


def main() -> None:
    print(f"JAX {jax.__version__}, B={BATCH}, L={LENGTH}, d={DIM}, uniform noise; nothing was run")
    print("TPU  dtype     form       cycles / those of the lookup plus a number")
    for name, topology in TOPOLOGIES.items():
        device, *_ = topologies.get_topology_desc(platform="tpu", topology_name=topology).devices
        for dtype in (jnp.float32, jnp.bfloat16):
            floor = cycles(lookup, dtype, device, 1)
            for form, devices in FORMS.items():
                count = cycles(noisy_lookup, dtype, device, devices)
                label = f"{name:4} {jnp.dtype(dtype).name:9} {form:8}"
                print(f"{label} {count:8} / {floor:6} = {count / floor:.2f}")


if __name__ == "__main__":
    main()
