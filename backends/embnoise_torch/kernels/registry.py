"""The registry of kernels by device."""

from __future__ import annotations

import math
from collections.abc import Callable
from functools import cache
from typing import Protocol

import torch
from torch import Tensor

from embnoise.backend import Noise, Prepared, check_callable, check_integer, format_value
from embnoise_torch import _compat

__all__ = [
    "EagerLookupKernel",
    "Kernel",
    "LookupKernel",
    "PlannedKernel",
    "add_",
    "fused_from",
    "kernel_for",
    "offers",
    "register_kernel",
]

ANY_DEVICE = "any"
"""The device type of a kernel that serves where no other does."""


class Kernel(Protocol):
    """Adds noise in place: ``kernel(x, noise, prepared)``."""

    def __call__(self, x: Tensor, noise: Noise, prepared: Prepared, /) -> None:
        """Add noise to ``x``.

        Args:
            x: Embeddings [B * L, d], contiguous, detached; float16, bfloat16, float32 or float64.
            noise: What noise to add.
            prepared: The shape, step, alpha and token arrays. The step and alpha are numbers; the
                arrays are tensors on any device, or NumPy arrays.
        """


class PlannedKernel(Kernel, Protocol):
    """A kernel in two parts, of which the second takes tensors alone.

    A compiler sees the two: what depends on the state of the noise is in the first one's result.
    """

    def plan(self, x: Tensor, noise: Noise, prepared: Prepared, device: torch.device, /) -> Tensor:
        """The plan of a batch, int32 [B * L, 4].

        Of every token, the bits of its magnitude (float32), its sample, its position, and the step.

        Args:
            x: Embeddings [B * L, d]; on the device "meta" if the scale does not use their RMS.
            noise: What noise to add.
            prepared: The shape, step, alpha and token arrays.
            device: Where the plan is to be.
        """

    def noisy(self, x: Tensor, plan: Tensor, noise: Noise, /) -> Tensor:
        """Embeddings [n, d] with their noise, in a new tensor. It must be traceable."""


class LookupKernel(PlannedKernel, Protocol):
    """A kernel that can add the noise to embeddings on their way out of the table."""

    def lookup(self, table: Tensor, ids: Tensor, plan: Tensor, noise: Noise, /) -> Tensor:
        """Rows of an embedding table [V, d], of any strides, with their noise: [n, d].

        Args:
            table: The embedding table.
            ids: int32 or int64 [n], contiguous, on the table's device.
            plan: int32 [n, 4].
            noise: What noise to add.
        """


class EagerLookupKernel(Kernel, Protocol):
    """A kernel that can do the same in eager mode alone, without a plan."""

    fused_from: int
    """From how many bytes of the result on this is better than a lookup and noise in place."""

    def look_up_(
        self, x: Tensor, table: Tensor, ids: Tensor, noise: Noise, prepared: Prepared, /
    ) -> None:
        """Write rows of an embedding table [V, d] with their noise to ``x``.

        Args:
            x: [n, d], contiguous, of the table's dtype.
            table: The embedding table, of any strides.
            ids: int32 or int64 [n], contiguous, on the table's device; perhaps out of range.
            noise: What noise to add; it does not use the RMS of the embeddings.
            prepared: The shape, step, alpha and token arrays.

        Raises:
            IndexError: An id is out of range.
        """


_KERNELS: dict[str, list[tuple[int, str, Callable[[], Kernel | None]]]] = {}


def register_kernel(
    device_type: str, name: str, load: Callable[[], Kernel | None], *, priority: int = 0
) -> None:
    """Register a kernel for a type of device.

    Args:
        device_type: As in ``torch.device.type``, such as ``"cuda"``; ``"any"`` for a kernel that
            serves where no other does.
        name: What the kernel is called, in ``repr`` and tests.
        load: Returns the kernel, or ``None`` if it cannot be used here (a library is missing,
            say). It is called once, when a tensor of that device gets noise for the first time.
        priority: Of several kernels for a device that can be used, the one with the highest
            priority is taken.

    Raises:
        TypeError: An argument of the wrong type.

    Example:
        >>> from embnoise_torch.kernels import kernel_for, register_kernel
        >>> register_kernel("my_device", "mine", lambda: None)  # not usable here
        >>> type(kernel_for("my_device")).__name__
        'TorchKernel'
    """
    _check_name("device_type", device_type)
    _check_name("name", name)
    check_callable("load", load)
    priority = check_integer("priority", priority)
    kernels = _KERNELS.setdefault(device_type, [])
    kernels[:] = [each for each in kernels if each[1] != name]
    kernels.append((priority, name, load))
    kernels.sort(key=lambda each: -each[0])
    kernel_for.cache_clear()


def _check_name(argument: str, value: object) -> None:
    if not isinstance(value, str):
        raise TypeError(f"{argument} must be a string, got {format_value(value)}")


@cache
def kernel_for(device_type: str) -> Kernel:
    """The kernel that tensors of a device type get their noise from.

    Raises:
        TypeError: ``device_type`` is not a string.
    """
    _check_name("device_type", device_type)
    for _, _, load in (*_KERNELS.get(device_type, ()), *_KERNELS[ANY_DEVICE]):
        kernel: Kernel | None = load()
        if kernel is not None:
            return kernel
    raise AssertionError(f"the kernel for {ANY_DEVICE!r} device serves everywhere")


@_compat.constant_in_dynamo
def offers(device_type: str, part: str) -> bool:
    """Whether the kernel of a type of device has a method of this name: "noisy" or "lookup"."""
    return hasattr(kernel_for(device_type), part)


@_compat.constant_in_dynamo
def fused_from(device_type: str, *, compiling: bool) -> float:
    """From how many bytes of the result on a lookup gets its noise on the way out of the table.

    Infinity if the kernel of the type of device cannot do that.
    """
    kernel = kernel_for(device_type)
    if hasattr(kernel, "lookup"):
        return 1
    return math.inf if compiling else getattr(kernel, "fused_from", math.inf)


def add_(x: Tensor, noise: Noise, prepared: Prepared) -> None:
    """Add noise to ``x`` in place, unseen by autograd.

    Args:
        x: Embeddings of the shape in ``prepared``, with any strides.
        noise: What noise to add.
        prepared: What ``prepare`` returned.
    """
    x = x.detach()
    if not x.is_contiguous():
        noisy = x.contiguous()
        add_(noisy, noise, prepared)
        x.copy_(noisy)
        return
    flat = x.view(-1, prepared.shape[2])
    kernel_for(x.device.type)(flat, noise, prepared)
