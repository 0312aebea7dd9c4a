"""How the kit talks to a framework: ``Driver``, and ``DriverBase`` with its defaults."""

from __future__ import annotations

import contextlib
import types
from abc import abstractmethod
from collections.abc import Callable
from contextlib import AbstractContextManager
from typing import Any, Protocol, TypeAlias, runtime_checkable

from numpy.typing import NDArray

from embnoise.testing.failures import NotClaimedError
from embnoise.testing.signatures import (
    is_opaque,
    layers_in,
    named,
    needs,
    parameters_of,
    signature_of,
)

__all__ = [
    "NODE",
    "Driver",
    "DriverBase",
    "NativeArray",
    "NativeLayer",
    "completed",
    "is_opaque",
    "layers_in",
    "named",
    "needs",
    "parameters_of",
    "signature_of",
]

NODE = 8
"""How many ranks a node of a data-parallel run has."""

NativeLayer: TypeAlias = Any
"""A layer of the driver's framework, which only the driver looks into."""

NativeArray: TypeAlias = Any
"""An array of the driver's framework."""


@runtime_checkable
class Driver(Protocol):
    """What the kit needs to know about a framework: a name and six methods.

    Subclass ``DriverBase`` to get defaults for everything else that a driver may have; an object
    that only follows this protocol gets the same defaults.
    """

    name: str

    @abstractmethod
    def make(
        self, make_layer: Callable[..., Any], *, dtype: str, dim: int, alpha: Any, seed: int
    ) -> Any:
        """A fresh layer from ``make_layer``, for embeddings of ``dtype``."""

    @abstractmethod
    def call(self, layer: NativeLayer, inputs: NativeArray, **keywords: Any) -> Any:
        """The layer's output.

        Args:
            layer: From ``make``.
            inputs: From ``from_numpy``.
            **keywords: ``training``, always, and any of ``mask``, ``step`` and ``segment_ids``.
                ``training`` sets the layer's mode the way its framework does; the layer receives
                the keywords that its signature names; one that takes any keyword receives
                ``mask`` and ``step``.
        """

    @abstractmethod
    def to_numpy(self, array: NativeArray) -> NDArray[Any]:
        """A copy as a NumPy array; bfloat16 becomes float32."""

    @abstractmethod
    def from_numpy(self, array: NDArray[Any], dtype: str | None = None) -> Any:
        """A copy as the framework's array, converted to ``dtype`` if that is given.

        ``array`` is contiguous.
        """

    @abstractmethod
    def gradient(
        self,
        call: Callable[..., Any],
        layer: NativeLayer,
        inputs: NativeArray,
        weights: NativeArray,
        *,
        of: str,
    ) -> list[NDArray[Any]] | None:
        """The gradients of ``sum(call(layer, inputs) * weights)``.

        Args:
            call: Takes the layer and the inputs.
            layer: From ``make``.
            inputs: From ``from_numpy``.
            weights: Of the output's shape, from ``from_numpy``.
            of: ``"inputs"``, or ``"parameters"`` for everything that the layer trains.

        Returns:
            One array for the inputs, or one for each parameter; zeros if no gradient reaches it.
            ``None`` if the framework has no gradients.
        """

    @abstractmethod
    def seed(self, seed: int) -> None:
        """Seed the framework's global random state."""


