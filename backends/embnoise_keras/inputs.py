"""The inputs of a running call: its arguments, and what is in those that are structures."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from typing import Any, TypeAlias

import keras
import numpy as np

from embnoise_keras._compat_graph import graph_inputs, graph_places

__all__ = ["Inputs", "Names", "Place", "label", "shape_of"]

Place: TypeAlias = tuple[Any, ...]
"""Where an input is: the name of an argument, and the keys that lead on from there."""


class Inputs:
    """The inputs of a call.

    Args:
        layer: The layer that is called.
        arguments: The arguments of the call by name.

    Attributes:
        arguments: The same, without the ``mask`` that Keras fills in for a structure.
        leaves: What is no structure, by its place.
        sources: The places of the inputs of a functional model by their names in its graph; those
            that are absent are left out.
    """

    def __init__(self, layer: Any = None, arguments: Mapping[str, Any] | None = None) -> None:
        self.arguments = {name: _as_array(each) for name, each in (arguments or {}).items()}
        if not hasattr(self.arguments.get("mask"), "shape"):
            # Keras's own, with a None for each input; an input may have that name.
            self.arguments.pop("mask", None)
        self.sources: dict[str, Place] = {}
        self._nodes: dict[Place, Any] = {}
        for name, value in self.arguments.items():
            below = dict(_nodes((), value)) if self._nodes else _by_graph(layer, value)
            self._nodes |= {(name, *place): each for place, each in below.items()}
        for name, symbolic in graph_inputs(layer).items():
            place = (*list(self.arguments)[:1], *graph_places(layer)[name])
            if self._nodes.get(place) is None:
                continue
            self.sources[name] = place
            # A functional model casts its inputs before its graph sees them.
            if not keras.backend.is_float_dtype(symbolic.dtype):
                array = keras.ops.convert_to_tensor(self._nodes[place], dtype=symbolic.dtype)
                self._nodes[place] = array
        inner = {place[:-1] for place in self._nodes}
        self.leaves = {place: each for place, each in self._nodes.items() if place not in inner}

    def of_graph(self, name: str) -> Any:
        """The input of a functional model that has this name in its graph."""
        return self.leaves[self.sources[name]]

    def places_of(self, value: Any) -> list[Place]:
        """Where a value is among the inputs."""
        return [place for place, each in self.leaves.items() if each is value]

    def from_nearest(self, near: Place) -> list[tuple[Place, Any]]:
        """The leaves, those first that are the nearest to the structure ``near``."""
        return sorted(self.leaves.items(), key=lambda each: _distance(each[0], near))

    def names(self, near: Place = ()) -> tuple[dict[str, Any], set[str]]:
        """The inputs by name, as seen from the structure ``near``.

        Returns:
            The nearest input of each name, and the names of which several are equally near.
        """
        found: dict[str, Any] = {}
        far: dict[str, tuple[bool, int, int]] = {}
        several = set()
        for place in sorted(self._nodes, key=lambda each: _distance(each, near)):
            name, value, distance = place[-1], self._nodes[place], _distance(place, near)
            if not isinstance(name, str) or far.setdefault(name, distance) != distance:
                continue
            if found.setdefault(name, value) is not value:
                several.add(name)
        return {name: found[name] for name in found.keys() - several}, several


def label(place: Place) -> str:
    """A place for messages: "inputs/query/ids"."""
    return "/".join(map(str, place))


def shape_of(value: Any) -> tuple[Any, ...]:
    """The shape of an array, () of anything else."""
    return tuple(getattr(value, "shape", ()))


class Names(Mapping[str, Any]):
    """Inputs by name, for a function of the user. A name of several is an error once it is used.

    Args:
        named: The inputs.
        several: The names that several inputs have.
    """

    def __init__(self, named: Mapping[str, Any], several: Iterable[str]) -> None:
        self._named, self._several = named, set(several)

    def __getitem__(self, name: str) -> Any:
        if name in self._several:
            raise ValueError(
                f"found several inputs {name!r} in the model's call, and cannot tell which belongs "
                "to a lookup; name the argument that they are in instead"
            )
        return self._named[name]

    def __iter__(self) -> Iterator[str]:
        return iter(self._named)

    def __len__(self) -> int:
        return len(self._named)


def _as_array(value: Any) -> Any:
    """Lists of numbers as an array; one of lists if those differ in length. Else the value."""
    if not isinstance(value, list | tuple):
        return value
    numbers = keras.tree.flatten(value)
    if not numbers or not all(isinstance(each, bool | int | float) for each in numbers):
        return value
    try:
        return np.asarray(value)
    except ValueError:
        return np.asarray(value, dtype=object)


def _nodes(place: Place, value: Any) -> Iterator[tuple[Place, Any]]:
    """A value and all that is in it, each with its place."""
    yield place, value
    items: Iterable[tuple[Any, Any]] = ()
    if isinstance(value, Mapping):
        items = value.items()
    elif isinstance(value, list | tuple):
        items = enumerate(value)
    for key, each in items:
        yield from _nodes((*place, key), _as_array(each))


def _by_graph(layer: Any, given: Any) -> dict[Place, Any]:
    """What a layer is called with, by places; a functional model's graph names what is in lists."""
    nodes = dict(_nodes((), given))
    flat, places = keras.tree.flatten_with_path(given), graph_places(layer).values()
    if len(flat) == len(places):
        for (own, value), place in zip(flat, places, strict=True):
            if own[:-1] == place[:-1] and not isinstance(own[-1] if own else None, str):
                if own:
                    del nodes[own]
                nodes[place] = value
    return nodes


def _distance(place: Place, near: Place) -> tuple[bool, int, int]:
    """How far an input is from the structure ``near``.

    What is in it comes first, then what is in the structures around it, the innermost first, and
    then the rest, those further out first.
    """
    shared = 0
    while shared < min(len(place) - 1, len(near)) and place[shared] == near[shared]:
        shared += 1
    return shared < len(place) - 1, -shared, len(place)
