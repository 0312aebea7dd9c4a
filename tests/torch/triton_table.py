"""The instructions of the GPU kernel, and what they predict, as the tables of docs/kernels.md.

python -m tests.torch.triton_table
"""

from __future__ import annotations

from typing import NamedTuple

from embnoise_torch.kernels import _codes
from tests.torch import triton_code
from tests.torch.triton_code import TARGETS, TYPES, MachineCode


class Gpu(NamedTuple):
    """What its vendor publishes of a GPU."""

    target: str
    bandwidth: float
    """Bytes per second."""
    lanes: int
    """How many lanes issue an instruction in a clock: 128 in an SM, 64 in a compute unit."""
    clock: float


GPUS = {
    "A100 SXM 80 GB": Gpu("sm_80", 2.04e12, 108 * 128, 1.41e9),
    "H100 SXM": Gpu("sm_90", 3.35e12, 132 * 128, 1.755e9),
    "B200": Gpu("sm_100", 8.0e12, 148 * 128, 1.85e9),
    "RTX 4090": Gpu("sm_89", 1.008e12, 128 * 128, 2.52e9),
    "MI300X": Gpu("gfx942", 5.3e12, 304 * 64, 2.1e9),
}
BYTES = {"bfloat16": 4, "float32": 8}
"""Of a lookup, for each element: read a row and write a row."""


def per_element(code: MachineCode) -> float:
    return code.instructions.total() / code.elements


def main() -> None:
    module = triton_code.code("_triton_code", interpreted=False)
    lookups: dict[tuple[str, str], float] = {}
    for lookup in (False, True):
        print(f"\n| {'Lookup and noise' if lookup else 'Noise in place'} | {' | '.join(TYPES)} |")
        print("| --- " * (1 + len(TYPES)) + "|")
        for target in TARGETS:
            row = []
            for dtype in TYPES:
                code = triton_code.machine_code(
                    module, target, dtype, _codes.UNIFORM, lookup=lookup
                )
                row.append(f"{per_element(code):.1f}")
                if lookup:
                    lookups[target, dtype] = per_element(code)
            print(f"| {target} | {' | '.join(row)} |")
    print("\n| Lookup and noise | dtype | memory, ps | instructions, ps | share |")
    print("| --- | --- | --- | --- | --- |")
    for name, gpu in GPUS.items():
        for dtype, moved in BYTES.items():
            memory = moved / gpu.bandwidth
            issue = lookups[gpu.target, dtype] / (gpu.lanes * gpu.clock)
            figures = f"{1e12 * memory:.2f} | {1e12 * issue:.2f} | {issue / memory:.0%}"
            print(f"| {name} | {dtype} | {figures} |")


if __name__ == "__main__":
    main()
