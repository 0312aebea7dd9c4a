"""What the graph of a functional model compares token ids with, which may tell their padding.

A comparison can be written in many ways. So none is looked for: the graph computes what it makes of
every token. L tokens in a row.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import Any, NamedTuple, TypeAlias

import numpy as np
from numpy.typing import NDArray

from embnoise_keras._compat_graph import (
    GraphCall,
    GraphNode,
    graph_calls,
    graph_inputs,
    graph_nodes,
)
from embnoise_keras.graph_values import (
    UNKNOWN_LENGTH,
    Arrays,
    alone_from,
    computed_with,
    examples,
    inputs_of,
    run,
    vocabulary,
)
from embnoise_keras.mask_sources import MaskSource, masks_in, masks_of_others
from embnoise_keras.random_state import keeping_random_state, without_updates

__all__ = ["Comparisons", "Padding"]

_Key: TypeAlias = str | int
"""The name of an input of the graph, or the identity of another tensor."""

_AT_ONCE = 2**13
"""How many tokens are computed together: a user's layer may compare them with one another."""


class Padding(NamedTuple):
    """The id of padding that the tokens of a call are compared with."""

    source: str | None
    """The input of the graph that these are; ``None`` if they are what the call is given."""
    token: int


class _Comparison(NamedTuple):
    """What tells one token from all others."""

    token: int
    is_mask: bool
    """Whether it is false for the token alone, and a layer takes it as a mask."""


class Comparisons:
    """What the graph of a functional model compares token ids with.

    Args:
        model: The model. Nothing is known of one that is not functional, or of None.
        layers: The layers of which the calls in the graph are asked for. What they are given is
            compared, and the inputs that this is computed from.
    """

    def __init__(self, model: Any, layers: Iterable[Any]) -> None:
        self._nodes = [
            node._replace(run=without_updates(node.run))
            if node.run is not None and node.runs_users_code
            else node
            for node in graph_nodes(model)
        ]
        self._found: dict[_Key, list[_Comparison]] = {}
        self._unclear: dict[_Key, str] = {}  # arguments that may tell their padding
        self._own: dict[_Key, set[int]] = {}  # what is computed from each alone, and it itself
        self._others: dict[tuple[int, ...], list[MaskSource]] = {}  # by the outputs of calls
        if not self._nodes:
            return
        inputs = graph_inputs(model)
        calls = [call for layer in layers for call in graph_calls(model, layer)]
        with keeping_random_state():
            for call in calls:
                for key in _keys(call):
                    if key not in self._own:
                        self._compare(key, inputs[key] if isinstance(key, str) else call.given)
            computed = {each for call in calls for each in call.outputs}
            for call in calls:
                told = set().union(*(self._own[key] for key in _keys(call)))
                self._others[call.outputs] = masks_of_others(
                    self._nodes, call, inputs, told, computed
                )

    def padding(self, call: GraphCall, *, of_inputs: bool) -> Padding | None:
        """The only id of padding that the tokens of a call are compared with, if there is one.

        Args:
            call: The call.
            of_inputs: Whether its tokens are those of an input of the graph.
        """
        own = self._padding(key for key in _keys(call) if isinstance(key, int))
        if len(own) == 1:
            return Padding(None, own.pop()[1])
        told = self._padding(call.sources) if of_inputs else set()
        return Padding(*told.pop()) if len(told) == 1 else None

    def _padding(self, keys: Iterable[Any]) -> set[tuple[Any, int]]:
        """The ids of padding that tensors are compared with, each with the key.

        Any other id than 0 may be that of [MASK], say, unless the comparison becomes a mask.
        """
        return {
            (key, each.token)
            for key in keys
            for each in self._found.get(key, [])
            if each.token == 0 or each.is_mask
        }

    def unknown(self, call: GraphCall) -> str | None:
        """What to say of what may tell the padding of the ids of a call; ``None`` if nothing may.

        Without a mask, that is: what ``padding`` found was not taken.
        """
        keys = _keys(call)
        found = {each.token for key in keys for each in self._found.get(key, [])}
        tokens = " and ".join(map(str, sorted(found)))
        if found and len(self._padding(keys)) == 1:
            return f"the model's comparison with {tokens} is of ids that it looks up otherwise"
        if found:
            return (
                f"the model's comparison of ids with {tokens} may be with other tokens than padding"
            )
        unclear = [(self._unclear[key], key) for key in keys if key in self._unclear]
        for argument, key in unclear:
            source = f"the input {key!r}" if isinstance(key, str) else "the ids"
            return f"how {argument} is computed from {source} is not known"
        return None

    def of_others(self, call: GraphCall, taken: Iterable[str]) -> str | None:
        """What to say of masks of the layers behind a call that are made of other inputs.

        Args:
            call: The call.
            taken: The names of inputs that tell something else.
        """
        for argument, names in self._others.get(call.outputs, []):
            if not {*names} & {*taken}:
                inputs = "the input " if len(names) == 1 else "the inputs "
                listed = inputs + " and ".join(map(repr, names))
                return f"how {argument} is computed from {listed} is not known"
        return None

    def _compare(self, key: _Key, source: Any) -> None:
        nodes = alone_from(self._nodes, id(source))
        own = {id(source)}.union(*(node.outputs for node in nodes))
        self._own[key] = own
        size = vocabulary(source.dtype)
        if len(source.shape) != 2 or not size:
            return
        masks = {each for node in self._nodes for each in masks_in(node) if each[1] in own}
        several = examples(source)
        zeros, other = (run(nodes, [(source, rows)]) for rows in (np.zeros_like(several), several))
        token_wise = {each for each, value in zeros.items() if value.size == several.size}
        nodes = [node for node in nodes if inputs_of(node).union(node.outputs) <= token_wise]
        tokens = _tokens_apart(nodes, source, np.arange(size))
        stateless = [node for node in self._nodes if node.run is not None]
        known: set[int] = set()
        self._found[key] = []
        for tensor, (token, is_false) in tokens.items():
            reached = computed_with(stateless, {tensor})
            known |= reached
            is_mask = is_false and any(each in reached for _, each in masks)
            self._found[key].append(_Comparison(token, is_mask))
        for argument, tensor in masks:
            computed = tensor in zeros and tensor in other
            if tensor in known or (computed and np.array_equal(zeros[tensor], other[tensor])):
                continue  # what is the same for other tokens is made of their shape
            self._unclear[key] = argument


