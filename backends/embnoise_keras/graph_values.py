"""What the graph of a functional model computes from which of its tensors."""

from __future__ import annotations

import math
import warnings
from collections.abc import Collection, Mapping, Sequence
from contextlib import suppress
from typing import Any, TypeAlias

import keras
import numpy as np
from numpy.typing import NDArray

from embnoise_keras._compat_graph import GraphNode

__all__ = [
    "UNKNOWN_LENGTH",
    "Arrays",
    "alone_from",
    "computed_from",
    "computed_with",
    "examples",
    "inputs_of",
    "run",
    "vocabulary",
]

Arrays: TypeAlias = Mapping[int, NDArray[Any]]
"""Values of tensors of the graph, by their identity."""

UNKNOWN_LENGTH = 8
"""How long an axis is taken to be whose length the graph does not know."""
_VOCABULARY = 2**18
"""As many tokens as tokenizers have."""


def vocabulary(dtype: str) -> int:
    """How many tokens ids of a dtype may be; 0 if they are no numbers."""
    if keras.backend.is_int_dtype(dtype):
        return min(_VOCABULARY, int(np.iinfo(dtype).max) + 1)
    return _VOCABULARY if dtype in ("float32", "float64") else 0


def examples(source: Any) -> NDArray[Any]:
    """Three rows of different tokens, in the shape of a tensor of the graph."""
    shape = tuple(size or UNKNOWN_LENGTH for size in source.shape[1:])
    entries = np.arange(math.prod(shape))
    # Padding is mostly at one of the ends of the vocabulary, or negative.
    negative = (-1 - entries) * (not source.dtype.startswith("u"))
    rows = np.stack([entries, vocabulary(source.dtype) - 1 - entries, negative])
    return rows.reshape(3, *shape)


def inputs_of(node: GraphNode) -> set[int]:
    """The tensors in the arguments of a node."""
    return set().union(*node.arguments.values())


def alone_from(nodes: Sequence[GraphNode], source: int) -> list[GraphNode]:
    """What computes tensors from one alone, without any state."""
    own, found = {source}, []
    for node in nodes:
        if node.run is not None and inputs_of(node) and inputs_of(node) <= own:
            own.update(node.outputs)
            found.append(node)
    return found


def computed_with(nodes: Sequence[GraphNode], tensors: Collection[int]) -> set[int]:
    """Tensors, and those that nodes compute from them, among others."""
    found = {*tensors}
    for node in nodes:
        if inputs_of(node) & found:
            found.update(node.outputs)
    return found


def computed_from(
    nodes: Sequence[GraphNode], tensor: int, known: set[int]
) -> tuple[list[GraphNode], set[int]]:
    """What computes a tensor, except for what computes the known ones; and all tensors that takes.

    Returns:
        The nodes in the order of execution, and the tensors.
    """
    found: list[GraphNode] = []
    wanted = {tensor}
    for node in reversed(nodes):
        if wanted.intersection(node.outputs) and not known.intersection(node.outputs):
            wanted |= inputs_of(node)
            found.append(node)
    return found[::-1], wanted


def run(nodes: Sequence[GraphNode], given: Sequence[tuple[Any, NDArray[Any]]]) -> Arrays:
    """What nodes compute without state from values of tensors of the graph."""
    values: dict[int, Any] = {}
    found: dict[int, NDArray[Any]] = {}
    for source, array in given:
        values[id(source)] = keras.ops.convert_to_tensor(array, dtype=source.dtype)
        found[id(source)] = array
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # the model's own call warns as well
        for node in nodes:
            if node.run is None or not inputs_of(node) <= found.keys():
                continue
            with suppress(Exception):  # a user's layer may be made for other tokens, or no arrays
                outputs = node.run({key: values[key] for key in inputs_of(node)})
                arrays = [np.asarray(keras.ops.convert_to_numpy(each)) for each in outputs]
                values.update(zip(node.outputs, outputs, strict=True))
                found.update(zip(node.outputs, arrays, strict=True))
    return found