class DriverBase(Driver):
    """Base class of drivers, with a default for everything but four members.

    A subclass has a ``name`` and implements ``to_numpy``, ``from_numpy`` and ``seed``; most
    implement ``gradient``. A check that needs an optional method which the driver does not override
    reports ``not_claimed``.

    Attributes:
        dtypes: The dtypes of embeddings to test. Default: float32 only.
        ids_dtypes: The same for layers that embed ids themselves. Default: float32 only.
        examples: How many batches Hypothesis draws for each check, 25 by default. Use fewer if each
            new shape is compiled.
        fused: Whether the adapter's ``add_noise`` rounds the product and the sum once, as a fused
            multiply-add does. Default: False.
        traces_once: Whether compiled code keeps the Python values that it saw while tracing, as
            with ``jax.jit`` and ``tf.function``. False for a compiler that guards on Python state
            and compiles again when it changes, as ``torch.compile`` does. Default: True.
        transformations: The names that ``transform`` knows. Default: none.
        modes: The names by which ``call`` tells a layer its mode.
        key: A random key for a user's ``call`` that names it; ``None`` if the framework has none.
    """

    dtypes: tuple[str, ...] = ("float32",)
    ids_dtypes: tuple[str, ...] = ("float32",)
    examples: int = 25
    fused: bool = False
    traces_once: bool = True
    transformations: tuple[str, ...] = ()
    modes: tuple[str, ...] = ("training",)
    key: Any = None

    def make(
        self, make_layer: Callable[..., Any], *, dtype: str, dim: int, alpha: Any, seed: int
    ) -> Any:
        """By default, what ``make_layer`` returns."""
        return make_layer(dim=dim, alpha=alpha, seed=seed)

    def call(self, layer: NativeLayer, inputs: NativeArray, **keywords: Any) -> Any:
        """By default, switches the layer's mode and passes the keywords that it names."""
        self.switch(layer, keywords["training"])
        given = named(signature_of(layer), keywords)
        if is_opaque(signature_of(layer)) and hasattr(layer, "training"):
            del given["training"]  # it has a mode of its own
        return layer(inputs, **given)

    def gradient(
        self,
        call: Callable[..., Any],
        layer: NativeLayer,
        inputs: NativeArray,
        weights: NativeArray,
        *,
        of: str,
    ) -> list[NDArray[Any]] | None:
        """By default ``None``: the framework has no gradients."""
        return None

    def switch(self, layer: NativeLayer, training: bool) -> None:
        """Set the mode of a layer that has one, also before a user's ``call``.

        By default does nothing, and a user's ``call`` must take ``training``.
        """

    def modes_of(self, layer: NativeLayer) -> dict[str, bool]:
        """The modes that a layer and its parts are in, by name. By default none are known."""
        return {}

    def kept_state(self) -> AbstractContextManager[Any]:
        """A context that restores the framework's global random state when it ends."""
        return contextlib.nullcontext()

    def random_state(self) -> bytes:
        """Shows whether the framework's global random state has changed since ``seed``.

        It may change the state itself.
        """
        raise self._lacks("random_state")

    def state(self, layer: NativeLayer) -> dict[str, NDArray[Any]]:
        """What a checkpoint of the layer holds: arrays by name."""
        raise self._lacks("state")

    def compile(self, call: Callable[..., Any]) -> Callable[..., Any]:
        """``call`` under the framework's compiler, as in training."""
        raise self._lacks("compile")

    def transform(self, name: str, call: Callable[..., Any]) -> Callable[..., Any]:
        """``call`` with the same output, computed under a transformation.

        A call that the transformation does not allow may raise any error.

        Args:
            name: One of ``transformations``.
            call: Takes what the method ``call`` takes. The inputs are embeddings.
        """
        raise self._lacks("transform")

    def framework_test(
        self, make: Callable[[str], NativeLayer], inputs: NativeArray, shape: tuple[int, ...]
    ) -> None:
        """Run the framework's own test of layers, which raises what it raises.

        Args:
            make: Makes a fresh layer for embeddings of a dtype.
            inputs: From ``from_numpy``.
            shape: The shape of the layer's output.
        """
        raise self._lacks("framework_test")

    def without_gradients(self) -> AbstractContextManager[Any]:
        """A context in which the framework records no gradients."""
        raise self._lacks("without_gradients")

    def rank(self, rank: int, world: int) -> AbstractContextManager[Any]:
        """A context in which this process is one rank of a data-parallel run of ``world`` ranks.

        A node has ``NODE`` of them, so that its ranks from 8 on are again the first ones of a node.
        """
        raise self._lacks("rank")

    def _lacks(self, method: str) -> NotClaimedError:
        return NotClaimedError(f"the driver {self.name!r} has no {method}")

    def overrides(self, method: str) -> bool:
        """Whether the driver has its own version of an optional method."""
        return getattr(type(self), method) is not getattr(DriverBase, method)


def completed(driver: Driver) -> DriverBase:
    """The driver with the defaults of ``DriverBase`` for what it does not have."""
    if isinstance(driver, DriverBase):
        return driver
    kind = types.new_class(type(driver).__name__, (type(driver), DriverBase))
    made: DriverBase = object.__new__(kind)
    made.__dict__ = driver.__dict__  # one state, whichever of the two sets it
    return made
