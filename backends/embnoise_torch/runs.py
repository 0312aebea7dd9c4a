"""The noise that plug-ins attached for a run, which may have ended in an error since."""

from __future__ import annotations

from collections.abc import Iterable
from weakref import WeakKeyDictionary, ref

from torch import nn

from embnoise_torch.handle import Handle
from embnoise_torch.model.forward_override import ForwardOverride

__all__ = ["begin", "end", "is_running", "remove_stale"]

_RUNS: WeakKeyDictionary[Handle, ref[object]] = WeakKeyDictionary()
"""The run of each handle, which may hold that handle."""


def begin(handle: Handle, run: object) -> Handle:
    """Note that a run has noise; returns the handle.

    Args:
        handle: The noise.
        run: What stands for the run, such as its trainer or the state of that.
    """
    _RUNS[handle] = ref(run)
    return handle


def end(handle: Handle) -> None:
    """Remove the noise of a run."""
    _RUNS.pop(handle, None)
    handle.remove()


def is_running(handle: Handle | None) -> bool:
    """Whether noise was attached for a run that has not ended."""
    return handle in _RUNS


def remove_stale(model: nn.Module, running: Iterable[object], own: Handle | None = None) -> None:
    """Remove what runs have left on a model that did not end as they should.

    Args:
        model: The model to train.
        running: The runs that are running, with the one that begins.
        own: A handle to remove whatever model it is on, unless its run is running.
    """
    owners = {ForwardOverride.owner_of(module) for module in model.modules()} | {own}
    known = [*running]
    for handle, run in list(_RUNS.items()):
        if handle in owners and all(run() is not each for each in known):
            end(handle)
