"""Override the forward of one module, on the instance.

A forward hook would do for a plain model. An override does more: ``torch.compile`` guards on it, so
a model that was compiled before is compiled again with the new forward. The module's class stays
as it is, so code that selects modules by their exact type, and code that swaps the class itself, as
``fully_shard`` does, works as before.
"""

from __future__ import annotations

import functools
import inspect
from collections.abc import Callable, Iterator
from types import MethodType
from typing import Any, TypeAlias, cast

from torch import nn

__all__ = ["Forward", "ForwardOverride"]

Forward: TypeAlias = Callable[..., Any]
"""A module's forward, unbound: its first argument is the module."""

_MARK = "_embnoise_override"
_REDUCE = "__reduce_ex__"


class ForwardOverride:
    """A module with another forward, until ``undo``.

    A copy or a pickle of the module has the original forward, with nothing of ours in it.

    Args:
        module: The module.
        wrap: From the module's forward to the one that replaces it.
        owner: What ``ForwardOverride.owner_of`` returns for the module.
    """

    def __init__(
        self, module: nn.Module, wrap: Callable[[Forward], Forward], owner: object
    ) -> None:
        self.module = module
        self.owner = owner
        self._wrap = wrap
        self.active = True
        self._install()

    @staticmethod
    def owner_of(module: nn.Module) -> object | None:
        """The owner of an override that the module is under; ``None`` if there is none."""
        for override in _overrides_of(module):
            if override.active and override.owner is not None:
                return override.owner
        return None

    def restore(self) -> bool:
        """Override the forward again if something else has replaced it; returns whether it had.

        accelerate's ``unwrap_model(keep_fp32_wrapper=False)`` strips every wrapper from a model.
        """
        module = self.module
        if vars(module).get("forward") is self._bound or any(
            each is self for each in _overrides_of(module)
        ):
            return False
        self._install()
        return True

    def was_undone(self) -> bool:
        """Whether something else has put a forward back that the module had before.

        accelerate's ``remove_hook_from_module`` does. Any other forward may call this one.
        """
        forward = vars(self.module).get("forward")
        earlier = [type(self.module).forward, *map(_function_of, _chain(self._previous))]
        return self.active and (forward is None or _function_of(forward) in earlier)

    def undo(self) -> None:
        """Restore the module's forward.

        Below a wrapper that was put on top meanwhile, the override only becomes ineffective.
        """
        self.active = False
        attributes = vars(self.module)
        if attributes.get("forward") is not self._bound:
            return
        del attributes["forward"]
        attributes.pop(_REDUCE, None)
        previous = self._previous
        while (below := _override_in(previous)) is not None and not below.active:
            previous = below._previous
        if previous is not None:
            attributes["forward"] = previous
            if (below := _override_in(previous)) is not None:
                attributes[_REDUCE] = below._reduce

    def _install(self) -> None:
        module = self.module
        self._previous = previous = vars(module).get("forward")
        # accelerate puts its device hooks, and autocast, on the instance.
        before = type(module).forward if previous is None else _unbound(previous)
        replaced = self._wrap(before)

        @functools.wraps(type(module).forward if previous is None else previous)
        def forward(called: nn.Module, /, *args: Any, **kwargs: Any) -> Any:
            if self.active and called is module:
                return replaced(called, *args, **kwargs)
            return before(called, *args, **kwargs)

        if previous is not None and not isinstance(previous, MethodType):
            forward.__signature__ = _with_self(previous)  # type: ignore[attr-defined]
        setattr(forward, _MARK, self)
        self._bound = MethodType(forward, module)
        vars(module)["forward"] = self._bound
        vars(module)[_REDUCE] = self._reduce

    def _reduce(self, protocol: Any) -> Any:
        """Stands on the instance, where ``pickle`` and ``copy.deepcopy`` look first."""
        reduced = type(self.module).__reduce_ex__(self.module, protocol)
        if not (isinstance(reduced, tuple) and len(reduced) > 2 and isinstance(reduced[2], dict)):
            return reduced
        build, args, state, *rest = reduced
        state = {name: value for name, value in state.items() if name not in ("forward", _REDUCE)}
        previous = vars(self.module)["forward"]
        while (override := _override_in(previous)) is not None:
            previous = override._previous
        if previous is not None:
            state["forward"] = previous
        return build, args, state, *rest

    def __deepcopy__(self, memo: dict[int, Any]) -> ForwardOverride:
        return self  # where a class copies its attributes itself: no effect on another module


def _overrides_of(module: nn.Module) -> Iterator[ForwardOverride]:
    """The overrides of a module, from the outermost to the innermost."""
    for forward in _chain(vars(module).get("forward")):
        override = _override_in(forward)
        if override is not None and override.module is module:
            yield override


def _chain(forward: Forward | None) -> Iterator[Forward]:
    """A forward, the one that it wraps, and so on."""
    while forward is not None:
        yield forward
        forward = getattr(forward, "__wrapped__", None)


def _override_in(forward: Any) -> ForwardOverride | None:
    """The override that a forward is; not one that it wraps, whose attributes it may copy."""
    override = getattr(forward, _MARK, None)
    if override is None or forward not in (override._bound, override._bound.__func__):
        return None
    return cast("ForwardOverride", override)


def _function_of(forward: Forward) -> Forward:
    return forward.__func__ if isinstance(forward, MethodType) else forward


def _unbound(instance: Forward) -> Forward:
    if isinstance(instance, MethodType):
        return instance.__func__
    return lambda _module, *args, **kwargs: instance(*args, **kwargs)


def _with_self(instance: Forward) -> inspect.Signature | None:
    """The signature of a forward that does not take the module, with the module in front."""
    try:
        signature = inspect.signature(instance)
    except (TypeError, ValueError):
        return None
    module = inspect.Parameter("self", inspect.Parameter.POSITIONAL_ONLY)
    return signature.replace(parameters=[module, *signature.parameters.values()])
