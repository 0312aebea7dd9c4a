"""What the graph of a functional model compares token ids with, which may tell their padding.

A comparison can be written in many ways. So none is looked for: the graph computes what it makes of
every token. L tokens in a row.
"""

from __future__ import annotations

import warnings
from collections.abc import Iterable, Mapping, Sequence
from contextlib import suppress
from typing import Any, NamedTuple, TypeAlias

import keras
import numpy as np
from numpy.typing import NDArray

from embnoise_keras._compat_graph import GraphNode, graph_inputs, graph_nodes
from embnoise_keras.masks import is_mask_of_layer
from embnoise_keras.random_state import keeping_random_state, without_updates

__all__ = ["Comparisons"]

Arrays: TypeAlias = Mapping[int, NDArray[Any]]
"""Values of tensors of the graph, by their identity."""

_VOCABULARY = 2**18
"""As many tokens as tokenizers have."""
_AT_ONCE = 2**13
"""How many are computed together: a user's layer may compare them with one another."""


class _Comparison(NamedTuple):
    """What tells one token from all others."""

    token: int
    is_mask: bool
    """Whether it is false for the token alone, and a layer takes it as a mask."""


class Comparisons:
    """What the graph of a functional model compares its inputs with.

    Args:
        model: The model. Nothing is known of one that is not functional, or of None.
    """

    def __init__(self, model: Any) -> None:
        self._nodes = [
            node._replace(run=without_updates(node.run))
            if node.run is not None and node.runs_users_code
            else node
            for node in graph_nodes(model)
        ]
        self._found: dict[str, list[_Comparison]] = {}
        self._unclear: dict[str, str] = {}  # by inputs, arguments that may tell their padding
        if not self._nodes:
            return
        with keeping_random_state():
            for name, source in graph_inputs(model).items():
                if len(source.shape) == 2 and (tokens := _vocabulary(source.dtype)):
                    self._compare(name, source, tokens)

    def padding(self, names: Iterable[str]) -> set[tuple[str, int]]:
        """The ids of padding that the named inputs are compared with, each with the name.

        Any other id than 0 may be that of [MASK], say, unless the comparison becomes a mask.
        """
        return {
            (name, each.token)
            for name in names
            for each in self._found.get(name, [])
            if each.token == 0 or each.is_mask
        }

    def unknown(self, names: Iterable[str]) -> str | None:
        """What to say of what may tell the padding of the named inputs; ``None`` if nothing may."""
        names = sorted(names)
        found = {each.token for name in names for each in self._found.get(name, [])}
        tokens = " and ".join(map(str, sorted(found)))
        if found and len(self.padding(names)) == 1:
            return f"the model's comparison with {tokens} is of ids that it looks up otherwise"
        if found:
            return (
                f"the model's comparison of ids with {tokens} may be with other tokens than padding"
            )
        unclear = [(self._unclear[name], name) for name in names if name in self._unclear]
        return next(
            (
                f"how {argument} is computed from the input {name!r} is not known"
                for argument, name in unclear
            ),
            None,
        )

    def _compare(self, name: str, source: Any, vocabulary: int) -> None:
        nodes = _computed_from(self._nodes, id(source))
        own = {id(source)}.union(*(node.outputs for node in nodes))
        masks = {
            (argument, tensor)
            for node in self._nodes
            for argument, tensors in node.arguments.items()
            for tensor in tensors & own
            if is_mask_of_layer(argument)
        }
        length = source.shape[1] or 8
        # Padding is mostly at one of the ends of the vocabulary, or negative.
        negative = (-1 - np.arange(length)) * (not source.dtype.startswith("u"))
        several = np.stack([np.arange(length), vocabulary - 1 - np.arange(length), negative])
        zeros, other = (_run(nodes, source, rows) for rows in (np.zeros_like(several), several))
        token_wise = {key for key, value in zeros.items() if value.size == several.size}
        nodes = [node for node in nodes if _inputs(node).union(node.outputs) <= token_wise]
        tokens = _tokens_apart(nodes, source, np.arange(vocabulary))
        known: set[int] = set()
        self._found[name] = []
        for tensor, (token, is_false) in tokens.items():
            reached = _reached(self._nodes, tensor)
            known |= reached
            is_mask = is_false and any(each in reached for _, each in masks)
            self._found[name].append(_Comparison(token, is_mask))
        for argument, tensor in masks:
            computed = tensor in zeros and tensor in other
            if tensor in known or (computed and np.array_equal(zeros[tensor], other[tensor])):
                continue  # what is the same for other tokens is made of their shape
            self._unclear[name] = argument


