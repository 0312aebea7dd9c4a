"""The Triton kernels, proved without a GPU: what their machine code is made of.

Their bits are tested with the other kernels', in Triton's interpreter: ``torch-triton``, and
``test_planned.py``.
"""

import itertools

import pytest

pytest.importorskip("triton", reason="Triton has no wheel for this platform")

from embnoise_torch.kernels import _codes
from tests.torch import triton_code
from tests.torch.triton_code import TARGETS, TYPES

# Instructions for an element, loads, stores and addresses included. By benchmarks/gpus.py, an H100
# issues 35 in the time in which it reads and writes a bfloat16.
MOST = {"bfloat16": 14, "float16": 14, "float32": 12.5, "float64": 18.5}
MOST_REGISTERS = 96
# How many times a thread loads 16 bytes of each plane.
LOADS = {"bfloat16": 1, "float16": 1, "float32": 2, "float64": 2}


@pytest.fixture(scope="module")
def module():
    return triton_code.code("_triton_code", interpreted=False)


@pytest.fixture(scope="module")
def compiled(module):
    found = {}

    def get(*key, lookup):
        if (key, lookup) not in found:
            found[key, lookup] = triton_code.machine_code(module, *key, lookup=lookup)
        return found[key, lookup]

    return get


# What is compiled by default; the rest is a sweep.
_FEW = {
    *[(target, "bfloat16", True) for target in TARGETS if target != "sm_89"],
    ("sm_90", "float32", True),
    ("sm_90", "bfloat16", False),
    ("sm_90", "float64", False),
}


def kinds(*targets):
    """Each kernel for these targets, a test for each."""
    return pytest.mark.parametrize(
        ("target", "dtype", "lookup"),
        [
            pytest.param(
                *kind,
                id="-".join([*kind[:2], "lookup" if kind[2] else "in_place"]),
                marks=() if kind in _FEW else pytest.mark.sweep,
            )
            for kind in itertools.product(targets, TYPES, [False, True])
        ],
    )


NVIDIA = [name for name in TARGETS if name.startswith("sm_")]


@kinds(*NVIDIA)
def test_instructions_are_within_the_budget(target, dtype, lookup, compiled):
    code = compiled(target, dtype, _codes.UNIFORM, lookup=lookup)
    assert code.instructions.total() <= MOST[dtype] * code.elements
    assert code.registers <= MOST_REGISTERS


@kinds(*TARGETS)
def test_no_spills_and_no_shared_memory(target, dtype, lookup, compiled):
    check_no_spills(compiled(target, dtype, _codes.UNIFORM, lookup=lookup))


@kinds("sm_90", "gfx942")
@pytest.mark.parametrize("distribution", ["RADEMACHER", "TABLE"])
def test_no_spills_with_other_distributions(target, dtype, lookup, distribution, compiled):
    """They differ in what comes after the random words, which is the same for all targets."""
    check_no_spills(compiled(target, dtype, getattr(_codes, distribution), lookup=lookup))


def check_no_spills(code):
    assert not code.spilled
    assert not code.count(lambda name: name.startswith(("LDS", "STS", "BAR", "SHFL", "ds_")))


@kinds(*NVIDIA)
def test_embeddings_are_loaded_and_stored_128_bits_at_a_time(target, dtype, lookup, compiled):
    code = compiled(target, dtype, _codes.UNIFORM, lookup=lookup)
    wide = 8 * LOADS[dtype]
    assert code.count(lambda name: name.startswith("LDG") and name.endswith("128")) == wide
    # The four numbers of the plan and the id.
    assert code.count(lambda name: name.startswith("LDG")) == wide + 4 + lookup
    assert code.count(lambda name: name.startswith("STG")) == wide
    assert code.count(lambda name: name.startswith("STG") and name.endswith("128")) == wide


@kinds("gfx942")
def test_embeddings_are_loaded_and_stored_128_bits_at_a_time_on_amd(
    target, dtype, lookup, compiled
):
    code = compiled(target, dtype, _codes.UNIFORM, lookup=lookup)
    for kind in ("load", "store"):
        # What copies a token without noise is counted too.
        assert code.instructions[f"global_{kind}_dwordx4"] == (8 + lookup) * LOADS[dtype]


@kinds("sm_90")
def test_the_sum_is_rounded_once_and_to_nearest_even(target, dtype, lookup, compiled):
    """What the interpreter shows with a rounding of its own."""
    if dtype != "bfloat16":
        pytest.skip("it is the rounding to bfloat16 that the interpreter does not have")
    code = compiled(target, dtype, _codes.UNIFORM, lookup=lookup)
    assert "cvt.rn.bf16" in code.text
    assert not set(code.text.split()) & {"cvt.rz.bf16.f32;", "cvt.rz.bf16x2.f32;"}
    assert code.count(lambda name: name.startswith(("FADD", "FMUL"))) <= 4


@pytest.mark.parametrize("target", TARGETS)
@pytest.mark.parametrize("documents", [False, True])
def test_the_plan_compiles(target, documents):
    planner = triton_code.code("_triton_plan", interpreted=False)
    triton_code.compile_plan(planner, target, documents=documents)
