"""The private parts of PyTorch and its neighbors that the adapter relies on, each with its reason.

``tests/torch/test_compat.py`` fails with a clear message when one of them changes.
"""

from __future__ import annotations

import ctypes
import importlib
import inspect
import sys
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any, TypeVar, cast

import torch
from torch import Tensor, nn
from torch.optim import Optimizer

__all__ = [
    "backward_pass",
    "calling",
    "compiled_inner",
    "constant_in_dynamo",
    "context_parallel_balances",
    "deepspeed_cuts_sequences",
    "default_callbacks",
    "dynamo_is_loaded",
    "fabric_inner",
    "forward_hooks",
    "fsdp_mesh",
    "has_own_dispatch",
    "in_backward",
    "in_functorch",
    "is_awaited",
    "is_jit_tracing",
    "is_transformed",
    "local_part",
    "local_tensor",
    "openmp_parallel",
    "pipeline_rehearses",
    "pipeline_stage",
    "stepping",
    "trl_runs",
    "uncompiled_name",
    "untraced",
]


backward_pass: Callable[[], int] = torch._C._current_graph_task_id
"""The number of the backward pass that autograd is running in this thread; -1 outside of one."""


def in_backward() -> bool:
    """Whether autograd is running a backward pass in this thread.

    Gradient checkpointing recomputes a forward pass inside it, and no public function tells.
    """
    return backward_pass() != -1


def compiled_inner(module: Any) -> nn.Module | None:
    """The module inside a ``torch.compile`` wrapper; ``None`` for any other module.

    The wrapper's class, ``OptimizedModule``, and its attribute are private.
    """
    inner = getattr(module, "_orig_mod", None)
    return inner if isinstance(inner, nn.Module) else None


def uncompiled_name(name: str) -> str:
    """The name that a module has in its model where nothing is compiled by itself."""
    return name.replace("._orig_mod", "")


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


def has_step_hooks(optimizer: Any) -> bool:
    """Whether the step hooks of an optimizer run.

    ``Optimizer.__init__`` sees to that, which some that wrap another optimizer do not call.
    """
    made = "_optimizer_step_post_hooks" in vars(optimizer)
    return made and getattr(type(optimizer).step, "hooked", False)


_HOOKED_STEP: Any = Optimizer.profile_hook_step(repr)


def stepping() -> Iterator[Optimizer]:
    """The optimizers whose steps are running in this thread, the innermost first.

    PyTorch runs the hooks of a step in a function that it puts around the ``step`` of every class
    of which an optimizer was made: of a subclass, and around its ``super().step()`` again. What
    hooks count would go wrong with a step that raises, which ends without its last hook.
    """
    hooked = _HOOKED_STEP.__code__
    frame = inspect.currentframe()
    while frame is not None:
        code = frame.f_code  # one that is compiled begins at the same line
        if code.co_firstlineno == hooked.co_firstlineno and code.co_filename == hooked.co_filename:
            yield frame.f_locals["args"][0]
        frame = frame.f_back


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

is_tracing: Callable[[], bool] = torch._C._is_tracing
"""Whether ``torch.jit.trace`` runs; the public function takes longer. It may not be compiled."""

_modes: Callable[[], int] = torch._C._len_torch_dispatch_stack
_NO_DISPATCH = Tensor.__torch_dispatch__


def is_transformed(x: Tensor) -> bool:
    """Whether ``x`` may be something else than memory, or an operation on it is recorded.

    Every call of the noise asks this. No public function tells about dispatch modes, of which fake
    tensors and ``make_fx`` are made.
    """
    if in_functorch() or _modes() > 0 or is_tracing() or x.is_meta:
        return True
    return type(x) is not Tensor and has_own_dispatch(x)


def has_own_dispatch(x: Tensor) -> bool:
    """Whether ``x`` is of a subclass that handles operations itself, such as a fake tensor."""
    return type(x).__torch_dispatch__ is not _NO_DISPATCH


