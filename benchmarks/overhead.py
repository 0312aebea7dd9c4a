"""What the noise costs, as ratios that were measured in one run.

    python benchmarks/overhead.py            # about a minute
    python benchmarks/overhead.py --quick    # a few seconds, for a look

Beside it stands the hook of transformers, which most training code uses. All that is compared
takes turns, round after round, so that a change of the machine's speed meets all alike; figures
are medians over the rounds.
"""

from __future__ import annotations

import argparse
import copy
import platform
import subprocess
import sys
import tracemalloc
from functools import partial
from typing import Any

import torch
import transformers
from torch import Tensor, nn
from torch.utils._python_dispatch import TorchDispatchMode
from transformers.integrations.neftune import neftune_post_forward_hook

from embnoise import neftune
from embnoise.backend import TokenArrays
from embnoise_torch import attach
from embnoise_torch.custom_op import add_ready_
from timing import Runs, interleaved

BATCH, LENGTH, DIM, VOCABULARY = 8, 512, 2048, 32_000
DTYPES = {"float32": torch.float32, "bfloat16": torch.bfloat16}


def hooked(model: Any) -> Any:
    """A copy of the model with the hook of transformers on its embedding."""
    model = copy.deepcopy(model)
    embedding = model if isinstance(model, nn.Embedding) else model.get_input_embeddings()
    embedding.neftune_noise_alpha = 5.0
    embedding.register_forward_hook(neftune_post_forward_hook)
    return model


def attached(model: Any) -> Any:
    """A copy of the model with our noise."""
    model = copy.deepcopy(model)
    attach(model, neftune(alpha=5.0))
    return model


def runs_of(model: Any, *inputs: Tensor) -> Runs:
    """Forwards of the model as it is, with our noise, and with the hook."""
    models = {"bare": model, "embnoise": attached(model), "transformers": hooked(model)}
    return {name: partial(own, *inputs) for name, own in models.items()}


class Allocations(TorchDispatchMode):  # type: ignore[no-untyped-call]
    """The bytes of the largest tensor that an operation makes anew."""

    def __init__(self) -> None:
        super().__init__()  # type: ignore[no-untyped-call]
        self.largest = 0

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        out = func(*args, **(kwargs or {}))
        known = {a.untyped_storage().data_ptr() for a in args if isinstance(a, Tensor)}
        if isinstance(out, Tensor) and out.untyped_storage().data_ptr() not in known:
            self.largest = max(self.largest, out.untyped_storage().nbytes())
        return out


def memory_of_the_noise(model: nn.Embedding, ids: Tensor) -> float:
    """Peak memory of the noise step, Python's and NumPy's included, over the output's size.

    With padding, which takes more than rows that are full.
    """
    mask = torch.ones_like(ids)
    mask[:, -(ids.shape[1] // 4) :] = 0
    handle = attach(model, neftune())
    output = model(ids).detach()
    source = next(iter(handle._sources.values()))
    tracemalloc.start()
    with Allocations() as allocations:
        add_ready_(output, source.noise, source.ready_lookup(output, ids, TokenArrays(mask), []))
    _, peak = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    handle.remove()
    size: int = output.untyped_storage().nbytes()
    return float((peak + allocations.largest) / size)


def throughput(dtype: str, rounds: int) -> None:
    """Lookup with noise over the lookup alone, at B=8, L=512, d=2048."""
    ids = torch.randint(0, VOCABULARY, (BATCH, LENGTH))
    plain = nn.Embedding(VOCABULARY, DIM, dtype=DTYPES[dtype])
    seconds = interleaved(runs_of(plain, ids), rounds)
    alone = seconds["bare"]
    parts = [f"{name} {own / alone:5.2f}" for name, own in seconds.items()]
    print(f"  {dtype:9} lookup {1e3 * alone:5.1f} ms = 1;  {';  '.join(parts[1:])}")
    share = memory_of_the_noise(plain, ids)
    print(f"  {dtype:9} peak memory of the noise step: {share:.2%} of the output")


def fixed_cost(rounds: int) -> None:
    """Forwards too small for anything but the fixed cost to count: B=1, L=16, d=64."""
    ids = torch.randint(0, 50, (1, 16))
    mask = torch.ones_like(ids)
    config = transformers.LlamaConfig(
        vocab_size=50, hidden_size=64, intermediate_size=64, num_hidden_layers=1,
        num_attention_heads=2, num_key_value_heads=2,
    )  # fmt: skip
    llama: Any = transformers.LlamaForCausalLM(config)
    table = nn.Embedding(50, 64)

    cases = {
        "an embedding alone": runs_of(table, ids),
        "a Llama of one layer": runs_of(llama, ids, mask),
    }
    for name, runs in cases.items():
        seconds = interleaved(runs, rounds, calls=20)
        bare, ours, theirs = seconds.values()
        print(
            f"  {name:21} bare {1e6 * bare:6.1f} us;  embnoise +{1e6 * (ours - bare):5.1f} us;  "
            f"transformers +{1e6 * (theirs - bare):5.1f} us;  ours over theirs {ours / theirs:.2f}"
        )


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--quick", action="store_true", help="fewer rounds")
    parser.add_argument("--part", choices=["float32", "bfloat16", "fixed"])
    arguments = parser.parse_args()
    rounds = 5 if arguments.quick else 40
    if arguments.part is None:
        print(f"{platform.processor() or platform.machine()}, {torch.get_num_threads()} threads,")
        print(f"PyTorch {torch.__version__}, transformers {transformers.__version__}")
        for part in ("float32", "bfloat16", "fixed"):
            # A process of its own: what the allocator has seen before changes a lookup's time.
            again = [sys.executable, __file__, "--part", part]
            subprocess.run(again + ["--quick"] * arguments.quick, check=True)
    elif arguments.part == "fixed":
        print("Fixed cost (B=1, L=16, d=64):")
        fixed_cost(10 * rounds)
    else:
        if arguments.part == "float32":
            print(f"Lookup and noise (B={BATCH}, L={LENGTH}, d={DIM}):")
        throughput(arguments.part, rounds)


if __name__ == "__main__":
    main()
