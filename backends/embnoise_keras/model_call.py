"""The running calls of a model and the layers in it: they describe what an embedding looks up."""

from __future__ import annotations

import threading
from collections import Counter
from collections.abc import Callable
from contextlib import ExitStack
from typing import Any

from embnoise.backend import naming
from embnoise_keras._compat import all_layers, is_repeated_in, tracing
from embnoise_keras.calls import around_calls
from embnoise_keras.inputs import Inputs

__all__ = ["CallRecorder", "ModelCall", "enclosing_layers", "running_calls"]

# The innermost running call. Each replica of a MirroredStrategy has a thread of its own, and they
# take turns.
_local = threading.local()


class ModelCall:
    """One call of a layer that has an embedding in it, which may look up several times.

    Attributes:
        layer: The layer that is called.
        inputs: The arguments of the call, and what is in them.
        outer: The recorded call that made this one.
        number: How many calls of this layer came before it in ``outer``.
        begun: For each noise layer in the call, the counter at its first lookup and the number of
            its lookups so far.
        looked_up: What was looked up in the call.
        at_end: What to do once the call has returned.
    """

    def __init__(self, layer: Any = None, inputs: Inputs | None = None, number: int = 0) -> None:
        self.layer = layer
        self.inputs = inputs or Inputs()
        self.outer = _running()
        self.number = number
        self.begun: dict[Any, tuple[Any, int]] = {}
        self.looked_up: list[Any] = []
        self.at_end: list[Callable[[], None]] = []
        self._entered: Counter[int] = Counter()
        self._tracing = tracing()

    def is_repeated(self) -> bool:
        """Whether what runs now may run repeatedly in this one call."""
        return self.layer is not None and is_repeated_in(self._tracing)

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
        named = naming(call)

        def recorded(*args: Any, **kwargs: Any) -> Any:
            outer = _running()
            number = 0 if outer is None else outer.enter(self._layer)
            inputs = Inputs(self._layer, named(*args, **kwargs))
            _local.running = running = ModelCall(self._layer, inputs, number)
            try:
                result = call(*args, **kwargs)
                for each in running.at_end:
                    each()
                return result
            finally:
                running.at_end.clear()  # which may refer to the call
                _local.running = outer

        return recorded
