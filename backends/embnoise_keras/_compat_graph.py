"""The graph of a functional model, which Keras makes public as a drawing only (``plot_model``).

``tests/keras/test_compat_graph.py`` says which function here to adapt when Keras changes it.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from typing import Any, NamedTuple

import keras

from embnoise.backend import naming
from embnoise_keras._compat import keras_mask

__all__ = [
    "GraphCall",
    "GraphNode",
    "graph_calls",
    "graph_inputs",
    "graph_nodes",
    "graph_places",
    "lost_mask",
]

_MERGES = (
    *(keras.layers.Add, keras.layers.Subtract, keras.layers.Multiply),
    *(keras.layers.Average, keras.layers.Maximum, keras.layers.Minimum),
)


class GraphCall(NamedTuple):
    """One call of a layer in the graph of a functional model."""

    sources: frozenset[str]
    """The names of the model's inputs that its arguments are computed from."""
    direct: bool
    """Whether its argument is an input of the model as it stands, or cast."""
    given: Any
    """Its first argument, a symbolic tensor; ``None`` if that is a structure."""
    outputs: tuple[int, ...]
    """The tensors that it computes, by their identity."""


def _with_graph(model: Any) -> Any:
    """The model itself, or the functional one that a sequential model runs once it is built."""
    return (isinstance(model, keras.Sequential) and model._functional) or model


def graph_inputs(model: Any) -> dict[str, Any]:
    """The inputs of a functional or sequential model by name, in Keras's order; else none."""
    model = _with_graph(model)
    if not hasattr(model, "_nodes_by_depth"):
        return {}
    keys: dict[int, str] = {}
    if isinstance(model.input, dict):
        keys = {id(tensor): key for key, tensor in model.input.items()}
    return {keys.get(id(tensor), tensor.name): tensor for tensor in model.inputs}


def graph_places(model: Any) -> dict[str, tuple[Any, ...]]:
    """For each of ``graph_inputs``, the keys that lead to it in what the model is called with.

    In a list, the key is the input's name.
    """
    inputs, places = graph_inputs(model), {}
    if inputs:
        structure = keras.tree.flatten_with_path(_with_graph(model).input)
        places = {id(tensor): place for place, tensor in structure}
    found = {}
    for name, tensor in inputs.items():
        place = places[id(tensor)]
        named = isinstance(place[-1] if place else None, str)
        found[name] = place if named else (*place[:-1], tensor.name)
    return found


def _nodes(model: Any) -> list[Any]:
    """The nodes of the graph of a functional model in the order of execution; else none."""
    by_depth = getattr(_with_graph(model), "_nodes_by_depth", {})
    return [node for depth in sorted(by_depth, reverse=True) for node in by_depth[depth]]


class GraphNode(NamedTuple):
    """One operation, or call of a layer, in the graph of a functional model.

    Tensors are told by their identity.
    """

    arguments: dict[str, set[int]]
    """The tensors in each argument, by its name."""
    outputs: list[int]
    """The tensors that it computes."""
    run: Callable[[dict[int, Any]], list[Any]] | None
    """Computes these from values of tensors; ``None`` for a layer that has state."""
    runs_users_code: bool
    """Whether it may run code of the user, which may draw random numbers."""


def graph_nodes(model: Any) -> list[GraphNode]:
    """The operations in the graph of a functional model, in the order of execution."""
    found = []
    for node in _nodes(model):
        if node.is_input:
            continue
        given = naming(node.operation.call)(*node.arguments.args, **node.arguments.kwargs)
        own = set(map(id, node.input_tensors))
        tensors = {
            name: own & set(map(id, keras.tree.flatten(each))) for name, each in given.items()
        }
        stateless = not getattr(node.operation, "variables", [])
        run = partial(_run, node) if stateless else None
        outputs = [id(tensor) for tensor in node.outputs]
        found.append(GraphNode(tensors, outputs, run, _runs_users_code(node.operation)))
    return found


def _runs_users_code(operation: Any) -> bool:
    """Whether an operation may run code of the user, as layers do, and loops, which are in core."""
    module = type(operation).__module__
    return not module.startswith("keras.src.ops.") or module == "keras.src.ops.core"


def _run(node: Any, values: dict[int, Any]) -> list[Any]:
    args, kwargs = node.arguments.fill_in(values)
    return list(keras.tree.flatten(node.operation(*args, **kwargs)))


def graph_calls(model: Any, layer: Any) -> list[GraphCall]:
    """The calls of ``layer`` in the graph of a functional model, in the order of execution."""
    names = {id(tensor): name for name, tensor in graph_inputs(model).items()}
    nodes = _nodes(model)
    made_by = {id(tensor): node for node in nodes for tensor in node.outputs}

    def sources(tensors: list[Any]) -> frozenset[str]:
        found, seen, left = set(), set(), list(tensors)
        while left:
            tensor = left.pop()
            if id(tensor) in seen:
                continue
            seen.add(id(tensor))
            if id(tensor) in names:
                found.add(names[id(tensor)])
            elif id(tensor) in made_by:
                left += made_by[id(tensor)].input_tensors
        return frozenset(found)

    def is_input(tensor: Any) -> bool:
        node = made_by.get(id(tensor))
        if id(tensor) in names or node is None:
            return id(tensor) in names
        return type(node.operation).__name__ == "Cast" and all(map(is_input, node.input_tensors))

    return [
        GraphCall(
            sources(node.input_tensors),
            direct=all(map(is_input, node.input_tensors)),
            given=_first_tensor(node),
            outputs=tuple(map(id, node.outputs)),
        )
        for node in nodes
        if node.operation is layer and not node.is_input
    ]


def _first_tensor(node: Any) -> Any:
    arguments = node.arguments
    first = next(iter([*arguments.args, *arguments.kwargs.values()]), None)
    return first if any(first is tensor for tensor in node.input_tensors) else None


def lost_mask(x: Any) -> str | None:
    """The name of the layer whose mask Keras dropped on the way to symbolic embeddings, if one is.

    Keras does so silently in operations, and in layers that merge several tensors unless each of
    them has a mask.

    Args:
        x: Embeddings [B, L, d] in the graph of a functional model.
    """
    left, seen = [x] if keras_mask(x) is None else [], set()
    while left:
        tensor = left.pop()
        history = getattr(tensor, "_keras_history", None)
        if history is None or id(tensor) in seen or tuple(tensor.shape[:2]) != tuple(x.shape[:2]):
            continue
        seen.add(id(tensor))
        operation = history.operation
        if keras_mask(tensor) is not None:
            return str(operation.name)
        if isinstance(operation, _MERGES) or not isinstance(operation, keras.Layer):
            left += operation._inbound_nodes[history.node_index].input_tensors
    return None
