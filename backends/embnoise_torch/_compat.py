"""The private parts of PyTorch and its neighbors that the adapter relies on, each with its reason.

``tests/torch/test_compat.py`` fails with a clear message when one of them changes.
"""

from __future__ import annotations

import copyreg
import sys
from collections.abc import Callable, Iterable
from typing import Any

import torch
from torch import nn

__all__ = ["compiled_inner", "dynamo_is_loaded", "forward_hooks", "in_backward", "new_object"]


def in_backward() -> bool:
    """Whether autograd is running a backward pass in this thread.

    Gradient checkpointing recomputes a forward pass inside it, and no public function tells.
    """
    return torch._C._current_graph_task_id() != -1


def compiled_inner(module: Any) -> nn.Module | None:
    """The module inside a ``torch.compile`` wrapper; ``None`` for any other module.

    The wrapper's class, ``OptimizedModule``, and its attribute are private.
    """
    inner = getattr(module, "_orig_mod", None)
    return inner if isinstance(inner, nn.Module) else None


def forward_hooks(module: nn.Module) -> Iterable[Callable[..., Any]]:
    """The forward hooks of a module, which PyTorch registers but does not list."""
    return module._forward_hooks.values()


def dynamo_is_loaded() -> bool:
    """Whether the compiler has been imported. Importing it to ask would take seconds."""
    return "torch._dynamo" in sys.modules


def new_object() -> Any:
    """The function by which pickle's protocol 2 makes an object of a class.

    It stands in ``__reduce_ex__`` of every module, but not in the type stubs.
    """
    return getattr(copyreg, "__newobj__")  # noqa: B009
