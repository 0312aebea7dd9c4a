"""The running calls of a model and the layers in it: they describe what an embedding looks up."""

from __future__ import annotations

import threading
from collections import Counter
from collections.abc import Mapping
from contextlib import ExitStack
from inspect import signature
from typing import Any

import keras

from embnoise_keras._compat import all_layers, graph_inputs
from embnoise_keras.calls import around_calls

__all__ = ["CallRecorder", "ModelCall", "enclosing_layers", "running_calls"]

# The innermost running call. Each replica of a MirroredStrategy has a thread of its own, and they
# take turns.
_local = threading.local()


class ModelCall:
    """One call of a layer that has an embedding in it, which may look up several times.

    Attributes:
        layer: The layer that is called.
        inputs: The arguments of the call by name, and the entries of its input.
        outer: The recorded call that made this one.
        number: How many calls of this layer came before it in ``outer``.
        begun: For each noise layer in the call, the counter at its first lookup and the number of
            its lookups so far.
    """

    def __init__(
        self, layer: Any = None, inputs: Mapping[str, Any] | None = None, number: int = 0
    ) -> None:
        self.layer = layer
        self.inputs = {} if inputs is None else inputs
        self.outer = _running()
        self.number = number
        self.begun: dict[Any, tuple[Any, int]] = {}
        self._entered: Counter[int] = Counter()

    def enter(self, layer: Any) -> int:
        """Note a call of a layer that this call makes; returns how many came before."""
        self._entered[id(layer)] += 1
        return self._entered[id(layer)] - 1


def _running() -> ModelCall | None:
    return getattr(_local, "running", None)


def running_calls() -> list[ModelCall]:
    """The calls that are running in this thread, from the innermost to the outermost."""
    calls, call = [], _running()
    while call is not None:
        calls.append(call)
        call = call.outer
    return calls


def enclosing_layers(model: Any, embeddings: list[Any]) -> list[Any]:
    """The model and the layers in it that have one of the embeddings in them."""
    wanted = {id(each) for each in embeddings}
    return [
        layer
        for layer in all_layers(model)
        if id(layer) not in wanted and wanted & {id(each) for each in all_layers(layer)}
    ]


class CallRecorder:
    """Keeps the running calls of a layer, for all the handles on it.

    It wraps the layer's calls from the first ``acquire`` to the last ``release``.
    """

    def __init__(self, layer: Any) -> None:
        self._layer = layer
        self._users = 0
        self._undo = ExitStack()
        self._undo.enter_context(around_calls(layer, self._recorded))

    @classmethod
    def acquire(cls, layer: Any) -> CallRecorder:
        """The recorder of a layer, for one more user."""
        recorder = getattr(vars(layer).get("call"), "recorder", None)
        if recorder is None:
            recorder = cls(layer)
            layer.call.recorder = recorder
        recorder._users += 1
        return recorder

    def release(self) -> None:
        """Have one user less; the last one leaves the layer as it was."""
        self._users -= 1
        if self._users == 0:
            self._undo.close()

    def _recorded(self, call: Any) -> Any:
        names = list(signature(call).parameters)

        def recorded(*args: Any, **kwargs: Any) -> Any:
            outer = _running()
            number = 0 if outer is None else outer.enter(self._layer)
            inputs = dict(zip(names, args, strict=False)) | kwargs
            _local.running = ModelCall(self._layer, self._named(inputs), number)
            try:
                return call(*args, **kwargs)
            finally:
                _local.running = outer

        return recorded

    def _named(self, inputs: dict[str, Any]) -> dict[str, Any]:
        """The arguments, and what is in those that are structures, by name."""
        entries: dict[str, Any] = {}
        expected = graph_inputs(self._layer)
        if not hasattr(inputs.get("mask"), "shape"):
            # Keras's own, with a None for each input; an input may have that name.
            inputs = {name: value for name, value in inputs.items() if name != "mask"}
        for number, value in enumerate(inputs.values()):
            if isinstance(value, Mapping):
                entries = {**_flat(value), **entries}
            elif number == 0 and expected:
                flat = keras.tree.flatten(value)
                if len(flat) == len(expected):
                    entries = dict(zip(expected, flat, strict=True)) | entries
        # A functional model casts its inputs before its graph sees them.
        for name, symbolic in expected.items():
            if entries.get(name) is not None and not keras.backend.is_float_dtype(symbolic.dtype):
                entries[name] = keras.ops.convert_to_tensor(entries[name], dtype=symbolic.dtype)
        return entries | inputs


def _flat(structure: Mapping[str, Any]) -> dict[str, Any]:
    """The entries of dicts in dicts by their own names; those further out come first."""
    inner = [_flat(value) for value in structure.values() if isinstance(value, Mapping)]
    entries = {name: value for each in reversed(inner) for name, value in each.items()}
    return entries | dict(structure)
