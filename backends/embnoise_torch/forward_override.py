"""Override the forward of one module, through a subclass made for it.

A forward hook would do for a plain model. A class does more: ``torch.compile`` guards on it, so a
model that was compiled before is compiled again with the new forward, and a copy or a pickle of the
module is an instance of the original class, with nothing of ours in it. The subclass keeps the name
of its base, so that nothing that is saved under that name changes.
"""

from __future__ import annotations

import functools
from collections.abc import Callable
from typing import Any, TypeAlias

from torch import nn

from embnoise_torch import _compat

__all__ = ["Forward", "ForwardOverride"]

Forward: TypeAlias = Callable[..., Any]
"""A module's forward, unbound: its first argument is the module."""


class ForwardOverride:
    """A module under a subclass of its own class, until ``undo``.

    Args:
        module: The module; its class is changed in place.
        wrap: From the module's forward to the one that replaces it.
        owner: What ``ForwardOverride.owner_of`` returns for the module.
    """

    def __init__(
        self, module: nn.Module, wrap: Callable[[Forward], Forward], owner: object
    ) -> None:
        self.module = module
        self._base = base = type(module)
        self._instance = instance = vars(module).pop("forward", None)
        # accelerate puts its device hooks, and autocast, on the instance.
        before = base.forward if instance is None else _unbound(instance)
        forward = functools.wraps(base.forward if instance is None else instance)(wrap(before))

        def reduce(self: nn.Module, protocol: Any) -> Any:
            reduced: Any = base.__reduce_ex__(self, protocol)
            build, args, *rest = reduced
            if build is _compat.new_object():
                build = object.__new__
            if instance is not None:
                rest[0] = {**rest[0], "forward": instance}
            return build, tuple(base if arg is type(self) else arg for arg in args), *rest

        self._class = type(
            base.__name__,
            (base,),
            {
                "__doc__": base.__doc__,
                "__module__": base.__module__,
                "__qualname__": base.__qualname__,
                "__reduce_ex__": reduce,
                "_embnoise_owner": owner,
                "forward": forward,
            },
        )
        module.__class__ = self._class

    @staticmethod
    def owner_of(module: nn.Module) -> object | None:
        """The owner of the override that the module is under; ``None`` if there is none."""
        return getattr(type(module), "_embnoise_owner", None)

    def undo(self) -> bool:
        """Restore the module's class; returns False if another one has been put on top of it."""
        if type(self.module) is not self._class:
            return False
        self.module.__class__ = self._base
        if self._instance is not None:
            self.module.forward = self._instance
        return True


def _unbound(instance: Forward) -> Forward:
    return lambda _module, *args, **kwargs: instance(*args, **kwargs)
