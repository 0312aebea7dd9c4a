"""What a GPU is asked to do for the noise: launches, and bytes moved and allocated per element.

    python benchmarks/operations.py

Counted on a CPU, where no kernel of Triton runs: what PyTorch dispatches is seen by a dispatch
mode, and what Triton would launch is noted in place of launching it. An operation reads its inputs
and writes its outputs once; a lookup reads as many bytes of the table as it writes. The peak of
memory that the noise needs is at most what is allocated beside the output, all together.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from types import SimpleNamespace
from typing import Any
from unittest import mock

import torch
from torch import Tensor, nn
from torch.utils._python_dispatch import TorchDispatchMode

from embnoise import Noise, linear, neftune
from embnoise_torch import attach
from embnoise_torch.kernels import register_kernel
from embnoise_torch.kernels.any_torch import TorchKernel
from embnoise_torch.kernels.gpu_triton import TritonKernel
from overhead import hooked

SHAPE = BATCH, LENGTH, DIM = 8, 512, 2048
DTYPES = {"bfloat16": torch.bfloat16, "float32": torch.float32}


class Counts(TorchDispatchMode):  # type: ignore[no-untyped-call]
    """Launches, bytes that they move, and bytes that are allocated."""

    def __init__(self) -> None:
        super().__init__()  # type: ignore[no-untyped-call]
        self.reset()

    def reset(self) -> None:
        """Start from 0."""
        self.launches = self.bytes = self.allocated = 0

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        out = func(*args, **(kwargs or {}))
        made = [each for each in (out if isinstance(out, tuple | list) else [out]) if is_real(each)]
        if func.is_view or not made:
            return out
        if not func._schema.is_mutable:
            self.allocated += sum(each.numel() * each.element_size() for each in made)
        if func.__name__.startswith(("empty", "new_empty")):
            return out
        if func is torch.ops.aten.embedding.default:
            self.add(made[0], made[0], args[1])
        else:
            self.add(*made, *(each for each in args if is_real(each)))
        return out

    def add(self, *tensors: Tensor) -> None:
        """One launch that reads or writes these."""
        self.launches += 1
        self.bytes += sum(each.numel() * each.element_size() for each in tensors)


def is_real(value: Any) -> bool:
    return isinstance(value, Tensor) and not value.is_meta


class Noted:
    """A kernel of Triton that is noted and not launched."""

    def __init__(self, counts: Counts, tensors: Callable[..., list[Tensor]]) -> None:
        self.counts = counts
        self.tensors = tensors

    def __getitem__(self, grid: Any) -> Callable[..., None]:
        return lambda *args, **settings: self.counts.add(*self.tensors(*args, **settings))


def rows_moved(*args: Any, **settings: Any) -> list[Tensor]:
    """What ``noisy_rows`` reads and writes; the table of unit values stays in cache."""
    _, ids, plan, _, target, *_ = args
    return [target, target, plan, *([ids] if settings["LOOKUP"] else [])]


def plan_moved(*args: Any, **settings: Any) -> list[Tensor]:
    """What ``plan_rows`` reads and writes."""
    mask, _, _, _, _, _, plan, *_ = args
    return [plan, *([mask] if settings["MASK"] else [])]


def triton_kernel(counts: Counts) -> TritonKernel:
    """The GPU's kernel, with launches that are noted."""
    code: Any = SimpleNamespace(
        noisy_rows=Noted(counts, rows_moved), block_size=lambda *_: 256, OPTIONS={}
    )
    planner: Any = SimpleNamespace(
        plan_rows=Noted(counts, plan_moved), chunk_size=lambda *_, **__: 128, OPTIONS={}
    )
    return TritonKernel(code, planner)


@contextmanager
def kernel_of_the_cpu(kernel: Any) -> Iterator[None]:
    """A context in which tensors on the CPU get their noise from a kernel."""
    register_kernel("cpu", "counted", lambda: kernel, priority=99)
    try:
        yield
    finally:
        register_kernel("cpu", "counted", lambda: None, priority=99)


def attached(table: nn.Embedding, ids: Tensor, counts: Counts, noise: Noise, mask: Any) -> None:
    """A lookup with noise, after a first one."""
    tokens = None if mask is None else (lambda ids: {"mask": mask})
    with attach(table, noise, tokens=tokens, optimizer="manual") as handle:
        table(ids)
        handle.step += 1
        counts.reset()
        # The mode would be taken for a transformation, for which there is another operator.
        with mock.patch("embnoise_torch._compat.is_transformed", return_value=False), counts:
            table(ids)


def main() -> None:
    print(
        f"Forward pass of a lookup, {BATCH} x {LENGTH} x {DIM}: launches, bytes moved per element, "
        "bytes allocated beside the output over its own"
    )
    ids = torch.randint(0, 100, (BATCH, LENGTH))
    mask = torch.ones_like(ids)
    annealed = neftune(alpha=linear(5.0, 0.0, 1000))
    for dtype, native in DTYPES.items():
        table = nn.Embedding(100, DIM, dtype=native)
        rows: dict[str, Counts] = {}
        with (counts := Counts()):
            table(ids)
        rows["nn.Embedding"] = counts
        hook = hooked(table)
        with (counts := Counts()):
            hook(ids)
        rows["with the hook of transformers"] = counts
        for name, noise, given in (
            ("every row full", neftune(), None),
            ("with a mask", neftune(), mask),
            ("with a mask, alpha annealed", annealed, mask),
            ("relative scale", Noise(0.1, scale="relative"), None),
        ):
            for title, make in (("PyTorch", lambda _: TorchKernel()), ("Triton", triton_kernel)):
                counts = Counts()
                with kernel_of_the_cpu(make(counts)):
                    attached(table, ids, counts, noise, given)
                rows[f"embnoise, {title}, {name}"] = counts
        for name, counts in rows.items():
            moved = counts.bytes / (BATCH * LENGTH * DIM)
            output = BATCH * LENGTH * DIM * native.itemsize
            beside = (counts.allocated - output) / output
            print(f"  {dtype:8}  {name:50} {counts.launches:4}  {moved:7.2f}  {beside:8.2%}")


if __name__ == "__main__":
    main()
