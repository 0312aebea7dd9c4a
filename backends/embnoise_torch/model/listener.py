"""Hear the calls of the modules around the layers that get noise."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from typing import Any

import torch
from torch import nn

from embnoise_torch import _compat
from embnoise_torch.model.batches import ModelCall
from embnoise_torch.model.call_stack import Caller, Calls, ThreadCalls
from embnoise_torch.model.forward_override import Forward, ForwardOverride

__all__ = ["Listener"]

_TRAINER = Caller(
    nn.Identity(), -1, ["batch"], False, {}, tells=False, has_unknown=False, checks=False
)
"""Stands for a trainer, which calls the model or parts of it for a batch."""


class Listener:
    """Hears the calls of some modules, from ``start`` to ``stop``.

    Args:
        returned: Called with a caller that ``checks`` and its arguments when its call has returned,
            if no other one that does was around it.

    Attributes:
        thread: The calls that have not returned yet, of each thread.
        traced: Those that the compiler traces: in one thread, and it knows nothing of what is a
            thread's own.
        given: What the user's functions may name beside the arguments of these calls.
    """

    def __init__(self, returned: Callable[[Caller, ModelCall], None]) -> None:
        self.thread = ThreadCalls()
        self.traced = Calls()
        self.given: ModelCall = {}
        self._returned = returned
        self._overrides: list[ForwardOverride] = []

    def start(self, callers: Sequence[Caller]) -> None:
        """Hear the calls of some modules."""
        for caller in callers:
            self._overrides.append(ForwardOverride(caller.module, self._wrap(caller), None))

    def stop(self) -> None:
        """Hear no more calls, and know nothing of the modules."""
        while self._overrides:
            self._overrides.pop().undo()

    def listen_again(self) -> bool:
        """Override the forwards that something else has replaced; returns whether there are any.

        accelerate's ``unwrap_model(keep_fp32_wrapper=False)`` does so in the middle of a run.
        """
        replaced = False
        for override in self._overrides:
            replaced |= override.restore()
        return replaced

    def begin_batch(self, batch: Any) -> None:
        """Hear a batch as if the model was called with it, until ``end_batch``."""
        self.thread.active = ((_TRAINER, _TRAINER.arguments((batch,), {})),)

    def end_batch(self) -> None:
        """Hear it no more."""
        self.thread.active = ()

    @contextmanager
    def giving(self, arguments: ModelCall) -> Iterator[None]:
        """A context with arguments that the user's functions may name."""
        before, self.given = self.given, arguments
        try:
            yield
        finally:
            self.given = before

    def _wrap(self, caller: Caller) -> Callable[[Forward], Forward]:
        def wrap(forward: Forward) -> Forward:
            def listening(module: nn.Module, *args: Any, **kwargs: Any) -> Any:
                compiling = torch.compiler.is_compiling()
                calls: Any = self.traced if compiling else self.thread
                before = calls.active
                outermost = caller.checks and not (
                    compiling
                    or _compat.in_backward()
                    or (before and any(each.checks for each, _ in before))
                )
                arguments = caller.arguments(args, kwargs)
                calls.active = (*before, (caller, arguments))
                try:
                    result = forward(module, *args, **kwargs)
                finally:
                    calls.active = before
                if outermost:
                    self._returned(caller, arguments)
                return result

            return listening

        return wrap
