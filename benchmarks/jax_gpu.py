"""The noise in JAX as machine code of NVIDIA GPUs, compiled on a machine without one.

    pip install --target gpu --no-deps jax-cuda12-plugin==VERSION jax-cuda12-pjrt==VERSION
    PYTHONPATH=gpu python benchmarks/jax_gpu.py    # about a minute

VERSION is that of jax; ptxas and nvdisasm come with triton. Nothing is run: the script counts the
instructions of the kernel that looks embeddings up and adds the noise, and predicts its time.
Beside it stands the kernel for embeddings that may be sharded over several devices.
"""

from __future__ import annotations

import os
import re
import subprocess
import tempfile
from collections import Counter
from functools import partial
from pathlib import Path
from typing import Any
from unittest import mock

os.environ["JAX_PLATFORMS"] = "cpu"
DUMPS = Path(tempfile.mkdtemp())
os.environ["XLA_FLAGS"] = f"--xla_dump_to={DUMPS} --xla_gpu_autotune_level=0"

import jax  # noqa: E402, which reads the flags
import jax.numpy as jnp  # noqa: E402
import triton  # noqa: E402
from jax.experimental import topologies  # noqa: E402

from embnoise import neftune  # noqa: E402
from embnoise_jax import add_noise  # noqa: E402
from gpus import GPUS, Gpu  # noqa: E402

SHAPE = BATCH, LENGTH, DIM = 8, 512, 2048
VOCABULARY = 32_000
BINARIES = Path(triton.__file__).parent / "backends" / "nvidia" / "bin"


COMPARED = "A100 SXM 80 GB", "H100 SXM", "B200"


def topology(name: str, gpu: Gpu) -> Any:
    major, minor = divmod(int(gpu.target.removeprefix("sm_")), 10)
    description = f"""
        gpu_device_info {{
          threads_per_block_limit: 1024 threads_per_warp: 32
          shared_memory_per_block: 49152 shared_memory_per_block_optin: 166912
          shared_memory_per_core: 167936 threads_per_core_limit: 2048
          core_count: {gpu.multiprocessors} fpus_per_core: 64
          block_dim_limit_x: 2147483647 block_dim_limit_y: 65535 block_dim_limit_z: 65535
          memory_bandwidth: {int(gpu.bandwidth)} l2_cache_size: 41943040
          clock_rate_ghz: {gpu.clock / 1e9} device_memory_size: 42949672960
          cuda_compute_capability {{ major: {major} minor: {minor} }}
          registers_per_core_limit: 65536 registers_per_block_limit: 65536
        }}
        runtime_version {{ major: 12 minor: 8 }}
        platform_name: "CUDA"
        dnn_version_info {{ major: 9 minor: 7 }}
        device_description_str: "{name}"
    """
    return topologies.get_topology_desc("", "cuda", target_config=description, topology="1x1x1")


def lookup(table: Any, ids: Any, step: Any) -> Any:
    return add_noise(jnp.take(table, ids, axis=0), neftune(5.0), step=step)


FORMS = {"one GPU": 1, "sharded": 8}
"""How many GPUs there seem to be."""


def compiled(devices: int, dtype: Any, name: str) -> tuple[Counter[str], float]:
    """The instructions for an element of all large kernels, and the share of temporaries."""
    before = set(DUMPS.glob("*.ptx"))
    gpu = GPUS[name]
    (device,) = topology(name, gpu).devices
    sharding = jax.sharding.SingleDeviceSharding(device)
    shape: Any = partial(jax.ShapeDtypeStruct, sharding=sharding)
    arguments = shape((VOCABULARY, DIM), dtype), shape(SHAPE[:2], jnp.int32), shape((), jnp.int32)
    with (
        mock.patch("jax.default_backend", return_value="gpu"),
        mock.patch("jax.device_count", return_value=devices),
    ):
        traced = jax.jit(partial(lookup)).trace(*arguments)
    program = traced.lower(lowering_platforms=("cuda",)).compile()
    instructions: Counter[str] = Counter()
    for path in set(DUMPS.glob("*.ptx")) - before:
        if ".entry" not in path.read_text():
            continue  # constants
        names, stored = _instructions(path, gpu)
        if names.total() > 60:  # the others compute arrays [B, L] and [d]
            for kind, count in names.items():
                instructions[kind] += count * jnp.dtype(dtype).itemsize / stored
    memory = program.memory_analysis()
    return instructions, memory.temp_size_in_bytes / memory.output_size_in_bytes


def _instructions(path: Path, gpu: Gpu) -> tuple[Counter[str], int]:
    """The instructions of a thread, and how many bytes it stores."""
    binary = path.with_suffix(".cubin")
    suffix = "a" if gpu.target in ("sm_90", "sm_100") else ""
    _output("ptxas", f"-arch={gpu.target}{suffix}", path, "-o", binary)
    listing = _output("nvdisasm", "-c", binary)
    found = re.findall(r"/\*[0-9a-f]{4,}\*/\s+(?:@!?U?P\d+ )?([A-Z][A-Z0-9_.]*)", listing)
    stores = [re.search(r"\d+$", name) for name in found if name.startswith("STG")]
    stored = sum(int(width[0]) // 8 if width else 4 for width in stores)
    return Counter(name.split(".")[0] for name in found if name != "NOP"), stored


def _output(program: str, *arguments: Any) -> str:
    command = [BINARIES / program, *arguments]
    return subprocess.run(command, capture_output=True, text=True, check=True).stdout


ON_OTHER_UNITS = ("F", "I2F", "IMAD", "LD", "ST", "U", "S2", "BRA", "EXIT")
"""How instructions begin that the integer unit does not execute."""


def main() -> None:
    print(f"JAX {jax.__version__}, B={BATCH}, L={LENGTH}, d={DIM}, uniform noise; nothing was run")
    print(
        f"{'GPU':14} {'dtype':9} {'form':8} instructions  of the integer unit  temporaries  "
        "predicted / lookup"
    )
    for gpu_name in COMPARED:
        gpu = GPUS[gpu_name]
        for dtype in (jnp.float32, jnp.bfloat16):
            for name, devices in FORMS.items():
                instructions, temporaries = compiled(devices, dtype, gpu_name)
                integer = sum(
                    count
                    for kind, count in instructions.items()
                    if not kind.startswith(ON_OTHER_UNITS)
                )
                floor = 2 * jnp.dtype(dtype).itemsize / gpu.bandwidth
                # Of the lanes that a multiprocessor issues, half may be integer operations.
                issue = max(instructions.total(), 2 * integer) / gpu.lanes_per_second
                print(
                    f"{gpu_name:14} {jnp.dtype(dtype).name:9} {name:8} "
                    f"{instructions.total():12.1f} {integer:20.1f} {temporaries:11.1%}  "
                    f"{1e12 * max(floor, issue):7.2f} ps / {1e12 * floor:.2f} ps "
                    f"= {max(floor, issue) / floor:.2f}"
                )


if __name__ == "__main__":
    main()