def _vocabulary(dtype: str) -> int:
    """How many tokens ids of a dtype may be; 0 if they are no numbers."""
    if keras.backend.is_int_dtype(dtype):
        return min(_VOCABULARY, int(np.iinfo(dtype).max) + 1)
    return _VOCABULARY if dtype in ("float32", "float64") else 0


def _inputs(node: GraphNode) -> set[int]:
    return set().union(*node.arguments.values())


def _computed_from(nodes: Sequence[GraphNode], source: int) -> list[GraphNode]:
    """What computes tensors from one alone, without any state."""
    own, found = {source}, []
    for node in nodes:
        if node.run is not None and _inputs(node) and _inputs(node) <= own:
            own.update(node.outputs)
            found.append(node)
    return found


def _reached(nodes: Sequence[GraphNode], tensor: int) -> set[int]:
    """The tensors that are computed from one, among others, without any state."""
    found = {tensor}
    for node in nodes:
        if node.run is not None and _inputs(node) & found:
            found.update(node.outputs)
    return found


def _run(nodes: Sequence[GraphNode], source: Any, tokens: NDArray[Any]) -> Arrays:
    """What nodes compute of tokens that are the input ``source``."""
    values = {id(source): keras.ops.convert_to_tensor(tokens, dtype=source.dtype)}
    found = {id(source): tokens}
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # the model's own call warns as well
        for node in nodes:
            if node.run is None or not _inputs(node) <= found.keys():
                continue
            with suppress(Exception):  # a user's layer may be made for other tokens, or no arrays
                outputs = node.run({key: values[key] for key in _inputs(node)})
                arrays = [np.asarray(keras.ops.convert_to_numpy(each)) for each in outputs]
                values.update(zip(node.outputs, outputs, strict=True))
                found.update(zip(node.outputs, arrays, strict=True))
    return found


def _tokens_apart(
    nodes: Sequence[GraphNode], source: Any, vocabulary: NDArray[Any]
) -> dict[int, tuple[int, bool]]:
    """The tensors that tell one token from all others.

    Args:
        nodes: What computes one entry for each token.
        source: An input of the graph.
        vocabulary: All tokens.

    Returns:
        For each of those tensors, the token, and whether it is false there alone.
    """
    if not nodes:
        return {}
    # In rows of one token.
    parts = [
        _run(nodes, source, tokens[:, None])
        for tokens in np.split(vocabulary, range(_AT_ONCE, len(vocabulary), _AT_ONCE))
    ]
    found, tables = {}, {}
    for key in set.intersection(*(set(part) for part in parts)):
        table = np.concatenate([part[key].ravel() for part in parts])
        values, counts = np.unique(table, return_counts=True)
        if len(table) == len(vocabulary) and len(values) == 2 and counts.min() == 1:
            tables[key] = table
            found[key] = int(np.flatnonzero(table == values[counts.argmin()])[0])
    # In rows of several, to see that what is beside a token does not matter.
    tokens = np.random.default_rng(0).choice(
        [*found.values(), 1, 2], size=(2, source.shape[1] or 8)
    )
    seen = _run(nodes, source, tokens)
    return {
        key: (token, not tables[key][token])
        for key, token in found.items()
        if key in seen and np.array_equal(seen[key].ravel(), tables[key][tokens].ravel())
    }
