"""Give one module a forward of its own, through a class of its own.

A forward hook would do for a plain model. A class does more: ``torch.compile`` guards on it, so a
model that was compiled before is compiled again with the new forward in it, and a copy or a pickle
of the module is made as one of the original class, with nothing of ours in it. The new class keeps
the old one's name, so that nothing that is saved under that name changes.
"""

from __future__ import annotations

import copyreg
import functools
from collections.abc import Callable
from typing import Any

from torch import nn

__all__ = ["Forward", "Specialised"]

Forward = Callable[..., Any]
"""A module's forward, unbound: its first argument is the module."""


class Specialised:
    """A module under a subclass of its own class, until ``undo``.

    Args:
        module: the module; its class is changed in place.
        around: from the module's forward to the one that takes its place.
        owner: what ``Specialised.owner_of`` returns for the module.
    """

    def __init__(
        self, module: nn.Module, around: Callable[[Forward], Forward], owner: object
    ) -> None:
        self.module = module
        self._base = base = type(module)
        self._instance = instance = vars(module).pop("forward", None)
        # accelerate puts its device hooks, and autocast, on the instance.
        before = base.forward if instance is None else _unbound(instance)
        forward = functools.wraps(base.forward if instance is None else instance)(around(before))

        def reduce(self: nn.Module, protocol: Any) -> Any:
            reduced: Any = base.__reduce_ex__(self, protocol)
            build, args, *rest = reduced
            if build is getattr(copyreg, "__newobj__"):  # noqa: B009, it is not in the stubs
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
        """The owner of the specialisation that the module is under; ``None`` if under none."""
        return getattr(type(module), "_embnoise_owner", None)

    def undo(self) -> bool:
        """Give the module its class back; false if another has been put on top of ours since."""
        if type(self.module) is not self._class:
            return False
        self.module.__class__ = self._base
        if self._instance is not None:
            self.module.forward = self._instance
        return True


def _unbound(instance: Forward) -> Forward:
    return lambda _module, *args, **kwargs: instance(*args, **kwargs)
