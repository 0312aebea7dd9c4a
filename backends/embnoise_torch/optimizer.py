"""Following an optimizer: a call for each of its steps, whoever makes it and whenever."""

from __future__ import annotations

import inspect
import sys
import warnings
from collections.abc import Callable, Iterable
from contextlib import ExitStack
from functools import partial
from typing import Any, Literal, TypeAlias
from weakref import WeakKeyDictionary

from torch import nn
from torch.optim import Optimizer
from torch.optim.optimizer import register_optimizer_step_post_hook

from embnoise.backend import Noise, format_value
from embnoise_torch import _compat
from embnoise_torch.tracing.custom_op import call_opaque

__all__ = ["FollowedOptimizer", "OptimizerArgument"]

OptimizerArgument: TypeAlias = (
    "Optimizer | nn.Module | Callable[[], Any] | Literal['manual'] | None"
)
"""What the argument ``optimizer`` of ``attach`` may be."""

_ENDED: WeakKeyDictionary[Optimizer, Noise] = WeakKeyDictionary()
"""The noise that an optimizer's steps were counted for last, until its handle was removed."""


class FollowedOptimizer:
    """Calls a function after every step of an optimizer, until ``stop``.

    Args:
        optimizer: A PyTorch optimizer, in the wrapper of Accelerate or not; a DeepSpeed engine or
            its optimizer; or a function without parameters that returns one of these, or ``None``
            as long as there is none. It is called after the steps of all optimizers.
        advance: What to call. It returns the step that has ended.
        noise: Whose steps they are.
        modules: Those whose noise counts the steps. Another optimizer that steps their parameters
            may be the one that was meant.

    Raises:
        TypeError: ``optimizer`` is something else.
    """

    def __init__(
        self,
        optimizer: Any,
        advance: Callable[[], int],
        noise: Noise,
        modules: Iterable[nn.Module],
    ) -> None:
        self._advance = advance
        self._noise = noise
        self._modules = tuple(modules)
        self._find: Callable[[], Any] | None = None
        self._steps_of_others = 0
        self._rivals: WeakKeyDictionary[Optimizer, bool] = WeakKeyDictionary()
        """Whether another optimizer may be the one that was meant; no step looks again."""
        self._warned = False
        found = _base_optimizer(optimizer)
        self._followed = found if isinstance(found, Optimizer) else None
        self._begins_again = self._followed is not None and _ENDED.get(found) == noise
        self._has_counted = False
        if isinstance(found, Optimizer) and _compat.has_step_hooks(found):
            own = found.register_step_post_hook(self._stepped)
            others = register_optimizer_step_post_hook(partial(self._stepped_in_place_of, found))
            undo = ExitStack()
            undo.callback(own.remove)
            undo.callback(others.remove)
            self._stop = undo.close
        elif found is not None:
            self._stop = self._follow_calls(found)
        elif _returns_an_optimizer(optimizer):
            self._find = optimizer
            self._stop = register_optimizer_step_post_hook(self._stepped).remove
        else:
            raise _wrong_type("optimizer must be", optimizer)

    def stop(self) -> None:
        """Call the function no more."""
        self._stop()
        if self._followed is not None and self._has_counted:
            _ENDED[self._followed] = self._noise

    def _count(self) -> None:
        step = self._advance()
        self._has_counted = True
        if self._begins_again and step == 0:
            warnings.warn(
                "embnoise: noise was attached to count the steps of this optimizer before, and "
                "begins at step 0 again, so it repeats what it added then, and its schedule starts "
                "anew. Attach once, around all epochs; or continue with "
                "handle.load_state_dict(before.state_dict()); for another run, pass another seed",
                RuntimeWarning,
                stacklevel=6,
            )

    def _stepped_in_place_of(self, followed: Optimizer, optimizer: Optimizer, *_: object) -> None:
        """Some optimizer has made a step: perhaps one that took the followed one's place.

        That may have been made again, for a second phase say, or be that of another model; or
        another one steps inside of it: SAM's ``first_step`` and ``second_step`` are called in place
        of ``step``.
        """
        if optimizer is followed:
            self._steps_of_others = 0
        elif (
            not self._warned
            and self._is_rival(optimizer, followed)
            # It may be a part of a step that counts, or of one of its own.
            and {followed, optimizer}.isdisjoint(_steps_around())
        ):
            self._steps_of_others += 1
            if self._steps_of_others == 2:
                self._warned = True
                name, other = type(followed).__name__, type(optimizer).__name__
                warnings.warn(
                    f"embnoise: {other} made two steps on parameters of the {name} whose steps the "
                    "noise counts, or of the layers that get noise, and that made none, so the "
                    "step and alpha of the noise stand still. Pass the optimizer of this model; if "
                    "it was made again, a function that returns the current one, "
                    f"optimizer=lambda: trainer.optimizer; if {name} steps another one, that, such "
                    f"as the base_optimizer of {name}",
                    RuntimeWarning,
                    stacklevel=5,
                )

    def _is_rival(self, optimizer: Optimizer, followed: Optimizer) -> bool:
        if optimizer not in self._rivals:
            own = {id(each) for module in self._modules for each in module.parameters()}
            own |= _parameters(followed)
            wraps = _base_optimizer(optimizer) is followed  # and may step it once in many steps
            self._rivals[optimizer] = not (wraps or own.isdisjoint(_parameters(optimizer)))
        return self._rivals[optimizer]

    def _stepped(self, optimizer: Optimizer, *_: object) -> None:
        """An optimizer of PyTorch has made a step."""
        if optimizer in _steps_around():
            return  # its class has called the step of its parent
        inside = _in_deepspeed_step()
        if self._find is not None:
            returned = self._find()
            found = _base_optimizer(returned)
            if returned is None:
                self._warn_of_none(optimizer)
                return
            if found is None:
                raise _wrong_type("optimizer must return", returned)
            if found not in (optimizer, inside):
                self._stepped_in_place_of(found, optimizer)
                return
            self._steps_of_others = 0
        if inside is not None:
            # DeepSpeed steps the optimizer inside of its own once for each group of parameters.
            self._stop()
            self._stop = self._follow_calls(inside)
        self._count()

    def _follow_calls(self, optimizer: Any) -> Callable[[], None]:
        """Follow an optimizer without hooks, such as DeepSpeed's; returns what ends that."""
        original = optimizer.step

        def step(*args: Any, **kwargs: Any) -> Any:
            result = original(*args, **kwargs)
            if following:
                self._count()
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


