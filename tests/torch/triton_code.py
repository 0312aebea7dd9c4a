"""The Triton kernel on a machine without a GPU: interpreted, or compiled and not run."""

from __future__ import annotations

import importlib.util
import os
import re
import subprocess
import tempfile
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from types import ModuleType
from typing import Any
from unittest import mock

import numpy as np
import triton
from triton.backends.compiler import GPUTarget
from triton.compiler import ASTSource

from embnoise_torch.kernels import gpu_triton

TYPES = {"bfloat16": ("bf16", 2), "float16": ("fp16", 2), "float32": ("fp32", 4),
         "float64": ("fp64", 8)}  # fmt: skip
"""What Triton calls a dtype, and its size in bytes."""
TARGETS = {
    "sm_80": GPUTarget("cuda", 80, 32),
    "sm_89": GPUTarget("cuda", 89, 32),
    "sm_90": GPUTarget("cuda", 90, 32),
    "sm_100": GPUTarget("cuda", 100, 32),
    "gfx942": GPUTarget("hip", "gfx942", 64),
}
_BINARIES = Path(triton.__file__).parent / "backends" / "nvidia" / "bin"


def code(name: str, *, interpreted: bool) -> ModuleType:
    """A module of the kernel once more, with functions that are interpreted, or can be compiled.

    Triton decides when a function is defined.

    Args:
        name: ``"_triton_code"`` or ``"_triton_plan"``.
        interpreted: Whether to interpret them.
    """
    path = Path(gpu_triton.__file__).with_name(f"{name}.py")
    spec = importlib.util.spec_from_file_location(f"embnoise{name}", path)
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    with mock.patch.dict(os.environ, TRITON_INTERPRET=str(int(interpreted))):
        spec.loader.exec_module(module)
    return module


def interpreted_kernel() -> gpu_triton.TritonKernel:
    """The kernel in Triton's interpreter, for tensors on the CPU."""
    names = ("_triton_code", "_triton_plan")
    return gpu_triton.TritonKernel(*(code(name, interpreted=True) for name in names))


@contextmanager
def rounding_as_gpus_do() -> Iterator[None]:
    """Triton's interpreter truncates float32 to bfloat16; GPUs round to nearest even.

    That compiled code rounds is tested with the machine code.
    """
    from triton.language import core as tl  # noqa: PLC0415
    from triton.runtime.interpreter import InterpreterBuilder, TensorHandle  # noqa: PLC0415

    truncate = InterpreterBuilder.cast_impl

    def cast(self: Any, source: Any, kind: Any) -> Any:
        if (source.dtype.scalar, kind.scalar) != (tl.float32, tl.bfloat16):
            return truncate(self, source, kind)
        bits = source.data.view(np.uint32)
        rounded = (bits + 0x7FFF + ((bits >> 16) & 1)) >> 16
        rounded = np.where(np.isnan(source.data), 0x7FC0, rounded)
        return TensorHandle(rounded.astype(np.uint16), kind.scalar)

    # NumPy warns of words that wrap, where they are scalars.
    with np.errstate(over="ignore"), mock.patch.object(InterpreterBuilder, "cast_impl", cast):
        yield


@dataclass(frozen=True)
class MachineCode:
    """What a kernel was compiled to.

    Attributes:
        instructions: How often each instruction occurs where a token gets noise. There are no
            loops. What copies a token without noise is not counted.
        elements: How many elements a thread takes.
        registers: How many registers a thread takes.
        spilled: Whether some are kept in memory.
        text: The code in the form before the last: PTX or that of LLVM.
    """

    instructions: Counter[str]
    elements: int
    registers: int
    spilled: bool
    text: str

    def count(self, matches: Callable[[str], bool]) -> int:
        return sum(n for name, n in self.instructions.items() if matches(name))


