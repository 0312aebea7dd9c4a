"""A call of a layer under PyTorch's transformations, each with the output of the plain call.

The calls take the layer and embeddings, and return embeddings of the same shape.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, TypeAlias

import torch
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils.checkpoint import checkpoint

__all__ = ["TRANSFORMATIONS", "CustomOperators"]

Call: TypeAlias = Callable[[Tensor], Tensor]


def _vmap(call: Call, x: Tensor) -> Tensor:
    result: Tensor = torch.func.vmap(call)(x[None])
    return result[0]


def _grad_of_grad(call: Call, x: Tensor) -> Tensor:
    """The second derivative of sum(y**3) / 6, which is y where the gradient of the call is 1."""
    source = x.detach().requires_grad_()
    y = call(source * 1)  # a layer may add in place, which a leaf does not allow
    (first,) = torch.autograd.grad((y**3).sum() / 6, source, create_graph=True)
    (second,) = torch.autograd.grad(first.sum(), source)
    return second


def _remat(call: Call, x: Tensor) -> Tensor:
    """The gradient of sum(y**2) / 2, which is the y of the forward pass that is recomputed."""
    source = x.detach().requires_grad_()

    def half_square(x: Tensor) -> Tensor:
        return call(x * 1).square().sum() / 2

    total = checkpoint(half_square, source, use_reentrant=False)
    (gradient,) = torch.autograd.grad(total, source)
    return gradient


class CustomOperators(TorchDispatchMode):  # type: ignore[no-untyped-call]
    """Notes the calls of operators that are not PyTorch's own, with copies of their arguments."""

    def __init__(self) -> None:
        super().__init__()  # type: ignore[no-untyped-call]
        self.calls: list[tuple[Any, tuple[Any, ...], dict[str, Any]]] = []

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        if func.namespace not in ("aten", "prims", "prim", "profiler"):
            copies = torch.utils._pytree.tree_map_only(Tensor, torch.clone, (args, kwargs or {}))
            self.calls.append((func, *copies))
        return func(*args, **(kwargs or {}))


def _opcheck(call: Call, x: Tensor) -> Tensor:
    with CustomOperators() as operators:
        output = call(x)
    for operator, args, kwargs in operators.calls:
        torch.library.opcheck(operator, args, kwargs)
    return output


TRANSFORMATIONS: dict[str, Callable[[Call, Tensor], Tensor]] = {
    "vmap": _vmap,
    "grad_of_grad": _grad_of_grad,
    "remat": _remat,
    "opcheck": _opcheck,
}
