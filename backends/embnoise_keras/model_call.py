"""The running call of a model: its arguments describe what its embeddings look up."""

from __future__ import annotations

import threading
from collections.abc import Mapping
from inspect import signature
from typing import Any

__all__ = ["CallRecorder", "ModelCall"]


class ModelCall:
    """One call of a model, in which an embedding may look up several times.

    Attributes:
        inputs: The arguments of the call by name, and the entries of its input dict.
        begun: For each noise layer in the call, the counter at its first lookup and the number of
            its lookups so far.
    """

    def __init__(self, inputs: Mapping[str, Any]) -> None:
        self.inputs = inputs
        self.begun: dict[Any, tuple[Any, int]] = {}


class CallRecorder:
    """Keeps the running call of a model, for all the handles on that model.

    It wraps ``model.call`` from the first ``acquire`` to the last ``release``.
    """

    def __init__(self, model: Any) -> None:
        self._model = model
        self._users = 0
        # Each replica of a MirroredStrategy has a thread of its own, and they take turns.
        self._local = threading.local()

    @classmethod
    def acquire(cls, model: Any) -> CallRecorder:
        """The recorder of a model, for one more user."""
        recorder = getattr(vars(model).get("call"), "recorder", None)
        if recorder is None:
            recorder = cls(model)
            model.call = recorder._recorded(model.call)
        recorder._users += 1
        return recorder

    def release(self) -> None:
        """Have one user less; the last one leaves the model as it was."""
        self._users -= 1
        if self._users == 0:
            del self._model.call

    @property
    def running(self) -> ModelCall | None:
        """The innermost call of the model that is running in this thread."""
        return getattr(self._local, "running", None)

    def _recorded(self, call: Any) -> Any:
        names = list(signature(call).parameters)

        def recorded(*args: Any, **kwargs: Any) -> Any:
            inputs = dict(zip(names, args, strict=False)) | kwargs
            if args and isinstance(args[0], Mapping):
                inputs = dict(args[0]) | inputs
            outer, self._local.running = self.running, ModelCall(inputs)
            try:
                return call(*args, **kwargs)
            finally:
                self._local.running = outer

        recorded.recorder = self  # type: ignore[attr-defined]
        return recorded
