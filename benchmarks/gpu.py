"""The noise on a GPU: whether its bits are right, and what it costs, in one run.

    python benchmarks/gpu.py             # on a CUDA or ROCm device, under eight minutes
    python benchmarks/gpu.py --device cpu --quick    # a look at the script itself

It prints a table and writes gpu.json and gpu.png to ``--out``. All that is compared takes turns,
round after round; figures are medians. Times are the device's own, between two events.
"""

from __future__ import annotations

import argparse
import copy
import json
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import torch
import transformers
from torch import Tensor, nn

from embnoise import Noise
from embnoise.backend import TokenArrays, prepare
from embnoise_torch import add_noise, attach
from embnoise_torch.kernels import add_, kernel_for
from overhead import attached, hook, hooked
from timing import Runs, elapsed, interleaved

DTYPES = {"bfloat16": torch.bfloat16, "float16": torch.float16, "float32": torch.float32}
DISTRIBUTIONS = ("uniform", "rademacher", "gaussian")
VOCABULARY = 32_000
SHAPES = [(1, 1, 4096), (1, 16, 64), (8, 512, 2048), (8, 2048, 4096), (1, 131_072, 4096)]
QUICK_SHAPES = [(1, 1, 64), (2, 16, 64)]


def check_bits(device: torch.device) -> int:
    """Compare with the kernel of the CPU; returns how many outputs were compared.

    Raises:
        AssertionError: An output has other bits.
    """
    compared = 0
    for dtype in (*DTYPES.values(), torch.float64):
        for distribution in DISTRIBUTIONS:
            for shape in [(2, 5, 1), (3, 7, 13), (2, 9, 64), (1, 3, 2056), (2, 8, 4096)]:
                noise = Noise(5.0, distribution=distribution, seed=2**63 + 5)
                x = torch.randn(shape).to(dtype)
                mask = torch.rand(shape[:2]) < 0.8
                step = 2**32 - 3 + compared
                expected = add_noise(x, noise, step=step, mask=mask)
                seen = add_noise(x.to(device), noise, step=step, mask=mask.to(device)).cpu()
                # Compared as integers: -0.0 and 0.0 are different.
                assert torch.equal(_bits(seen), _bits(expected)), (dtype, distribution, shape)
                compared += seen.numel()
    return compared


def check_lookups(device: torch.device) -> int:
    """Compare attached embeddings with ``add_noise`` on the CPU, in eager mode and compiled.

    Three steps each: a CUDA graph that is replayed must have new noise.

    Returns:
        How many outputs were compared.

    Raises:
        AssertionError: An output has other bits.
    """
    compared = 0
    modes: dict[str, Callable[[Any], Any]] = {"eager": lambda table: table}
    if device.type == "cuda":
        modes["compiled"] = torch.compile
        modes["CUDA graph"] = partial(torch.compile, mode="reduce-overhead")
    ids = torch.randint(0, 100, (4, 48))
    mask = torch.rand(ids.shape) < 0.8
    for mode, compiled in modes.items():
        for dtype in DTYPES.values():
            table = nn.Embedding(100, 264, dtype=dtype)
            noise = Noise(5.0, seed=3)
            clean = table(ids).detach()
            expected = [add_noise(clean, noise, step=step, mask=mask) for step in range(3)]
            table.to(device)
            on_it = mask.to(device)
            with attach(table, noise, calls_per_step=1, tokens=lambda ids, m=on_it: {"mask": m}):
                run = compiled(table)
                for step in range(3):
                    seen = run(ids.to(device)).detach().cpu()
                    assert torch.equal(_bits(seen), _bits(expected[step])), (mode, dtype, step)
                    compared += seen.numel()
    return compared


def _bits(x: Tensor) -> Tensor:
    sizes = {2: torch.int16, 4: torch.int32, 8: torch.int64}
    return x.view(sizes[x.element_size()])


