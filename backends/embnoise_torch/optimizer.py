"""Following an optimizer: a call for each of its steps, whoever makes it and whenever."""

from __future__ import annotations

import sys
import warnings
from collections.abc import Callable
from typing import Any, Literal, TypeAlias

from torch import nn
from torch.optim import Optimizer
from torch.optim.optimizer import register_optimizer_step_post_hook

from embnoise.backend import format_value
from embnoise_torch import _compat

__all__ = ["FollowedOptimizer", "OptimizerArgument"]

OptimizerArgument: TypeAlias = (
    "Optimizer | nn.Module | Callable[[], Any] | Literal['manual'] | None"
)
"""What the argument ``optimizer`` of ``attach`` may be."""


class FollowedOptimizer:
    """Calls a function after every step of an optimizer, until ``stop``.

    Args:
        optimizer: A PyTorch optimizer, in the wrapper of Accelerate or not; a DeepSpeed engine or
            its optimizer; or a function without parameters that returns one of these, or ``None``
            as long as there is none. It is called after the steps of all optimizers.
        advance: What to call.

    Raises:
        TypeError: ``optimizer`` is something else.
    """

    def __init__(self, optimizer: Any, advance: Callable[[], None]) -> None:
        self._advance = advance
        self._find: Callable[[], Any] | None = None
        self._warned = False
        found = _base_optimizer(optimizer)
        if isinstance(found, Optimizer):
            self._stop = found.register_step_post_hook(self._stepped).remove
        elif found is not None:
            self._stop = self._follow_deepspeed(found)
        elif callable(optimizer) and not isinstance(optimizer, nn.Module):
            self._find = optimizer
            self._stop = register_optimizer_step_post_hook(self._stepped).remove
        else:
            raise _wrong_type("optimizer must be", optimizer)

    def stop(self) -> None:
        """Call the function no more."""
        self._stop()

    def _stepped(self, optimizer: Optimizer, *_: object) -> None:
        """An optimizer of PyTorch has made a step."""
        partial = _in_deepspeed_step()
        if self._find is not None:
            returned = self._find()
            found = _base_optimizer(returned)
            if returned is None:
                self._warn_of_none(optimizer)
                return
            if found is None:
                raise _wrong_type("optimizer must return", returned)
            if found not in (optimizer, partial):
                return
        if partial is not None:
            # DeepSpeed steps the optimizer inside of its own once for each group of parameters.
            self._stop()
            self._stop = self._follow_deepspeed(partial)
        self._advance()

    def _follow_deepspeed(self, optimizer: Any) -> Callable[[], None]:
        """Follow an optimizer of DeepSpeed, which has no hooks; returns what ends that."""
        original = optimizer.step

        def step(*args: Any, **kwargs: Any) -> Any:
            result = original(*args, **kwargs)
            if following:
                self._advance()
            return result

        def stop() -> None:
            following.clear()
            if vars(optimizer).get("step") is step:
                del optimizer.step

        following = [True]
        optimizer.step = step
        return stop

    def _warn_of_none(self, optimizer: Optimizer) -> None:
        if not self._warned:
            self._warned = True
            warnings.warn(
                f"embnoise: {type(optimizer).__name__} made a step while the function that was "
                "passed as optimizer= returned None, so the noise did not count that step. Return "
                "the optimizer from its first step on",
                RuntimeWarning,
                stacklevel=5,
            )


def _wrong_type(role: str, value: object) -> TypeError:
    return TypeError(
        f"{role} a torch.optim.Optimizer, a DeepSpeed engine or its optimizer, a function that "
        f"returns one of these, or 'manual', got {format_value(value)}"
    )


def _base_optimizer(optimizer: Any) -> Any:
    """The optimizer inside Accelerate's wrapper or a DeepSpeed engine; ``None`` if there is none.

    That of DeepSpeed is no ``torch.optim.Optimizer``.
    """
    kinds = (Optimizer, *_deepspeed_kinds())
    if isinstance(optimizer, nn.Module):  # DeepSpeed's engine
        optimizer = getattr(optimizer, "optimizer", None)
    while isinstance(optimizer, Optimizer) and isinstance(
        inner := getattr(optimizer, "optimizer", None), kinds
    ):
        optimizer = inner
    return optimizer if isinstance(optimizer, kinds) else None


def _deepspeed_kinds() -> tuple[type, ...]:
    deepspeed: Any = sys.modules.get("deepspeed.runtime.base_optimizer")
    return () if deepspeed is None else (deepspeed.DeepSpeedOptimizer,)


def _in_deepspeed_step() -> Any:
    """The optimizer of DeepSpeed that is making a step in this thread; ``None`` if none is."""
    kinds = _deepspeed_kinds()
    return next(iter(_compat.calling(kinds)), None) if kinds else None
