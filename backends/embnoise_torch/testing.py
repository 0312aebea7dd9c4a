"""The driver of ``embnoise.testing`` for PyTorch."""

from __future__ import annotations

import contextlib
import os
import warnings
from collections.abc import Callable, Iterator
from typing import Any
from unittest import mock

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from embnoise.testing.drivers import (
    NODE,
    DriverBase,
    NativeArray,
    NativeLayer,
    is_opaque,
    layers_in,
    named,
    signature_of,
)
from embnoise.testing.failures import NotClaimedError
from embnoise_torch.transformed_calls import TRANSFORMATIONS

__all__ = ["TorchDriver", "driver"]


class TorchDriver(DriverBase):
    """A layer is a ``torch.nn.Module``, or a function that names ``training``.

    The compiler is ``torch.compile`` with the backend "aot_eager_default_partitioner", since what
    matters here is what is traced; that of "aot_eager" imports Inductor. It guards on Python
    state, so a step that is counted in Python is not frozen.

    Args:
        device: Where the inputs are, and where modules are moved. Default: the CPU.
    """

    name = "torch"
    dtypes = ("float32", "bfloat16", "float16")
    ids_dtypes = dtypes
    fused = True
    traces_once = False
    transformations = tuple(TRANSFORMATIONS)

    def __init__(self, device: str = "cpu") -> None:
        self.device = device

    def make(
        self, make_layer: Callable[..., Any], *, dtype: str, dim: int, alpha: Any, seed: int
    ) -> Any:
        """The layer, moved to the device and the dtype if it is a module."""
        layer = make_layer(dim=dim, alpha=alpha, seed=seed)
        module = _module_in(layer)
        if module is not None:
            module.to(self.device, getattr(torch, dtype))
        return layer

    def switch(self, layer: NativeLayer, training: bool) -> None:
        """``module.train()`` or ``module.eval()``.

        Raises:
            TypeError: It returns nothing, so that ``model = model.eval()`` would lose the model.
        """
        module = _module_in(layer)
        if module is not None and (module.train() if training else module.eval()) is None:
            name, mode = type(module).__name__, "train" if training else "eval"
            raise TypeError(f"{mode}() of {name} returns None: `return self` is missing in it")

    def modes_of(self, layer: NativeLayer) -> dict[str, bool]:
        """``training`` of the module and of all modules in it."""
        module = _module_in(layer)
        if module is None:
            return {}
        return {name or "the layer": each.training for name, each in module.named_modules()}

    def to_numpy(self, array: Tensor) -> NDArray[Any]:
        array = array.detach().cpu().to_dense()  # gradients of nn.Embedding(sparse=True)
        return (array.float() if array.dtype == torch.bfloat16 else array).numpy().copy()

    def from_numpy(self, array: NDArray[Any], dtype: str | None = None) -> Tensor:
        tensor = torch.from_numpy(np.array(array))
        return tensor.to(self.device, getattr(torch, dtype) if dtype else tensor.dtype)

    def gradient(
        self,
        call: Callable[..., Any],
        layer: NativeLayer,
        inputs: Tensor,
        weights: Tensor,
        *,
        of: str,
    ) -> list[NDArray[Any]]:
        if of == "inputs":
            sources = [inputs.requires_grad_()]
        else:
            module = _module_in(layer)
            parameters = () if module is None else module.parameters()
            sources = [each for each in parameters if each.requires_grad]
        # A layer may add in place, which a leaf that requires a gradient does not allow.
        output = call(layer, inputs * 1 if of == "inputs" else inputs)
        total = (output * weights).sum()
        found: tuple[Tensor | None, ...] = (None,) * len(sources)
        if total.requires_grad and sources:
            found = torch.autograd.grad(total, sources, allow_unused=True)
        return [
            self.to_numpy(torch.zeros_like(source) if gradient is None else gradient)
            for source, gradient in zip(sources, found, strict=True)
        ]

    def seed(self, seed: int) -> None:
        if self.device == "cpu":  # for the others torch.manual_seed writes down the call stack
            torch.default_generator.manual_seed(seed)
        else:
            torch.manual_seed(seed)

    def random_state(self) -> bytes:
        """The state of the CPU's generator, and of the device's."""
        states = [torch.get_rng_state()]
        if self.device != "cpu":
            states.append(torch.get_device_module(self.device).get_rng_state())
        return b"".join(state.numpy().tobytes() for state in states)

    def kept_state(self) -> Any:
        """``torch.random.fork_rng``."""
        devices = [] if self.device == "cpu" else [torch.device(self.device)]
        return torch.random.fork_rng(devices)

    def state(self, layer: NativeLayer) -> dict[str, NDArray[Any]]:
        """The tensors of the ``state_dict``, without the extra state of modules.

        Extra state resumes a run; it is not a weight.
        """
        module = _module_in(layer)
        entries = {} if module is None else module.state_dict()
        return {
            name: self.to_numpy(value)
            for name, value in entries.items()
            if isinstance(value, Tensor) and not name.endswith("_extra_state")
        }

    def compile(self, call: Callable[..., Any]) -> Callable[..., Any]:
        """``call`` with the layer compiled at its first call, and reused for the next ones."""
        compiled: dict[int, Any] = {}

        def run(layer: NativeLayer, inputs: NativeArray, **keywords: Any) -> Any:
            if id(layer) not in compiled:
                torch.compiler.reset()
                compiled[id(layer)] = torch.compile(layer, backend="aot_eager_default_partitioner")
            with warnings.catch_warnings():
                warnings.simplefilter("ignore")  # Dynamo warns about its own code while it traces
                if call != self.call:
                    return call(compiled[id(layer)], inputs, **keywords)
                # The compiled layer hides the signature and the mode of the layer in it.
                self.switch(layer, keywords["training"])
                given = named(signature_of(layer), keywords)
                if is_opaque(signature_of(layer)) and _module_in(layer) is not None:
                    del given["training"]
                return compiled[id(layer)](inputs, **given)

        return run

    def transform(self, name: str, call: Callable[..., Any]) -> Callable[..., Any]:
        """``call`` under a transformation of ``torch.func``, ``torch.autograd`` and others."""

        def run(layer: NativeLayer, inputs: Tensor, **keywords: Any) -> Tensor:
            self.switch(layer, keywords.get("training", True))
            return TRANSFORMATIONS[name](lambda x: call(layer, x, **keywords), inputs)

        return run

    def without_gradients(self) -> Any:
        """``torch.no_grad()``."""
        return torch.no_grad()

    @contextlib.contextmanager
    def rank(self, rank: int, world: int) -> Iterator[None]:
        """This process as one rank of ``torch.distributed``'s default group, without the others.

        The environment says so too, as under ``torchrun``, with nodes of 8 ranks.

        Raises:
            NotClaimedError: This process has a process group already.
        """
        from torch.testing._internal.distributed.fake_pg import (  # noqa: PLC0415, imports much
            FakeStore,
        )

        if torch.distributed.is_initialized():
            raise NotClaimedError("this process has a process group already")
        torch.distributed.init_process_group("fake", rank=rank, world_size=world, store=FakeStore())
        nodes, local = -(-world // NODE), min(world, NODE)
        told = {
            "RANK": rank, "LOCAL_RANK": rank % NODE, "GROUP_RANK": rank // NODE,
            "NODE_RANK": rank // NODE,
            "WORLD_SIZE": world, "LOCAL_WORLD_SIZE": local, "GROUP_WORLD_SIZE": nodes,
        }  # fmt: skip
        try:
            with mock.patch.dict(os.environ, {name: str(told[name]) for name in told}):
                yield
        finally:
            torch.distributed.destroy_process_group()


def _module_in(layer: NativeLayer) -> nn.Module | None:
    """The module, which ``functools.partial`` or a decorator may wrap; ``None`` for a function."""
    return next((each for each in layers_in(layer) if isinstance(each, nn.Module)), None)


driver = TorchDriver()
"""The driver for PyTorch."""