def lookups(device: torch.device, dtype: torch.dtype, shape: tuple[int, int, int]) -> Runs:
    """What is compared for one shape."""
    batch, length, dim = shape
    table = nn.Embedding(VOCABULARY, dim, dtype=dtype, device=device)
    ids = torch.randint(0, VOCABULARY, (batch, length), device=device)
    source, target = torch.empty(2, batch, length, dim, dtype=dtype, device=device)
    with_hook = hooked(table)
    runs: Runs = {
        "copy": lambda: target.copy_(source),
        "lookup": lambda: table(ids),
        "transformers": lambda: with_hook(ids),
    }
    if device.type == "cuda":
        runs["lookup, compiled"] = partial(torch.compile(table), ids)
        model = attached(table, Noise(5.0, seed=0))
        runs["embnoise, compiled"] = partial(torch.compile(model), ids)
        graph = torch.compile(attached(table, Noise(5.0, seed=0)), mode="reduce-overhead")
        runs["embnoise, CUDA graph"] = partial(graph, ids)
    for distribution in DISTRIBUTIONS:
        model = attached(table, Noise(5.0, distribution=distribution, seed=0))
        runs[f"embnoise, {distribution}"] = partial(model, ids)
    pure = Noise(5.0, seed=0)
    runs["add_noise"] = lambda: add_noise(source, pure, step=0)
    prepared = prepare(target, pure, step=0, training=True, tokens=TokenArrays())
    if prepared is not None:
        runs["in place"] = partial(add_, target, pure, prepared)
    return runs


def extra_memory(device: torch.device, shape: tuple[int, int, int]) -> float:
    """The peak of memory of a lookup with noise beyond that of the lookup, over the output."""
    batch, length, dim = shape
    table = nn.Embedding(VOCABULARY, dim, dtype=torch.bfloat16, device=device)
    ids = torch.randint(0, VOCABULARY, (batch, length), device=device)
    peaks = []
    for model in (table, attached(table, Noise(5.0, seed=0))):
        model(ids)  # compiles, and loads what is kept
        torch.cuda.reset_peak_memory_stats(device)
        model(ids)
        peaks.append(torch.cuda.max_memory_allocated(device))
    return (peaks[1] - peaks[0]) / (batch * length * dim * table.weight.element_size())