def _keys(call: GraphCall) -> list[_Key]:
    """Where comparisons of the ids of a call may start.

    With ids that are an input as it stands, or cast, that is the same as what the call is given.
    """
    given = [] if call.direct or call.given is None else [id(call.given)]
    return [*given, *sorted(call.sources)]


def _tokens_apart(
    nodes: Sequence[GraphNode], source: Any, tokens: NDArray[Any]
) -> dict[int, tuple[int, bool]]:
    """The tensors that tell one token from all others.

    Args:
        nodes: What computes one entry for each token.
        source: What they compute it from.
        tokens: All tokens.

    Returns:
        For each of those tensors, the token, and whether it is false there alone.
    """
    if not nodes:
        return {}

    def of(rows: NDArray[Any]) -> Arrays:
        return run(nodes, [(source, rows)])

    # In rows of one token.
    parts = [of(each[:, None]) for each in np.split(tokens, range(_AT_ONCE, len(tokens), _AT_ONCE))]
    found, tables = {}, {}
    for key in set.intersection(*(set(part) for part in parts)):
        table = np.concatenate([part[key].ravel() for part in parts])
        values, counts = np.unique(table, return_counts=True)
        if len(table) == len(tokens) and len(values) == 2 and counts.min() == 1:
            tables[key] = table
            found[key] = int(np.flatnonzero(table == values[counts.argmin()])[0])
    # In rows of several, to see that what is beside a token does not matter.
    rows = np.random.default_rng(0).choice(
        [*found.values(), 1, 2], size=(2, source.shape[1] or UNKNOWN_LENGTH)
    )
    seen = of(rows)
    return {
        key: (token, not tables[key][token])
        for key, token in found.items()
        if key in seen and np.array_equal(seen[key].ravel(), tables[key][rows].ravel())
    }
