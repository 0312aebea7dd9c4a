"""The noise of compiled code, and of fused lookups, in two operators: a plan, and its noise.

The state of the noise (step, alpha, counter) and all that depends on the values of ids and masks
goes into the plan, a small tensor. The operator that makes it stays outside of CUDA graphs and
cannot be fused. The noise itself is a function of tensors alone: a compiler fuses it, a CUDA graph
replays it, and each replay reads a new plan.

On a CPU, the operator of ``embnoise_torch.tracing.custom_op`` does for both, in place. Large
lookups in eager mode are fused there, too, and need no plan.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from typing import Any, cast

import torch
from torch import Tensor, nn

from embnoise.backend import Noise, uses_rms
from embnoise_torch import _compat
from embnoise_torch.kernels import registry
from embnoise_torch.ranks.shards import part_plan
from embnoise_torch.tracing import custom_op
from embnoise_torch.tracing.custom_op import Ready, Source, add_ready_

__all__ = ["add_compiled", "can_fuse", "lookup", "lookup_compiled"]


_DTYPES = (torch.float16, torch.bfloat16, torch.float32, torch.float64)


@_compat.constant_in_dynamo
def _uses_rms(noise: Noise) -> bool:
    return uses_rms(noise)


def can_fuse(module: nn.Module, ids: Any, noise: Noise, *, compiling: bool) -> bool:
    """Whether to add the noise on the way out of the table of a plain ``nn.Embedding``."""
    # While torch.jit.trace runs, sizes are tensors.
    if type(ids) is not Tensor or (not compiling and _compat.is_tracing()):
        return False
    least = registry.fused_from(ids.device.type, compiling=compiling)
    # Of most lookups on a CPU, nothing more is asked.
    if math.isinf(least):
        return False
    # A weight that is computed (parametrized) is none, and may draw random numbers.
    table: Any = module.weight if compiling else module._parameters.get("weight")
    if table is None or ids.numel() * table.shape[-1] * table.element_size() < least:
        return False
    return (
        (compiling or not _compat.is_transformed(table))
        # A subclass may hold something else than the embeddings: quantized ones, or a shard.
        and type(table) in (Tensor, nn.Parameter)
        and ids.device == table.device
        and ids.dtype in (torch.int32, torch.int64)
        and ids.ndim in (1, 2)
        and table.dtype in _DTYPES
        and module.max_norm is None
        and not _uses_rms(noise)
    )


def plan_of(ready: Ready | None, x: Tensor, noise: Noise, device: torch.device) -> Tensor:
    """The plan of embeddings, int32 [B * L, 4], in the order in which they are in memory.

    Args:
        ready: What is known about them; ``None`` if none of them gets noise.
        x: Embeddings [B, L, d] or [L, d]; on the device "meta" if their values do not count.
        noise: What noise to add.
        device: Where the plan is to be.
    """
    tokens = x.numel() // x.shape[-1]
    if ready is None:
        return torch.zeros((tokens, 4), dtype=torch.int32, device=device)
    if ready.part is not None:
        return part_plan(noise, ready.prepared, ready.part, device).reshape(tokens, 4)
    columns = x.transpose(0, 1) if ready.transposed else x
    kernel: Any = registry.kernel_for(device.type)
    flat = columns.reshape(tokens, x.shape[-1])
    plan: Tensor = kernel.plan(flat, noise, ready.prepared, device)
    if ready.transposed:
        plan = plan.view(*columns.shape[:2], 4).transpose(0, 1).reshape(tokens, 4)
    return plan


@torch.library.custom_op("embnoise::plan", mutates_args=(), tags=(torch.Tag.cudagraph_unsafe,))
def _plan(
    inputs: Tensor,
    x: Tensor | None,
    dim: int,
    arrays: Sequence[Tensor | None],
    source: int,
    call: int,
) -> Tensor:
    """``plan_of`` what ``Source.ready`` returns.

    Args:
        inputs: What was looked up, or one channel of the embeddings: [B, L] or [L].
        x: Embeddings, if the noise uses their RMS.
        dim: d.
        arrays: What ``Source.ready`` takes.
        source: The number of the source.
        call: A ``call_number``.
    """
    return custom_op.call_opaque(_next_plan, inputs, x, dim, arrays, _source(source))


def _next_plan(
    inputs: Tensor, x: Tensor | None, dim: int, arrays: Sequence[Tensor | None], source: Source
) -> Tensor:
    like = torch.empty((*inputs.shape, dim), device="meta") if x is None else x
    ready = source.ready(like, inputs, *arrays)
    return plan_of(ready, like, source.noise, inputs.device)


@_plan.register_fake
def _(inputs: Tensor, *_: Any) -> Tensor:
    return inputs.new_empty((inputs.numel(), 4), dtype=torch.int32)


@torch.library.custom_op("embnoise::from_plan", mutates_args=())
def _from_plan(x: Tensor, plan: Tensor, source: int) -> Tensor:
    """Embeddings [n, d] with the noise of a plan, by a kernel that a compiler need not see."""
    return _noisy(x, plan, source)


@_from_plan.register_fake
def _(x: Tensor, plan: Tensor, source: int) -> Tensor:
    return x.new_empty(x.shape)


@torch.library.custom_op("embnoise::lookup", mutates_args=())
def _look_up(table: Tensor, ids: Tensor, plan: Tensor, source: int) -> Tensor:
    """Rows of a table with the noise of a plan, [n, d]."""
    kernel: Any = registry.kernel_for(table.device.type)
    return cast("Tensor", kernel.lookup(table, ids, plan, _source(source).noise))


@_look_up.register_fake
def _(table: Tensor, ids: Tensor, plan: Tensor, source: int) -> Tensor:
    return table.new_empty((ids.numel(), table.shape[1]))


def _noisy(x: Tensor, plan: Tensor, source: int) -> Tensor:
    kernel: Any = registry.kernel_for(x.device.type)
    return cast("Tensor", kernel.noisy(x, plan, _source(source).noise))


def _source(number: int) -> Source:
    found = custom_op.find(number)
    assert found is not None, "whoever calls the operator holds the source"
    return found


_LIBRARY: Any = torch.library.Library("embnoise", "FRAGMENT")  # type: ignore[no-untyped-call]
_LIBRARY.define("from_plan_traced(Tensor x, Tensor plan, int source) -> Tensor")
# A compiler sees the operations of which this one is made.
_LIBRARY.impl("from_plan_traced", _noisy, "CompositeImplicitAutograd")


class _Lookup(torch.autograd.Function):
    """A lookup with noise, in eager mode; its gradient is that of PyTorch's own lookup."""

    @staticmethod
    def forward(
        ctx: Any,
        table: Tensor,
        ids: Tensor,
        noisy_rows: Callable[[Tensor, Tensor], Tensor],
        options: tuple[Any, ...],
    ) -> Tensor:
        ctx.save_for_backward(ids)
        ctx.save_for_forward(ids)
        ctx.rows, ctx.options = table.shape[0], options
        return noisy_rows(table.detach(), ids.reshape(-1).contiguous())

    @staticmethod
    def backward(ctx: Any, *upstream: Any) -> Any:
        (ids,) = ctx.saved_tensors
        gradient = torch.ops.aten.embedding_backward(upstream[0], ids, ctx.rows, *ctx.options)
        return gradient, None, None, None

    @staticmethod
    def jvp(ctx: Any, *tangents: Any) -> Any:
        (ids,) = ctx.saved_tensors
        return torch.embedding(tangents[0], ids)


