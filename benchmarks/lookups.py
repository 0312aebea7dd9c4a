"""What a lookup with noise costs beside the bare lookup, in every framework, at every size.

    python benchmarks/lookups.py            # under ten minutes
    python benchmarks/lookups.py --quick    # about a minute, for a look

From one token to a context of 128k, with 64 to 16,384 channels. Beside ours stands what others use:
the hook of transformers, the code of NEFTune's authors, a framework's own draws. All that is
compared takes turns, round after round; figures are medians over the rounds. It prints a table, and
writes lookups.json and lookups.png to ``--out``.
"""

from __future__ import annotations

import argparse
import json
import os
import subprocess
import sys
import tempfile
from importlib import import_module
from pathlib import Path
from typing import Any

from machine import peak_bytes, processor
from timing import interleaved, rounds_within

PARTS = {"PyTorch": "torch", "JAX": "jax", "Keras on TensorFlow": "keras"}
DTYPES = {"float32": 4, "bfloat16": 2}
TOKENS = [(1, 1), (1, 16), (1, 512), (8, 512), (1, 131_072)]
DIMS = [64, 512, 2048, 16_384]
QUICK_TOKENS, QUICK_DIMS = [(1, 1), (2, 64)], [512]
LARGEST_OUTPUT = 2**30
"""Bytes: some of what is compared holds three times as much, and the table comes on top."""
LARGEST_TABLE = 2**28
MEMORY_SHAPE, QUICK_MEMORY_SHAPE = (1, 131_072, 2048), (1, 8192, 2048)
SECONDS, MOST_ROUNDS = 1.5, 40
"""How long one line of the table takes, about."""


def sizes(quick: bool) -> list[tuple[str, tuple[int, int, int]]]:
    """The dtypes and shapes [B, L, d] that are measured."""
    tokens, dims = (QUICK_TOKENS, QUICK_DIMS) if quick else (TOKENS, DIMS)
    return [
        (dtype, (*each, dim))
        for dtype, width in DTYPES.items()
        for dim in dims
        for each in tokens
        if each[0] * each[1] * dim * width <= LARGEST_OUTPUT
    ]


def vocabulary(dtype: str, dim: int) -> int:
    """The number of rows of the table."""
    return min(32_000, LARGEST_TABLE // (dim * DTYPES[dtype]))


def measure(module: Any, dtype: str, shape: tuple[int, int, int], quick: bool) -> dict[str, Any]:
    """The microseconds of every lookup of one size."""
    runs = module.runs(shape, dtype, vocabulary(dtype, shape[-1]))
    rounds, calls = rounds_within(runs, 0.1 if quick else SECONDS, MOST_ROUNDS)
    microseconds = {name: 1e6 * own for name, own in interleaved(runs, rounds, calls).items()}
    return {"dtype": dtype, "shape": shape, "rounds": rounds, "microseconds": microseconds}


def line(measured: dict[str, Any]) -> str:
    """One line of the table."""
    times = measured["microseconds"]
    alone = times["lookup"]
    ratios = (f"{name} {own / alone:6.2f}" for name, own in times.items() if name != "lookup")
    size = " x ".join(map(str, measured["shape"]))
    return f"  {measured['dtype']:8} {size:18} lookup {alone:9.1f} us = 1;  {';  '.join(ratios)}"


def extra_memory(module: Any, dtype: str, shape: tuple[int, int, int]) -> dict[str, float]:
    """How much more memory than the lookup alone each takes, over the size of the output.

    It has to be the first that a process does: what an allocator keeps would hide it.
    """
    batch, length, dim = shape
    rows = vocabulary(dtype, dim)
    for run in module.runs((batch, length // 64, dim), dtype, rows).values():
        run()  # what is compiled or loaded once does not count
    peaks = {name: peak_bytes(run) for name, run in module.runs(shape, dtype, rows).items()}
    output, alone = batch * length * dim * DTYPES[dtype], peaks.pop("lookup")
    return {
        name: (peak - alone) / output
        for name, peak in peaks.items()
        if peak is not None and alone is not None
    }


def run_part(part: str, quick: bool, out: Path) -> None:
    """Measure one framework, in this process, and write the figures to a file."""
    module = import_module(f"lookups_{PARTS[part]}")
    print(f"{part} ({module.VERSIONS}), B x L x d:", flush=True)
    shape = QUICK_MEMORY_SHAPE if quick else MEMORY_SHAPE
    memory = extra_memory(module, "bfloat16", shape)
    shares = ";  ".join(f"{name} {share:.2%}" for name, share in memory.items())
    print(f"  memory beyond the lookup's, of the output (bfloat16, {shape}): {shares}", flush=True)
    results = []
    for dtype, shape in sizes(quick):
        results.append(measure(module, dtype, shape, quick))
        print(line(results[-1]), flush=True)
    report = {"versions": module.VERSIONS, "extra_memory": memory, "results": results}
    out.write_text(json.dumps(report))


def run_parts(quick: bool) -> dict[str, Any]:
    """The figures of every framework, each measured in a process of its own."""
    environment = {"TF_CPP_MIN_LOG_LEVEL": "3", "KERAS_BACKEND": "tensorflow", **os.environ}
    figures = {}
    with tempfile.TemporaryDirectory() as folder:
        for part, name in PARTS.items():
            own = Path(folder) / f"{name}.json"
            again = [sys.executable, __file__, "--part", part, "--out", str(own)]
            subprocess.run(again + ["--quick"] * quick, check=True, env=environment)
            figures[part] = json.loads(own.read_text())
    return figures


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--quick", action="store_true", help="few sizes, few rounds")
    parser.add_argument("--out", type=Path, default=Path("build"), help="where files are written")
    parser.add_argument("--part", choices=PARTS, help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    if arguments.part is not None:
        run_part(arguments.part, arguments.quick, arguments.out)
        return
    print(processor())
    print(f"Outputs above {LARGEST_OUTPUT >> 20} MiB are left out.")
    figures = run_parts(arguments.quick)
    arguments.out.mkdir(parents=True, exist_ok=True)
    report = {"machine": processor(), "frameworks": figures}
    (arguments.out / "lookups.json").write_text(json.dumps(report, indent=1) + "\n")
    from plots import plot_ratios  # noqa: PLC0415, the processes that take times do without

    plot_ratios(report, arguments.out / "lookups.png")


if __name__ == "__main__":
    main()
