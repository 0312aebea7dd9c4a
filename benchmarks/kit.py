"""How long the kit takes for a layer, compilation included, each in a new process.

    python benchmarks/kit.py

Prints the seconds of ``check_layer``, without the import of the framework, its compiler and Numba.
They show the order of magnitude on one machine.
"""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

ROOT = Path(__file__).parent.parent
LAYERS = {
    "torch": ["EmbeddingNoise", "Uniform", "attach"],
    "jax": ["nnx: EmbeddingNoise", "nnx: Uniform"],
    "keras": ["EmbeddingNoise", "keras_neftune", "GaussianNoise"],
}
ONE = """
import sys, time
from importlib import import_module
from embnoise.testing import check_layer
framework, wanted, profile = sys.argv[1:]
layers = import_module(f"tests.testing.{framework}_layers").CORRECT
made = next(layer for layer in layers if layer.name == wanted).case()
if framework == "torch":
    # What is imported is not measured, nor what the two import when they are first used.
    import torch._dynamo.backends.debugging, torch._inductor.debug
    from numba.core.registry import cpu_target
    cpu_target.target_context.refresh()
started = time.perf_counter()
assert check_layer(made, profile=profile).ok
print(f"{time.perf_counter() - started:.1f}")
"""


def seconds(framework: str, layer: str, profile: str) -> str:
    """The seconds as text, measured in a new process."""
    ran = subprocess.run(
        [sys.executable, "-W", "ignore", "-c", ONE, framework, layer, profile],
        cwd=ROOT, capture_output=True, text=True, check=True,
    )  # fmt: skip
    return ran.stdout.splitlines()[-1]


def main() -> None:
    """Print a row for each layer."""
    print(f"{'':26} {'quick':>6} {'default':>8}")
    for framework, names in LAYERS.items():
        for name in names:
            quick, default = (seconds(framework, name, each) for each in ("quick", "default"))
            label = f"{framework} {name.removeprefix('nnx: ')}"
            print(f"{label:26} {quick:>6} {default:>8}", flush=True)


if __name__ == "__main__":
    main()