def lookup(
    module: nn.Module, ids: Tensor, noise: Noise, ready_for: Callable[[Tensor], Ready | None]
) -> Tensor:
    """The output of a plain ``nn.Embedding`` with noise, in one pass over it.

    Args:
        module: The embedding; ``can_fuse`` said yes to it.
        ids: What is looked up.
        noise: What noise to add.
        ready_for: From a tensor of the shape and dtype of the output to what is known about that;
            ``None`` if it gets no noise.
    """
    embedding = cast("nn.Embedding", module)
    kernel: Any = registry.kernel_for(ids.device.type)
    planned = hasattr(kernel, "lookup")
    weight = embedding.weight
    # On a CPU this is the output. It comes before any smaller tensor, which would take a part of
    # the memory that the last output has left in the cache.
    x = torch.empty(
        (*ids.shape, weight.shape[1]), dtype=weight.dtype, device="meta" if planned else ids.device
    )
    ready = ready_for(x)
    plan = plan_of(ready, x, noise, ids.device) if planned else None

    def noisy_rows(table: Tensor, rows: Tensor) -> Tensor:
        if plan is not None:
            noisy: Tensor = kernel.lookup(table, rows, plan, noise)
            return noisy.reshape(x.shape)
        if ready is not None and ready.part is None and not ready.transposed:
            kernel.look_up_(x.view(-1, x.shape[-1]), table, rows, noise, ready.prepared)
        else:
            x.copy_(torch.embedding(table, rows).view(x.shape))
            add_ready_(x, noise, ready)
        return x

    padding = -1 if embedding.padding_idx is None else embedding.padding_idx % len(weight)
    options = padding, embedding.scale_grad_by_freq, embedding.sparse
    apply: Any = _Lookup.apply
    return cast("Tensor", apply(weight, ids, noisy_rows, options))


