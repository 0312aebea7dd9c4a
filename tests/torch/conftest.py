"""Fixtures for several files."""

import pytest


@pytest.fixture
def registry_as_it_was():
    """Kernels that a test registers are forgotten after it."""
    from embnoise_torch.kernels import kernel_for, registry  # noqa: PLC0415, PyTorch may be missing

    before = {device: list(kernels) for device, kernels in registry._KERNELS.items()}
    yield
    registry._KERNELS.clear()
    registry._KERNELS.update(before)
    kernel_for.cache_clear()
