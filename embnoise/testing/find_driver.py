"""Finding the driver of a framework by its name, or by a layer of it."""

from __future__ import annotations

import sys
from importlib import import_module
from importlib.metadata import EntryPoint, entry_points
from types import ModuleType
from typing import Any

from embnoise._validation import check_choice, did_you_mean
from embnoise.testing.drivers import Driver, DriverBase, completed, signature_of
from embnoise.testing.numpy_driver import driver as numpy_driver

__all__ = ["adapter_of", "adapters", "driver_of", "guessed_driver"]

_FRAMEWORKS = {"keras": "keras", "torch": "torch", "flax": "jax", "equinox": "jax", "jax": "jax",
               "numpy": "numpy", "embnoise": "numpy"}  # fmt: skip
"""The driver for layers from each package; Keras first, since on PyTorch its layers are both."""


def adapters() -> dict[str, EntryPoint]:
    """The installed adapters by name: the entry points of the group ``embnoise.backends``."""
    return {entry.name: entry for entry in entry_points(group="embnoise.backends")}


def adapter_of(name: str) -> EntryPoint:
    """The installed adapter of a name: an entry point of the group ``embnoise.backends``.

    Raises:
        TypeError: ``name`` is not a string.
        ValueError: No adapter has that name.
    """
    known = adapters()
    check_choice("adapter", name, sorted(known))
    return known[name]


def driver_of(name: str) -> DriverBase:
    """The driver of a framework: NumPy's, or that of an installed adapter.

    An adapter is an entry point of the group ``embnoise.backends``. Its driver is the object
    ``driver`` in its module ``testing``.

    Args:
        name: ``"numpy"``, ``"torch"``, ``"jax"``, ``"keras"``, or the name of another adapter.

    Raises:
        ValueError: No adapter has that name.
        ImportError: The framework is not installed.
        TypeError: The adapter has no driver.

    Example:
        >>> driver_of("numpy").name
        'numpy'
    """
    if name == "numpy":
        return numpy_driver
    installed = adapters()
    if name not in installed:
        known = ["numpy", *sorted(installed)]
        raise ValueError(
            f"driver must be one of {known} or a Driver, got {name!r}{did_you_mean(name, known)}"
        )
    module = f"{installed[name].value}.testing"
    try:
        found = getattr(import_module(module), "driver", None)
    except ModuleNotFoundError as error:
        if error.name == module:
            raise TypeError(f"driver {name!r}: the adapter has no module {module}") from None
        raise ImportError(
            f"driver {name!r} needs {error.name}, which is not installed: "
            f'pip install "embnoise[{name}]"'
        ) from error
    if isinstance(found, type) or not isinstance(found, Driver):
        raise TypeError(f"driver {name!r}: {module}.driver is not a Driver")
    return completed(found)


def guessed_driver(layer: Any) -> str | None:
    """The name of the driver for a layer, from its class or from what its module imports."""
    classes = {base.__module__.partition(".")[0] for base in type(layer).__mro__}
    module = sys.modules.get(getattr(signature_of(layer), "__module__", None) or "")
    values = list(vars(module).values()) if module else []
    imported = {
        str(value.__name__ if isinstance(value, ModuleType) else getattr(value, "__module__", ""))
        for value in values
    }
    imported = {name.partition(".")[0] for name in imported}
    for found in (classes, imported):
        for package, name in _FRAMEWORKS.items():
            if package in found:
                return name
    return None
