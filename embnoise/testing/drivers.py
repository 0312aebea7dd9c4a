"""How the kit talks to a framework: ``Driver``, and where to find the one of a name."""

from __future__ import annotations

import difflib
import inspect
import sys
from collections.abc import Callable, Mapping
from importlib import import_module
from importlib.metadata import entry_points
from types import ModuleType
from typing import Any, Protocol, runtime_checkable

from numpy.typing import NDArray

__all__ = ["Driver", "driver_of", "guessed_driver", "named", "needs", "signature_of"]


@runtime_checkable
class Driver(Protocol):
    """What the kit needs of a framework.

    A driver may have more, each by itself; a check that needs what is not there says so, and counts
    as not claimed:

    - ``dtypes``: for each kind of inputs the dtypes to test; float32 alone by default.
    - ``examples``: how many batches Hypothesis draws per check; 25 by default. Fewer where each new
      shape is compiled.
    - ``switch(layer, training)``: sets the mode of a layer that has one, before a user's ``call``.
    - ``key``: a random key, for a user's ``call`` that names it.
    - ``state(layer) -> {name: array}``: what a checkpoint of the layer would hold.
    - ``random_state() -> bytes``: tells whether the framework's global random state has moved since
      ``seed`` was called. It may move it itself.
    - ``kept_state()``: a context that leaves the global random state as it was before.
    - ``compile(call) -> call``: ``call`` under the framework's compiler, for training.
    - ``without_gradients()``: a context in which gradients are switched off.
    - ``rank(rank, world)``: a context in which this process is one of a data-parallel run.
    """

    name: str

    def make(
        self, make_layer: Callable[..., Any], *, dtype: str, dim: int, alpha: Any, seed: int
    ) -> Any:
        """A fresh layer of ``make_layer``, for embeddings of ``dtype``."""

    def call(self, layer: Any, inputs: Any, **keywords: Any) -> Any:
        """The layer's output.

        Of the keywords ``training``, ``mask``, ``step`` and ``segment_ids``, ``training`` sets
        the layer's mode in its framework's way; the layer is given those that its signature names.
        """

    def to_numpy(self, array: Any) -> NDArray[Any]:
        """A copy, in NumPy's memory. bfloat16 becomes float32."""

    def from_numpy(self, array: NDArray[Any], dtype: str | None = None) -> Any:
        """The framework's own array; of ``dtype`` where that is given."""

    def gradient(
        self, call: Callable[..., Any], layer: Any, inputs: Any, weights: Any, *, of: str
    ) -> list[NDArray[Any]] | None:
        """The gradients of sum(call(layer, inputs) * weights).

        Args:
            call: takes the layer and the inputs.
            layer: of ``make``.
            inputs: of ``from_numpy``.
            weights: of the output's shape, of ``from_numpy``.
            of: ``"inputs"``, or ``"parameters"`` for all that the layer trains.

        Returns:
            An array, 0 where nothing flows, for the inputs or each parameter; ``None`` in a
            framework without gradients.
        """

    def seed(self, seed: int) -> None:
        """Set the framework's global random state."""


def signature_of(layer: Any) -> Callable[..., Any]:
    """What is called when a layer is: ``call`` (Keras), ``forward`` (PyTorch), or itself."""
    for name in ("call", "forward"):  # on PyTorch a Keras layer has both
        method = getattr(layer, name, None)
        if callable(method):
            return method  # type: ignore[no-any-return]
    return layer  # type: ignore[no-any-return]


_FRAMEWORKS = {"keras": "keras", "torch": "torch", "flax": "jax", "equinox": "jax", "jax": "jax",
               "numpy": "numpy", "embnoise": "numpy"}  # fmt: skip
"""Top-level packages, and the driver of what is made of them; on PyTorch a Keras layer is both."""


def guessed_driver(layer: Any) -> str | None:
    """The name of the driver that a layer is for: by its class, or by what its module imported."""
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


def named(function: Callable[..., Any], keywords: Mapping[str, Any]) -> dict[str, Any]:
    """Those of the keywords that the function's signature names."""
    try:
        parameters = inspect.signature(function).parameters
    except (TypeError, ValueError):  # some builtins have none
        return {}
    return {name: value for name, value in keywords.items() if name in parameters}


def needs(function: Callable[..., Any], keyword: str) -> bool:
    """Whether the function names the keyword, and has no default for it."""
    try:
        parameter = inspect.signature(function).parameters.get(keyword)
    except (TypeError, ValueError):
        return False
    return parameter is not None and parameter.default is parameter.empty


def driver_of(name: str) -> Driver:
    """The driver of a framework: NumPy's, or that of an installed adapter.

    An adapter is an entry point of the group ``embnoise.backends``; its driver is the ``driver``
    in its module ``testing``.

    Raises:
        ValueError: no adapter of that name.
        ImportError: its framework is not installed.
        TypeError: the adapter has no driver.
    """
    if name == "numpy":
        return import_module("embnoise.testing.numpy_driver").driver  # type: ignore[no-any-return]
    adapters = {entry.name: entry for entry in entry_points(group="embnoise.backends")}
    if name not in adapters:
        known = ["numpy", *sorted(adapters)]
        near = difflib.get_close_matches(name, known, n=1)
        hint = f" (did you mean {near[0]!r}?)" if near else ""
        raise ValueError(f"driver must be one of {known} or a Driver, got {name!r}{hint}")
    module = f"{adapters[name].value}.testing"
    try:
        found = getattr(import_module(module), "driver", None)
    except ModuleNotFoundError as error:
        if error.name == module:
            raise TypeError(f"driver {name!r}: the adapter has no module {module}") from None
        raise ImportError(
            f"driver {name!r} needs {error.name}, which is not installed: "
            f'pip install "embnoise[{name}]"'
        ) from error
    if not isinstance(found, Driver):
        raise TypeError(f"driver {name!r}: {module}.driver is no Driver")
    return found