def lookup_compiled(
    x: Tensor, table: Tensor, ids: Tensor, arrays: Sequence[Tensor | None], source: int
) -> Tensor:
    """The same in compiled code.

    Args:
        x: The output of the embedding. It is overwritten, so that the compiler drops the lookup
            that made it, and keeps its gradient.
        table: The embedding's weight.
        ids: What is looked up.
        arrays: What ``Source.ready`` takes.
        source: The number of the source.
    """
    plan = _plan(ids, None, table.shape[1], arrays, source, custom_op.call_number())
    noisy = _look_up(table.detach(), ids.reshape(-1).contiguous(), plan, source)
    x.detach().copy_(noisy.reshape(x.shape))
    return x


def add_compiled(
    x: Tensor,
    inputs: Tensor | None,
    arrays: Sequence[Tensor | None],
    noise: Noise,
    source: int,
    number_tensor: Tensor | None = None,
    *,
    fresh: bool,
) -> Tensor:
    """Embeddings with noise, in compiled code.

    Args:
        x: Embeddings [B, L, d] or [L, d].
        inputs: What was looked up, where that is known.
        arrays: What ``Source.ready`` takes.
        noise: What noise to add.
        source: The number of its source.
        number_tensor: The same for ``apply_``; ``None`` for the one source of the noise.
        fresh: Whether nobody else holds ``x``, so that it may be overwritten.
    """
    result = x if fresh else x.clone(memory_format=torch.contiguous_format)
    values = result.detach()
    if not registry.offers(x.device.type, "noisy"):
        constant = source if number_tensor is None else -1  # what is not read is not guarded on
        custom_op.apply_(values, arrays, constant, custom_op.call_number(), number_tensor)
        return result
    if inputs is None or inputs.shape != x.shape[:-1]:
        inputs = values[..., 0].clone()
    like = values if _uses_rms(noise) else None
    plan = _plan(inputs, like, x.shape[-1], arrays, source, custom_op.call_number())
    flat = values.reshape(-1, x.shape[-1])
    if registry.offers(x.device.type, "lookup"):
        noisy = _from_plan(flat, plan, source)
    else:
        noisy = torch.ops.embnoise.from_plan_traced(flat, plan, source)
    values.copy_(noisy.reshape(x.shape))
    return result
