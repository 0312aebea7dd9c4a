"""The masks of the layers behind a lookup, in a graph that makes them of other inputs than its ids.

B rows of L tokens.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from typing import Any, NamedTuple

import keras
import numpy as np

from embnoise_keras._compat_graph import GraphCall, GraphNode
from embnoise_keras.graph_values import alone_from, computed_from, computed_with, examples, run
from embnoise_keras.masks import is_mask_of_layer

__all__ = ["MaskSource", "masks_in", "masks_of_others"]


class MaskSource(NamedTuple):
    """What a layer takes as a mask, and the inputs that it is computed from."""

    argument: str
    names: tuple[str, ...]


def masks_in(node: GraphNode) -> set[tuple[str, int]]:
    """The tensors in the arguments of a node that are masks, each with the argument's name."""
    return {
        (argument, tensor)
        for argument, tensors in node.arguments.items()
        for tensor in tensors
        if is_mask_of_layer(argument)
    }


def masks_of_others(
    nodes: Sequence[GraphNode],
    call: GraphCall,
    inputs: Mapping[str, Any],
    told: set[int],
    computed: set[int],
) -> list[MaskSource]:
    """The masks that may be those of a call, and are not computed from its ids alone.

    Args:
        nodes: The nodes of the graph.
        call: The call.
        inputs: The inputs of the graph.
        told: What is computed from the ids alone.
        computed: What is looked up: a mask that is made of it is not followed any further.
    """
    behind = computed_with(nodes, call.outputs)
    masks = {each: None for node in nodes if _is_of(node, behind) for each in masks_in(node)}
    found = []
    for argument, tensor in masks:
        if tensor in told:
            continue
        path, tensors = computed_from(nodes, tensor, computed)
        sources = {name: each for name, each in inputs.items() if id(each) in tensors}
        names = tuple(
            name
            for name, each in sources.items()
            if name in call.sources or (_is_of_rows(each, call) and not _is_input(nodes, each))
        )
        if names and not _is_of_shapes(path, tensor, sources.values()):
            found.append(MaskSource(argument, names))
    return found


def _is_of(node: GraphNode, tensors: set[int]) -> bool:
    """Whether a node takes these tensors alone, apart from masks.

    One that attends from them to others, as a decoder does, may take the mask of those.
    """
    masked = [each for name, each in node.arguments.items() if not is_mask_of_layer(name)]
    return any(masked) and all(each <= tensors for each in masked)


def _is_of_rows(source: Any, call: GraphCall) -> bool:
    """Whether an input may tell something of rows of tokens: [B], [B, 1], [B, L], [B, 1, L]..."""
    shape: tuple[Any, ...] = getattr(call.given, "shape", ())
    length = shape[1] if len(shape) > 1 else None
    sizes = {*source.shape[1:]} - {1, None}
    return not sizes or sizes == {length} or (length is None and len(sizes) == 1)


def _is_input(nodes: Sequence[GraphNode], source: Any) -> bool:
    """Whether a layer with weights takes an input, as it does ids, so that it is no mask."""
    own = {id(source)}.union(*(node.outputs for node in alone_from(nodes, id(source))))
    return any(
        node.run is None and own & next(iter(node.arguments.values()), set()) for node in nodes
    )


def _is_of_shapes(path: Sequence[GraphNode], tensor: int, sources: Collection[Any]) -> bool:
    """Whether a tensor is known to be the same whatever its sources are, as a causal mask is."""
    if any(not _is_number(each.dtype) for each in sources):
        return False
    several = [(source, examples(source)) for source in sources]
    zeros = [(source, np.zeros_like(rows)) for source, rows in several]
    one, other = (run(path, each) for each in (zeros, several))
    return tensor in one and tensor in other and np.array_equal(one[tensor], other[tensor])


def _is_number(dtype: str) -> bool:
    is_int, is_float = keras.backend.is_int_dtype(dtype), keras.backend.is_float_dtype(dtype)
    return is_int or is_float or dtype == "bool"
