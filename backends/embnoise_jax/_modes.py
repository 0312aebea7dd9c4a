"""Whether a model is in training or evaluation mode, which only its modules' flags tell."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

__all__ = ["is_evaluating"]


def is_evaluating(modules: Iterable[Any], *flags: str) -> bool:
    """Whether all flags in a model say that it evaluates, and there is at least one.

    Args:
        modules: The modules of the model.
        *flags: The names of the attributes that are true in evaluation. A value that is no
            boolean, such as None, leaves the mode to the call.
    """
    values = [getattr(module, flag, None) for module in modules for flag in flags]
    known = [value for value in values if isinstance(value, bool)]
    return bool(known) and all(known)