def is_jit_tracing() -> bool:
    """Whether ``torch.jit.trace`` is running. Unlike the public function, it may be compiled."""
    return not torch.compiler.is_compiling() and is_tracing()


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


def local_part(x: Any) -> tuple[tuple[int, ...], tuple[int, ...]]:
    """The shape of what this rank holds of a DTensor, and where that begins in the whole.

    ``DTensor`` has no method for it; PyTorch's checkpoints use this function.
    """
    from torch.distributed.tensor._utils import (  # noqa: PLC0415, slow to import
        compute_local_shape_and_global_offset,
    )

    shape, offset = compute_local_shape_and_global_offset(x.shape, x.device_mesh, x.placements)
    return tuple(shape), tuple(offset)


def local_tensor(x: Any) -> Tensor:
    """What this rank holds of a DTensor, in the same memory, or a tensor itself.

    See ``is_awaited``.
    """
    local: Any = x.to_local() if hasattr(x, "device_mesh") else x
    return cast("Tensor", local.wait() if is_awaited(local) else local)


def is_awaited(x: Tensor) -> bool:
    """Whether a collective operation may still be running on a tensor, which a copy waits for.

    Tensors that DTensors become are of this class, which is private.
    """
    return type(x) is not Tensor and hasattr(x, "trigger_wait")


def openmp_parallel() -> Any:
    """``GOMP_parallel`` of the OpenMP library that PyTorch uses on a CPU; ``None`` without one.

    ``GOMP_parallel(function, argument, threads, 0)`` runs a C function on PyTorch's own threads.
    PyTorch has no public function for that, and its libraries have no public names.
    """
    try:
        library = ctypes.CDLL(str(Path(torch.__file__).parent / "lib" / "libtorch_cpu.so"))
        return library.GOMP_parallel  # the libraries that PyTorch's is linked to are asked as well
    except (OSError, AttributeError):
        return None


def fsdp_mesh(module: nn.Module) -> Any:
    """The device mesh over which ``fully_shard`` has sharded a module; ``None`` for any other.

    The mesh of its parameters may have other dimensions too, and does not say which are which.
    """
    fsdp: Any = sys.modules.get("torch.distributed.fsdp")
    if fsdp is None or not isinstance(module, fsdp.FSDPModule):
        return None
    groups = module._get_fsdp_state()._fsdp_param_groups
    return groups[0].mesh_info.mesh if groups else None


def context_parallel_balances() -> bool | None:
    """Whether the parts that ``context_parallel`` cuts are balanced; ``None`` outside of it.

    No public function tells either. Inside of it, DTensor handles attention in another way.
    """
    attention: Any = sys.modules.get(
        "torch.distributed.tensor.experimental._context_parallel._attention"
    )
    if attention is None:
        return None
    handlers = attention.DTensor._op_dispatcher._custom_op_handlers
    if handlers is attention.existing_custom_ops:
        return None
    return bool(attention._cp_options.enable_load_balance)


def deepspeed_cuts_sequences() -> bool:
    """Whether DeepSpeed's sequence parallelism has groups of ranks.

    Accelerate, which sets them up, then makes no device mesh.
    """
    state: Any = sys.modules.get("deepspeed.runtime.sequence_parallel.parallel_state_sp")
    return state is not None and state._SEQUENCE_PARALLEL_GROUP is not None


def pipeline_stage() -> Any:
    """The stage of ``torch.distributed.pipelining`` whose forward is running; ``None`` outside."""
    stage: Any = sys.modules.get("torch.distributed.pipelining.stage")
    return None if stage is None else next(calling(stage._PipelineStageBase), None)


def pipeline_rehearses() -> bool:
    """Whether a pipeline runs a stage only to learn the shapes of what it returns.

    It does so before the first step, with the first micro-batch. No public function tells.
    """
    stage: Any = sys.modules.get("torch.distributed.pipelining.stage")
    if stage is None:
        return False
    code = stage.PipelineStage._forward_metadata_inference.__code__
    frame = inspect.currentframe()
    while frame is not None and frame.f_code is not code:
        frame = frame.f_back
    return frame is not None