def _returns_an_optimizer(function: Any) -> bool:
    """Whether an argument may be a function without parameters that returns an optimizer.

    A class makes an optimizer that nobody steps.
    """
    if not callable(function) or isinstance(function, type | nn.Module):
        return False
    try:
        inspect.signature(function).bind()
    except TypeError:
        return False
    except ValueError:  # a builtin without a signature
        pass
    return True


def _parameters(optimizer: Optimizer) -> set[int]:
    """The ids of all parameters: groups may be formed anew, and frozen parameters left out."""
    return {id(each) for group in optimizer.param_groups for each in group["params"]}


def _wrong_type(role: str, value: object) -> TypeError:
    return TypeError(
        f"{role} a torch.optim.Optimizer, a DeepSpeed engine or its optimizer, a function without "
        f"parameters that returns one of these, or 'manual', got {format_value(value)}"
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


def _steps_around() -> list[Optimizer]:
    """The optimizers inside whose steps the step is that has just ended."""
    _, *around = call_opaque(lambda: list(_compat.stepping()))
    return around


def _in_deepspeed_step() -> Any:
    """The optimizer of DeepSpeed that is making a step in this thread; ``None`` if none is."""
    kinds = _deepspeed_kinds()
    return next(iter(_compat.calling(kinds)), None) if kinds else None