def machine_code(
    module: ModuleType, target: str, dtype: str, distribution: int, *, lookup: bool
) -> MachineCode:
    """Compile the kernel for a GPU, as a call with aligned tensors and a large d would."""
    name, itemsize = TYPES[dtype]
    gpu = TARGETS[target]
    block = module.block_size(4096, itemsize, gpu.warp_size)
    constants = {
        "channel_stride": 1,
        "DISTRIBUTION": distribution,
        "LOOKUP": lookup,
        "IN_PLACE": not lookup,
        "BLOCK": block,
    }
    numbers = ("rows", "row_stride", "key0", "key1", "dim", "blocks")
    types = {
        "source": f"*{name}",
        "ids": "*i64",
        "plan": "*i32",
        "table": "*fp32",
        "target": f"*{name}",
        **dict.fromkeys(numbers, "i32"),
        **dict.fromkeys(constants, "constexpr"),
    }
    signature = {name: types[name] for name in module.noisy_rows.arg_names}
    aligned = ("source", "ids", "plan", "table", "target", "row_stride", "dim", "blocks")
    places = {
        (place,): [["tt.divisibility", 16]]
        for place, name in enumerate(signature)
        if name in aligned
    }
    source = ASTSource(module.noisy_rows, signature, constants, places)
    compiled = triton.compile(source, target=gpu, options=module.OPTIONS)
    elements = 8 * block // gpu.warp_size
    if gpu.backend == "hip":
        return _of_amd(compiled.asm["amdgcn"], elements)
    return _of_nvidia(compiled.asm["cubin"], compiled.asm["ptx"], elements)


def compile_plan(module: ModuleType, target: str, *, documents: bool) -> None:
    """Compile the kernel that plans a batch, with everything that it can read.

    Raises:
        triton.CompilationError: It cannot be compiled.
    """
    constants = {
        **dict.fromkeys(("MASK", "SEGMENTS", "NUMBERED", "POSITIONS", "WHERE"), True),
        **dict.fromkeys(("BY_LENGTH", "ANTITHETIC"), True),
        "SEGMENTS": documents,
        "SAMPLES": 2,
        "CHUNK": module.chunk_size(4096, documents=documents),
    }
    types = {
        **dict.fromkeys(("mask", "segments", "positions", "samples"), "*i64"),
        "where": "*i1",
        "magnitudes": "*fp32",
        "plan": "*i32",
        **dict.fromkeys(("first_sample", "sample_step"), "i64"),
        **dict.fromkeys(("step", "length"), "i32"),
        **dict.fromkeys(constants, "constexpr"),
    }
    signature = {name: types[name] for name in module.plan_rows.arg_names}
    source = ASTSource(module.plan_rows, signature, constants)
    triton.compile(source, target=TARGETS[target], options=module.OPTIONS)


def _of_nvidia(binary: bytes, ptx: str, elements: int) -> MachineCode:
    with tempfile.NamedTemporaryFile(suffix=".cubin") as file:
        file.write(binary)
        file.flush()
        listing = _output("nvdisasm", file.name)
        usage = _output("cuobjdump", "--dump-resource-usage", file.name)
    found = []
    for block in re.split(r"^\.L\w+:|\bEXIT\b.*|\bBRA\b.*", listing, flags=re.MULTILINE):
        names = re.findall(r"/\*[0-9a-f]{4,}\*/\s+(?:@!?U?P\d+ )?([A-Z][A-Z0-9_.]*)", block)
        kinds = {name.partition(".")[0] for name in names}
        if not kinds >= {"LDG", "STG"} or kinds & {"FFMA", "DFMA"}:
            found += names
    numbers = {key: int(value) for key, value in re.findall(r"(REG|STACK|LOCAL):(\d+)", usage)}
    return MachineCode(
        Counter(name for name in found if name != "NOP"),
        elements,
        numbers["REG"],
        bool(numbers["STACK"] or numbers["LOCAL"]),
        ptx,
    )


def _output(program: str, *arguments: str) -> str:
    ran = subprocess.run(
        [_BINARIES / program, *arguments], capture_output=True, text=True, check=True
    )
    return ran.stdout


def _of_amd(text: str, elements: int) -> MachineCode:
    found = re.findall(r"^\s+((?:v|s|ds|global|buffer|flat|scratch)_\w+)", text, re.MULTILINE)
    registers = re.search(r"\.vgpr_count:\s*(\d+)", text)
    spilled = re.search(r"\.vgpr_spill_count:\s*(\d+)", text)
    assert registers is not None
    assert spilled is not None
    return MachineCode(Counter(found), elements, int(registers[1]), int(spilled[1]) > 0, text)
