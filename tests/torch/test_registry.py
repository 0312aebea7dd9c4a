"""The registry of kernels: which one a device gets, and how to add one."""

import sys

import pytest
import torch

from embnoise import neftune
from embnoise_torch import add_noise
from embnoise_torch.kernels import kernel_for, register_kernel
from embnoise_torch.kernels.any_torch import TorchKernel
from embnoise_torch.kernels.cpu_numpy import add_with_numpy

pytestmark = pytest.mark.usefixtures("registry_as_it_was")


def test_the_kernels_that_there_are():
    assert type(kernel_for("cpu")).__name__ == "NumbaKernel"
    for device in ("mps", "xpu", "meta"):
        assert isinstance(kernel_for(device), TorchKernel)


def test_a_gpu_gets_the_kernel_of_triton_if_that_is_installed(monkeypatch):
    pytest.importorskip("triton")
    assert type(kernel_for("cuda")).__name__ == "TritonKernel"
    monkeypatch.setitem(sys.modules, "embnoise_torch.kernels._triton_code", None)
    monkeypatch.delattr("embnoise_torch.kernels._triton_code", raising=False)
    kernel_for.cache_clear()
    assert isinstance(kernel_for("cuda"), TorchKernel)


def test_a_kernel_of_a_third_party():
    """It takes one call to register one, and it is used at once."""
    calls = []

    def mine(x, noise, prepared):
        calls.append((tuple(x.shape), prepared.step, prepared.alpha))
        add_with_numpy(x, noise, prepared)

    x = torch.randn(2, 3, 8)
    expected = add_noise(x, neftune(), step=7)
    register_kernel("cpu", "mine", lambda: mine, priority=99)
    assert torch.equal(add_noise(x, neftune(), step=7), expected)
    assert calls == [((6, 8), 7, 5.0)]


def test_a_kernel_that_cannot_be_used_here_is_passed_over():
    register_kernel("cpu", "mine", lambda: None, priority=99)
    assert type(kernel_for("cpu")).__name__ == "NumbaKernel"


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda: kernel_for(5), "device_type must be a string, got 5"),
        (lambda: register_kernel(5, "mine", TorchKernel), "device_type must be a string, got 5"),
        (lambda: register_kernel("cpu", 5, TorchKernel), "name must be a string, got 5"),
        (lambda: register_kernel("cpu", "mine", 5), "load must be a callable, got 5"),
        (
            lambda: register_kernel("cpu", "mine", TorchKernel, priority="a"),
            "priority must be an integer, got 'a'",
        ),
    ],
)
def test_what_is_refused(call, message):
    with pytest.raises(TypeError, match=message):
        call()


def test_the_highest_priority_is_taken_and_a_name_is_registered_once():
    register_kernel("toy", "slow", lambda: add_with_numpy)
    assert kernel_for("toy") is add_with_numpy
    register_kernel("toy", "fast", TorchKernel, priority=1)
    assert isinstance(kernel_for("toy"), TorchKernel)
    register_kernel("toy", "fast", lambda: None, priority=1)
    assert kernel_for("toy") is add_with_numpy
