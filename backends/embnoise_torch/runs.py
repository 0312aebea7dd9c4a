"""The noise that plug-ins attached for a run, which may have ended in an error since."""

from __future__ import annotations

from collections.abc import Iterable
from weakref import WeakSet

from torch import nn

from embnoise_torch.handle import Handle
from embnoise_torch.model.forward_override import ForwardOverride

__all__ = ["begin", "end", "remove_stale"]

_RUNNING: WeakSet[Handle] = WeakSet()


def begin(handle: Handle) -> Handle:
    """Note that a run has noise; returns the handle."""
    _RUNNING.add(handle)
    return handle


def end(handle: Handle) -> None:
    """Remove the noise of a run."""
    _RUNNING.discard(handle)
    handle.remove()


def remove_stale(model: nn.Module, running: Iterable[Handle | None]) -> None:
    """Remove what runs have left on a model that did not end as they should.

    Args:
        model: The model to train.
        running: The handles of the run that begins.
    """
    owners = {ForwardOverride.owner_of(module) for module in model.modules()} - {*running}
    for handle in list(_RUNNING):
        if handle in owners:
            end(handle)
