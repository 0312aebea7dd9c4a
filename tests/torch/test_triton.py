"""The Triton kernels, proved without a GPU: what their machine code is made of.

Their bits are tested with the other kernels', in Triton's interpreter: ``torch-triton``, and
``test_gpu_lookup.py``.
"""

import itertools

import pytest

pytest.importorskip("triton", reason="Triton has no wheel for this platform")

from embnoise_torch.kernels import _codes
from tests.torch import triton_code
from tests.torch.triton_code import TARGETS, TYPES

# Instructions for an element, loads, stores and addresses included. An H100 issues 29.6e12 of them
# in the second in which it moves 3.0e12 bytes: 39 while a bfloat16 is read and written.
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


nvidia = pytest.mark.parametrize("target", [name for name in TARGETS if name.startswith("sm_")])
dtypes = pytest.mark.parametrize("dtype", TYPES)
ways = pytest.mark.parametrize("lookup", [False, True], ids=["in_place", "lookup"])


@nvidia
@dtypes
@ways
def test_instructions_are_within_the_budget(target, dtype, lookup, compiled):
    code = compiled(target, dtype, _codes.UNIFORM, lookup=lookup)
    assert code.instructions.total() <= MOST[dtype] * code.elements
    assert code.registers <= MOST_REGISTERS


@pytest.mark.parametrize(
    ("target", "distribution"),
    [
        *[(target, "UNIFORM") for target in TARGETS],
        # They differ in what comes after the random words, which is the same for all targets.
        *itertools.product(["sm_90", "gfx942"], ["RADEMACHER", "TABLE"]),
    ],
)
@dtypes
@ways
def test_no_spills_and_no_shared_memory(target, distribution, dtype, lookup, compiled):
    code = compiled(target, dtype, getattr(_codes, distribution), lookup=lookup)
    assert not code.spilled
    assert not code.count(lambda name: name.startswith(("LDS", "STS", "BAR", "SHFL", "ds_")))


@nvidia
@dtypes
@ways
def test_embeddings_are_loaded_and_stored_128_bits_at_a_time(target, dtype, lookup, compiled):
    code = compiled(target, dtype, _codes.UNIFORM, lookup=lookup)
    wide = 8 * LOADS[dtype]
    assert code.count(lambda name: name.startswith("LDG") and name.endswith("128")) == wide
    # The four numbers of the plan and the id.
    assert code.count(lambda name: name.startswith("LDG")) == wide + 4 + lookup
    assert code.count(lambda name: name.startswith("STG")) == wide
    assert code.count(lambda name: name.startswith("STG") and name.endswith("128")) == wide


@dtypes
def test_embeddings_are_loaded_and_stored_128_bits_at_a_time_on_amd(dtype, compiled):
    code = compiled("gfx942", dtype, _codes.UNIFORM, lookup=False)
    for kind in ("load", "store"):
        assert code.instructions[f"global_{kind}_dwordx4"] == 8 * LOADS[dtype]


@nvidia
def test_the_sum_is_rounded_once_and_to_nearest_even(target, compiled):
    """What the interpreter shows with a rounding of its own."""
    code = compiled(target, "bfloat16", _codes.UNIFORM, lookup=True)
    assert "cvt.rn.bf16" in code.text
    assert not set(code.text.split()) & {"cvt.rz.bf16.f32;", "cvt.rz.bf16x2.f32;"}
    assert code.count(lambda name: name.startswith(("FADD", "FMUL"))) <= 4


@pytest.mark.parametrize("target", TARGETS)
@pytest.mark.parametrize("documents", [False, True])
def test_the_plan_compiles(target, documents):
    planner = triton_code.code("_triton_plan", interpreted=False)
    triton_code.compile_plan(planner, target, documents=documents)
