"""Find a model's token embedding, through whatever the model is wrapped in."""

from __future__ import annotations

import inspect
from collections.abc import Iterable, Iterator
from typing import Any, cast

from torch import Tensor, nn
from torch.distributed.fsdp import FullyShardedDataParallel
from torch.nn.parallel import DistributedDataParallel

from embnoise.backend import format_value

__all__ = ["callers_of", "embeddings_of", "unwrapped"]

_WRAPPERS = (DistributedDataParallel, FullyShardedDataParallel)


def unwrapped(model: nn.Module) -> nn.Module:
    """The model inside the wrappers of torch.compile, DDP, FSDP and PEFT.

    Raises:
        ValueError: a DataParallel, whose threads would race for the noise.
    """
    inner: Any = model
    while True:
        if isinstance(inner, nn.DataParallel):
            raise ValueError("model must not be a DataParallel; use DistributedDataParallel")
        if isinstance(getattr(inner, "_orig_mod", None), nn.Module):  # torch.compile
            inner = inner._orig_mod
        elif isinstance(inner, _WRAPPERS):
            inner = inner.module
        elif hasattr(inner, "get_base_model"):  # PEFT
            inner = inner.get_base_model()
        else:
            return cast("nn.Module", inner)


def embeddings_of(model: Any, layer: str | nn.Module | None) -> dict[str, nn.Module]:
    """The modules that look tokens up in the model's input embedding, by name.

    Args:
        model: an unwrapped model.
        layer: the embedding or its name; by default what ``get_input_embeddings()`` says, or the
            only ``nn.Embedding`` there is.

    Returns:
        The embedding first, then every other module that shares its table; the output head never.

    Raises:
        TypeError: ``layer`` is neither a module nor a name.
        ValueError: no embedding, more than one to choose from, or ``layer`` is not in the model.
    """
    names = {module: name for name, module in model.named_modules()}
    chosen = _named(model, layer, names) if layer is not None else _input_embedding(model)
    if chosen not in names:
        raise ValueError(f"layer must be a module of the model, got {format_value(layer)}")
    table = _table(chosen)
    head = model.get_output_embeddings() if hasattr(model, "get_output_embeddings") else None
    sharing = [
        module
        for module in names
        if module is not chosen
        and module is not head
        and not isinstance(module, nn.Linear)
        and table is not None
        and _table(module) is table
    ]
    # A LoRA layer shows the table of the embedding inside it: noise goes on the outer one alone.
    inside = {below for module in (chosen, *sharing) for below in _below(module)}
    kept = [module for module in (chosen, *sharing) if module not in inside]
    return {names[module]: module for module in kept}


def callers_of(model: nn.Module, embeddings: Iterable[nn.Module]) -> list[nn.Module]:
    """The modules that are called with the masks of what the embeddings look up.

    They are the innermost modules around each embedding whose forward takes an attention_mask:
    of an encoder-decoder, the encoder and the decoder.
    """
    wanted = set(embeddings)
    callers: dict[nn.Module, None] = {}
    for path, module in model.named_modules(remove_duplicate=False):
        if module not in wanted:
            continue
        parts = path.split(".")
        for depth in reversed(range(len(parts))):
            around = model.get_submodule(".".join(parts[:depth]))
            if "attention_mask" in inspect.signature(around.forward).parameters:
                callers[around] = None
                break
    return list(callers)


def _named(model: nn.Module, layer: str | nn.Module, names: dict[nn.Module, str]) -> nn.Module:
    if isinstance(layer, nn.Module):
        return layer
    if not isinstance(layer, str):
        raise TypeError(f"layer must be a module or its name, got {format_value(layer)}")
    modules = {name: module for module, name in names.items()}
    if layer not in modules:
        raise ValueError(
            f"layer must name a module of the model, got {layer!r}; embeddings there: "
            f"{_listed(model)}"
        )
    return modules[layer]


def _input_embedding(model: Any) -> nn.Module:
    if hasattr(model, "get_input_embeddings"):
        found = model.get_input_embeddings()
        if isinstance(found, nn.Module):
            return found
    tables = {id(_table(module)): module for _, module in reversed(list(_lookups(model)))}
    if len(tables) == 1:
        return next(iter(tables.values()))
    raise ValueError(
        "layer must say which embedding to noise, since the model has no get_input_embeddings() "
        f"and {len(tables) or 'no'} embeddings to choose from: {_listed(model)}"
    )


def _lookups(model: nn.Module) -> Iterator[tuple[str, nn.Module]]:
    return ((n, m) for n, m in model.named_modules() if isinstance(m, nn.Embedding))


def _listed(model: nn.Module) -> str:
    found = [f"{name!r} {tuple(_table(module).shape)}" for name, module in _lookups(model)]  # type: ignore[union-attr]
    return ", ".join(found) or "none"


def _table(module: nn.Module) -> Tensor | None:
    weight = getattr(module, "weight", None)
    return weight if isinstance(weight, Tensor) and weight.ndim == 2 else None


def _below(module: nn.Module) -> list[nn.Module]:
    return [inner for inner in module.modules() if inner is not module]
