"""Whether a part of a model is in training or evaluation mode, which only flags tell."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

__all__ = ["is_evaluating"]


def is_evaluating(modules: Mapping[str, Any], path: str, *flags: str) -> bool:
    """Whether a layer evaluates: whether all flags around it say so, and there is one.

    The flags are those in the smallest part of the model that holds the layer and has any.

    Args:
        modules: The modules of the model by path.
        path: The layer's.
        *flags: The names of the attributes that are true in evaluation. A value that is no
            boolean, such as None, leaves the mode to the call.
    """
    parts = path.split(".")
    for end in range(len(parts), -1, -1):
        around = ".".join(parts[:end])
        inside = [
            module
            for name, module in modules.items()
            if not around or name == around or name.startswith(f"{around}.")
        ]
        values = [getattr(module, flag, None) for module in inside for flag in flags]
        known = [value for value in values if isinstance(value, bool)]
        if known:
            return all(known)
    return False
