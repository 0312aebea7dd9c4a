"""Kernels: noise in place on a tensor, with the best kernel that its device has.

Each module of this package registers one kernel; see ``docs/kernels.md`` for how to add one. All
kernels give the same bits.
"""

from __future__ import annotations

from importlib import import_module
from pkgutil import iter_modules

from embnoise_torch.kernels._plans import device_plan, host_plan
from embnoise_torch.kernels.registry import Kernel, add_, kernel_for, register_kernel

__all__ = ["Kernel", "add_", "device_plan", "host_plan", "kernel_for", "register_kernel"]

for _module in iter_modules(__path__):
    if not _module.name.startswith("_"):
        import_module(f"{__name__}.{_module.name}")
