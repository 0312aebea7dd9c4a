"""The CPU kernels: formats, threads, forks, memory, and life without Numba."""

import contextlib
import subprocess
import sys
import threading

import numpy as np
import pytest
import torch
from numba import njit

from embnoise import neftune
from embnoise_torch import add_noise
from embnoise_torch.kernels import _numba_code, _threads, cpu_numba
from embnoise_torch.kernels._threads import run_parallel
from embnoise_torch.kernels.cpu_numpy import add_with_numpy
from tests.backends import with_kernel
from tests.torch.allocations import memory_of_the_noise


@pytest.fixture
def two_threads(monkeypatch):
    """Two threads for what one would do, also where PyTorch has one."""
    monkeypatch.setattr(cpu_numba, "_SERIAL", 2**17)
    monkeypatch.setattr(torch, "get_num_threads", lambda: 2)


@pytest.fixture(params=["PyTorch's", "ours"])
def threads(request, monkeypatch):
    """Whose threads share work."""
    if request.param == "ours":
        monkeypatch.setattr(_threads, "_team", lambda: None)
    elif _threads._team() is None:
        pytest.skip("PyTorch is built without OpenMP")


@njit
def _halves(values, halves, back):
    for i in range(values.size):
        halves[i] = _numba_code._to_half(values[i])
        back[i] = _numba_code._from_half(halves[i])


@njit
def _bfloats(values, bfloats):
    for i in range(values.size):
        bfloats[i] = np.int16(_numba_code._round_to_bfloat(values[i]) >> np.uint32(16))


def awkward_floats():
    """All float16 and bfloat16 values, what lies half-way between them, and its neighbors."""
    halves = np.arange(2**16, dtype=np.uint16).view(np.float16).astype(np.float32)
    bfloats = (np.arange(2**16, dtype=np.uint32) << 16).view(np.float32)
    values = []
    for every in (halves, bfloats):
        exact = np.sort(every[np.isfinite(every)])
        middle = exact[:-1] / 2 + exact[1:] / 2
        values += [exact, middle, np.nextafter(middle, np.inf), np.nextafter(middle, -np.inf)]
    special = np.array([np.inf, -np.inf, np.nan, 65519.996, 65520, 2**-25, 3e38], np.float32)
    return np.concatenate([*values, special]).astype(np.float32)


@pytest.mark.filterwarnings("ignore:overflow encountered in cast:RuntimeWarning")
def test_float16_conversions_are_those_of_numpy():
    values = awkward_floats()
    halves, back = np.empty(values.size, np.uint16), np.empty(values.size, np.float32)
    _halves(values, halves, back)
    expected = values.astype(np.float16)
    number = ~np.isnan(values)
    assert (halves[number] == expected.view(np.uint16)[number]).all()
    assert np.isnan(halves.view(np.float16)[~number]).all()
    assert (back[number] == expected.astype(np.float32)[number]).all()
    assert np.isnan(back[~number]).all()


def test_bfloat16_conversions_are_those_of_torch():
    values = awkward_floats()
    bfloats = np.empty(values.size, np.int16)
    _bfloats(values, bfloats)
    expected = torch.from_numpy(values).to(torch.bfloat16).view(torch.int16).numpy()
    number = ~np.isnan(values)
    assert (bfloats[number] == expected[number]).all()
    assert torch.from_numpy(bfloats[~number]).view(torch.bfloat16).isnan().all()


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.float32, torch.float64])
def test_infinities_and_nan_stay(dtype):
    x = torch.tensor([[[float("inf"), -float("inf"), float("nan"), 1.0]]], dtype=dtype)
    for noisy in (add_noise(x, neftune(), step=0), _numpy_noise(x)):
        assert noisy[0, 0, :2].tolist() == [float("inf"), -float("inf")]
        assert noisy[0, 0, 2].isnan()
        assert noisy[0, 0, 3].isfinite()


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
@pytest.mark.parametrize("distribution", ["uniform", "rademacher", "gaussian"])
def test_all_values_of_16_bits_at_both_places_of_a_pair(dtype, distribution):
    values = torch.arange(-(2**15), 2**15, dtype=torch.int16).view(dtype)
    values = torch.cat([values, values[1:], values[:1]]).reshape(1, 64, 2048)
    noise = neftune(30.0, distribution=distribution)
    noisy = add_noise(values, noise, step=0)
    with with_kernel(add_with_numpy)():
        expected = add_noise(values, noise, step=0)
    assert torch.equal(noisy.isnan(), values.isnan())
    assert torch.equal(noisy[~noisy.isnan()], expected[~noisy.isnan()])


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.float32])
def test_rows_of_every_width_keep_to_themselves(dtype):
    """Planes that begin at odd elements, are short, or have no channel at all."""
    noise = neftune(100.0, distribution="rademacher")
    for dim in (*range(1, 35), 63, 65, 127, 129, 257):
        x = torch.zeros(2, 3, dim, dtype=dtype)
        noisy = add_noise(x, noise, step=0)
        with with_kernel(add_with_numpy)():
            assert torch.equal(noisy, add_noise(x, noise, step=0)), dim


