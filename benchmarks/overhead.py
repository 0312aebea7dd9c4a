"""The fixed cost of the noise in PyTorch: what a forward takes that is too small for the rest.

    python benchmarks/overhead.py            # half a minute
    python benchmarks/overhead.py --quick    # a few seconds, for a look

Beside it stands the hook of transformers, which most training code uses. All that is compared
takes turns, round after round, so that a change of the machine's speed meets all alike; figures
are medians over the rounds. Beside other work they say little: the bytecodes and the calls of
Python functions, which stand beside them, do not depend on it.
"""

from __future__ import annotations

import argparse
import copy
import sys
from collections.abc import Callable
from functools import partial
from types import FrameType
from typing import Any, NamedTuple

import torch
import transformers
from torch import Tensor, nn
from transformers.integrations.neftune import neftune_post_forward_hook

from embnoise import Noise, neftune
from embnoise_torch import attach
from machine import processor
from timing import Runs, interleaved

DEFAULT = neftune(alpha=5.0)


def hooked(model: Any) -> Any:
    """A copy of the model with the hook of transformers on its embedding."""
    return hook(copy.deepcopy(model))


def hook(model: Any) -> Any:
    """The model itself, with that hook."""
    embedding = model if isinstance(model, nn.Embedding) else model.get_input_embeddings()
    embedding.neftune_noise_alpha = 5.0
    embedding.register_forward_hook(neftune_post_forward_hook)
    return model


def attached(model: Any, noise: Noise = DEFAULT) -> Any:
    """A copy of the model with our noise."""
    model = copy.deepcopy(model)
    attach(model, noise)
    return model


def runs_of(model: Any, *inputs: Tensor) -> Runs:
    """Forwards of the model as it is, with our noise, and with the hook."""
    models = {"bare": model, "embnoise": attached(model), "transformers": hooked(model)}
    return {name: partial(own, *inputs) for name, own in models.items()}


class Work(NamedTuple):
    """What Python does in a call."""

    bytecodes: int
    calls: int
    """Of functions that are written in Python."""


def work_of(run: Callable[[], object]) -> Work:
    """The work of a call, once everything that is kept from call to call is there."""
    bytecodes = calls = 0

    def traced(frame: FrameType, event: str, argument: Any) -> Any:
        nonlocal bytecodes, calls
        frame.f_trace_opcodes = True
        calls += event == "call"
        bytecodes += event == "opcode"
        return traced

    run()
    sys.settrace(traced)
    try:
        run()
    finally:
        sys.settrace(None)
    return Work(bytecodes, calls)


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
        alone, *both = map(work_of, runs.values())
        for label, own in zip(("embnoise", "transformers"), both, strict=True):
            print(
                f"    {label} adds {own.bytecodes - alone.bytecodes} bytecodes and "
                f"{own.calls - alone.calls} calls of Python functions"
            )


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--quick", action="store_true", help="fewer rounds")
    arguments = parser.parse_args()
    print(f"{processor()}, {torch.get_num_threads()} threads,")
    print(f"PyTorch {torch.__version__}, transformers {transformers.__version__}")
    print("Fixed cost (B=1, L=16, d=64):")
    fixed_cost(50 if arguments.quick else 400)


if __name__ == "__main__":
    main()