def training_steps(device: torch.device, quick: bool) -> Runs:
    """A training step of a Llama of 1B parameters, plain, with our noise, and with the hook."""
    dim = 64 if quick else 2048
    config = transformers.LlamaConfig(
        vocab_size=VOCABULARY, hidden_size=dim, intermediate_size=4 * dim,
        num_hidden_layers=2 if quick else 16, num_attention_heads=dim // 64,
        num_key_value_heads=max(1, dim // 256),
    )  # fmt: skip
    model: Any = transformers.LlamaForCausalLM(config)
    model.to(device, torch.bfloat16)
    optimizer = torch.optim.SGD(model.parameters(), lr=1e-4)
    ids = torch.randint(0, VOCABULARY, (2, 64 if quick else 2048), device=device)
    mask = torch.ones_like(ids)

    def step(own: Any) -> None:
        own(input_ids=ids, attention_mask=mask, labels=ids).loss.backward()
        optimizer.step()
        optimizer.zero_grad()

    # Noise is attached once: the first lookups are looked at more closely than later ones.
    noisy = twin(model)
    attach(noisy, Noise(5.0, seed=0), optimizer="manual")
    models = {"plain": model, "embnoise": noisy, "transformers": hook(twin(model))}
    return {name: partial(step, own) for name, own in models.items()}


def twin(model: nn.Module) -> Any:
    """A copy of a model that has the very parameters and buffers of the model."""
    shared = {id(tensor): tensor for tensor in (*model.parameters(), *model.buffers())}
    return copy.deepcopy(model, shared)


def milliseconds(runs: Runs, device: torch.device, rounds: int) -> dict[str, float]:
    """The median time of each on the device."""
    clock = on_device if device.type == "cuda" else elapsed
    return {name: 1e3 * own for name, own in interleaved(runs, rounds, clock=clock).items()}


def on_device(run: Callable[[], object], calls: int) -> float:
    """The seconds of some calls by the device's own clock."""
    first: Any
    last: Any
    first, last = (torch.cuda.Event(enable_timing=True) for _ in range(2))  # type: ignore[no-untyped-call]
    first.record()
    for _ in range(calls):
        run()
    last.record()
    last.synchronize()
    return 1e-3 * float(first.elapsed_time(last))


def plot(results: list[dict[str, Any]], path: Path, title: str) -> None:
    """Time over the lookup's, for each size."""
    import matplotlib as mpl  # noqa: PLC0415, slow to import

    mpl.use("agg")
    from matplotlib import pyplot as plt  # noqa: PLC0415

    dtypes = list(dict.fromkeys(each["dtype"] for each in results))
    figure, axes = plt.subplots(
        1, len(dtypes), figsize=(5 * len(dtypes), 4), sharey=True, squeeze=False
    )
    for axis, dtype in zip(axes[0], dtypes, strict=True):
        own = [each for each in results if each["dtype"] == dtype]
        labels = ["x".join(map(str, each["shape"])) for each in own]
        for name in own[0]["milliseconds"]:
            ratios = [each["milliseconds"][name] / each["milliseconds"]["lookup"] for each in own]
            axis.plot(labels, ratios, marker="o", label=name)
        axis.set(title=dtype, xlabel="B x L x d", yscale="log")
        axis.tick_params(axis="x", rotation=30)
    axes[0][0].set_ylabel("time / time of nn.Embedding")
    axes[0][-1].legend(fontsize="small")
    figure.suptitle(title)
    figure.tight_layout()
    figure.savefig(path, dpi=150)
    plt.close(figure)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--device", default="cuda")
    parser.add_argument("--quick", action="store_true", help="small sizes, few rounds")
    parser.add_argument("--out", type=Path, default=Path(), help="where files are written")
    arguments = parser.parse_args()
    device = torch.device(arguments.device)
    if device.type == "cuda" and not torch.cuda.is_available():
        parser.error("there is no GPU here; --device cpu --quick shows what the script does")
    name = torch.cuda.get_device_name(device) if device.type == "cuda" else "CPU"
    used = kernel_for(device.type)
    kernel = getattr(used, "__name__", type(used).__name__)
    print(f"{name}, PyTorch {torch.__version__}, kernel {kernel}")
    compared = check_bits(device) + check_lookups(device)
    print(f"bits: {compared} elements as on the CPU")
    rounds = 5 if arguments.quick else 50
    results = []
    for dtype, native in DTYPES.items():
        for shape in QUICK_SHAPES if arguments.quick else SHAPES:
            times = milliseconds(lookups(device, native, shape), device, rounds)
            results.append({"dtype": dtype, "shape": shape, "milliseconds": times})
            ratios = "; ".join(f"{key} {own / times['lookup']:.2f}" for key, own in times.items())
            print(f"  {dtype:8} {shape}: lookup {times['lookup']:.4f} ms = 1; {ratios}")
    steps = milliseconds(training_steps(device, arguments.quick), device, max(5, rounds // 5))
    shown = "; ".join(f"{key} {own / steps['plain']:.4f}" for key, own in steps.items())
    print(f"training step: {steps['plain']:.2f} ms = 1; {shown}")
    report: dict[str, Any] = {
        "device": name, "torch": torch.__version__, "kernel": kernel, "lookups": results,
        "training_step_milliseconds": steps,
    }  # fmt: skip
    if device.type == "cuda":
        report["extra_memory"] = extra_memory(device, SHAPES[-1])
        print(f"memory at {SHAPES[-1]}: {report['extra_memory']:.2%} of the output more")
    arguments.out.mkdir(parents=True, exist_ok=True)
    (arguments.out / "gpu.json").write_text(json.dumps(report, indent=2) + "\n")
    plot(results, arguments.out / "gpu.png", f"{name}, PyTorch {torch.__version__}")


if __name__ == "__main__":
    main()
