"""The private parts of PyTorch and its neighbors that the adapter relies on, each with its reason.

``tests/torch/test_compat.py`` fails with a clear message when one of them changes.
"""

from __future__ import annotations

import importlib
import inspect
import sys
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager
from typing import Any, TypeVar

import torch
from torch import Tensor, nn

__all__ = [
    "calling",
    "compiled_inner",
    "constant_in_dynamo",
    "default_callbacks",
    "dynamo_is_loaded",
    "fabric_inner",
    "forward_hooks",
    "has_own_dispatch",
    "in_backward",
    "in_functorch",
    "is_jit_tracing",
    "is_transformed",
    "trl_runs",
    "untraced",
]


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


def fabric_inner(module: Any) -> nn.Module | None:
    """The module inside a wrapper of Lightning's Fabric; ``None`` for any other module.

    The wrapper's class is private. Below ``module``, DDP or FSDP may wrap the model again.
    """
    return module.module if type(module).__name__ == "_FabricModule" else None


def forward_hooks(module: nn.Module) -> Iterable[Callable[..., Any]]:
    """The forward hooks of a module, which PyTorch registers but does not list."""
    return module._forward_hooks.values()


def dynamo_is_loaded() -> bool:
    """Whether the compiler has been imported. Importing it to ask would take seconds."""
    return "torch._dynamo" in sys.modules


T = TypeVar("T")


def calling(kinds: type[T] | tuple[type[T], ...]) -> Iterator[T]:
    """The objects of some classes whose methods are running in this thread, the innermost first.

    The Trainer does not tell its callbacks which one it is, nor DeepSpeed an optimizer that a step
    is only a part of one. Frames are public; that a method names its object ``self``, and that the
    caller is such a method, is theirs.
    """
    frame = inspect.currentframe()
    while frame is not None:
        # Asking for all local variables of a frame would copy them.
        if frame.f_code.co_varnames[:1] == ("self",):
            found = frame.f_locals.get("self")
            if isinstance(found, kinds):
                yield found
        frame = frame.f_back


F = TypeVar("F", bound=Callable[..., Any])


def constant_in_dynamo(function: F) -> F:
    """``torch.compiler.assume_constant_result``, which would import the compiler.

    That takes seconds, and Triton with it aborts the process if TensorFlow or JAX are loaded.
    """
    function._dynamo_marked_constant = True  # type: ignore[attr-defined]
    return function


in_functorch: Callable[[], bool] = torch._C._are_functorch_transforms_active
"""Whether a transformation of ``torch.func`` is running; PyTorch's own ``Function.apply`` asks."""

_is_tracing: Callable[[], bool] = torch._C._is_tracing
_modes: Callable[[], int] = torch._C._len_torch_dispatch_stack
_NO_DISPATCH = Tensor.__torch_dispatch__


def is_transformed(x: Tensor) -> bool:
    """Whether ``x`` may be something else than memory, or an operation on it is recorded.

    Every call of the noise asks this. No public function tells about dispatch modes, of which fake
    tensors and ``make_fx`` are made.
    """
    if in_functorch() or _modes() > 0 or _is_tracing() or x.is_meta:
        return True
    return type(x) is not Tensor and has_own_dispatch(x)


def has_own_dispatch(x: Tensor) -> bool:
    """Whether ``x`` is of a subclass that handles operations itself, such as a fake tensor."""
    return type(x).__torch_dispatch__ is not _NO_DISPATCH


def is_jit_tracing() -> bool:
    """Whether ``torch.jit.trace`` is running. Unlike the public function, it may be compiled."""
    return not torch.compiler.is_compiling() and _is_tracing()


@contextmanager
def untraced() -> Iterator[None]:
    """A context in which ``torch.jit.trace`` sees nothing: sizes are ints, not traced tensors.

    No public function turns tracing off; ``torch.jit.ignore`` leaves sizes traced.
    """
    state = torch._C._get_tracing_state()
    if state is None:
        yield
        return
    torch._C._set_tracing_state(None)  # type: ignore[attr-defined]
    try:
        yield
    finally:
        torch._C._set_tracing_state(state)  # type: ignore[attr-defined]


def default_callbacks() -> list[Any]:
    """The callbacks of every Hugging Face ``Trainer`` that is made from now on.

    The list has a public name and no documentation. What stands in it runs before the callbacks
    that report the logs.
    """
    return importlib.import_module("transformers.trainer").DEFAULT_CALLBACKS  # type: ignore[no-any-return]


@contextmanager
def trl_runs(module: str, arguments: Sequence[str]) -> Iterator[None]:
    """A context in which TRL's command line launches a module of ours in place of its scripts.

    TRL passes nothing but its own arguments on, and finds its scripts by their path.

    Args:
        module: It gets ``arguments``, the name of the script, and the script's arguments.
        arguments: Arguments of ours.
    """
    launcher: Any = importlib.import_module("trl.cli.accelerate_launcher")
    launch = launcher.launch_training_script

    def launch_ours(script_name: str, launch_args: Any, training_script_args: Any) -> None:
        script = script_name.removesuffix(".py")
        ours = ["--module", module, *arguments, script, *training_script_args]
        launcher.launch_command(launcher.launch_command_parser().parse_args([*launch_args, *ours]))

    launcher.launch_training_script = launch_ours
    try:
        yield
    finally:
        launcher.launch_training_script = launch