def test_magnitudes_below_the_normal_range():
    x, noise = torch.zeros(1, 4, 40), neftune(1e-36, scale="absolute")
    with with_kernel(add_with_numpy)():
        expected = add_noise(x, noise, step=0)
    assert expected.any()
    assert torch.equal(add_noise(x, noise, step=0), expected)


def _numpy_noise(x):
    with with_kernel(add_with_numpy)():
        return add_noise(x, neftune(), step=0)


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.float32, torch.float64])
@pytest.mark.usefixtures("two_threads")
def test_large_tensors_in_threads_and_blocks(dtype):
    """Larger than one chunk, one block or one row of any kernel, and not a multiple of any."""
    x = torch.randn(3, 701, 257).to(dtype)
    mask = torch.rand(3, 701) > 0.3
    noise = neftune(100.0, distribution="gaussian")
    first = add_noise(x, noise, step=0, mask=mask)
    assert x.numel() > 4 * cpu_numba._CHUNK
    with with_kernel(add_with_numpy)():
        assert torch.equal(add_noise(x, noise, step=0, mask=mask), first)


@pytest.mark.usefixtures("two_threads")
def test_several_threads_at_once():
    x, noise = torch.zeros(4, 256, 256), neftune()
    expected = add_noise(x, noise, step=0)
    right = []

    def work():
        right.extend(torch.equal(add_noise(x, noise, step=0), expected) for _ in range(5))

    threads = [threading.Thread(target=work) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert right == [True] * 20


def _shared_out(size):
    """The items of a list that three threads took, sorted."""
    left, done = list(range(size)), []

    def work():
        while left:
            with contextlib.suppress(IndexError):
                done.append(left.pop())

    run_parallel(work, threads=3)
    return sorted(done)


@pytest.mark.usefixtures("threads")
def test_threads_share_the_work():
    assert _shared_out(1000) == list(range(1000))


FORK = """
import os, threading
from embnoise_torch.kernels._threads import run_parallel
def meet():
    barrier = threading.Barrier(2)
    run_parallel(lambda: barrier.wait(10), threads=2)
meet()
child = os.fork()
if child == 0:
    try:
        meet()
    except threading.BrokenBarrierError:
        os._exit(1)
    os._exit(0)
print(os.waitpid(child, 0)[1])
"""


def test_threads_after_a_fork():
    # A process of its own: other libraries that the tests import do not bear a fork.
    ran = subprocess.run([sys.executable, "-c", FORK], capture_output=True, text=True, check=True)
    assert ran.stdout.strip() == "0"


@pytest.mark.usefixtures("threads")
@pytest.mark.parametrize("main", [True, False])
def test_an_error_in_a_thread_is_raised(main):
    barrier = threading.Barrier(2)

    def work():
        barrier.wait(10)
        if (threading.current_thread() is threading.main_thread()) is main:
            raise KeyboardInterrupt if main else RuntimeError

    with pytest.raises(KeyboardInterrupt if main else RuntimeError):
        run_parallel(work, threads=2)


SAME = """
import os, threading, torch
from embnoise_torch.kernels._threads import run_parallel
torch.set_num_threads(2)
torch.rand(1000, 1000).mul(2)
before = set(os.listdir("/proc/self/task"))
barrier = threading.Barrier(2)
run_parallel(lambda: barrier.wait(10), threads=2)
print(len(set(os.listdir("/proc/self/task")) - before))
"""


@pytest.mark.skipif(sys.platform != "linux", reason="/proc lists the threads")
def test_the_threads_are_those_of_pytorch():
    ran = subprocess.run([sys.executable, "-c", SAME], capture_output=True, text=True, check=True)
    assert ran.stdout.strip() == "0"


def test_without_numba_installed():
    code = (
        "import sys; sys.modules['numba'] = None\n"
        "import torch, embnoise, embnoise_torch\n"
        "x, noise = torch.zeros(2, 3, 8), embnoise.neftune()\n"
        "print(embnoise_torch.add_noise(x, noise, step=0).tolist())\n"
    )
    ran = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert ran.stdout.strip() == str(add_noise(torch.zeros(2, 3, 8), neftune(), step=0).tolist())


def test_importing_the_adapter_does_not_import_numba_or_transformers():
    code = "import sys, embnoise_torch; print({'numba', 'transformers'} & set(sys.modules))"
    ran = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert ran.stdout.strip() == "set()"


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_the_noise_step_takes_under_2_percent_of_the_output(dtype):
    table = torch.nn.Embedding(50, 2048, dtype=dtype)
    assert memory_of_the_noise(table, torch.randint(0, 50, (8, 256))) < 0.02
