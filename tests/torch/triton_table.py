"""The instructions of the GPU kernel, and what they predict, as the tables of docs/kernels.md.

python -m tests.torch.triton_table
"""

from __future__ import annotations

from benchmarks.gpus import GPUS
from embnoise_torch.kernels import _codes
from tests.torch import triton_code
from tests.torch.triton_code import TARGETS, TYPES, MachineCode

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
            issue = lookups[gpu.target, dtype] / gpu.lanes_per_second
            figures = f"{1e12 * memory:.2f} | {1e12 * issue:.2f} | {issue / memory:.0%}"
            print(f"| {name} | {dtype} | {figures} |")


if __name__ == "__main__":
    main()
