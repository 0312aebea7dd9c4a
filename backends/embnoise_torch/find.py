"""Find a model's token embedding, through whatever the model is wrapped in."""

from __future__ import annotations

import inspect
from collections.abc import Iterable, Iterator
from typing import Any, cast

from torch import Tensor, nn
from torch.distributed.fsdp import FullyShardedDataParallel
from torch.nn.parallel import DistributedDataParallel

from embnoise.backend import format_value
from embnoise_torch import _compat

__all__ = ["find_callers", "find_embeddings", "parameters_of", "unwrap_model"]

_WRAPPERS = (DistributedDataParallel, FullyShardedDataParallel)


def unwrap_model(model: nn.Module) -> nn.Module:
    """The model inside the wrappers of torch.compile, DDP, FSDP and PEFT.

    Raises:
        ValueError: A DataParallel, whose threads would race for the noise.
    """
    inner: Any = model
    while True:
        if isinstance(inner, nn.DataParallel):
            raise ValueError("model must not be a DataParallel; use DistributedDataParallel")
        compiled = _compat.compiled_inner(inner)
        if compiled is not None:
            inner = compiled
        elif isinstance(inner, _WRAPPERS):
            inner = inner.module
        elif hasattr(inner, "get_base_model"):  # PEFT
            inner = inner.get_base_model()
        else:
            return cast("nn.Module", inner)


def find_embeddings(model: Any, layer: str | nn.Module | None) -> dict[str, nn.Module]:
    """The modules that look tokens up in the model's input embedding, by name.

    Args:
        model: An unwrapped model.
        layer: The embedding or its name. Default: ``get_input_embeddings()``, or the only
            ``nn.Embedding`` there is.

    Returns:
        The embedding first, then every other module that shares its table; never the output head.

    Raises:
        TypeError: ``layer`` is neither a module nor a name.
        ValueError: No embedding, several to choose from, or ``layer`` is not in the model.
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
    # A LoRA layer shows the table of the embedding inside it: only the outer one gets noise.
    inner = {
        below for module in (chosen, *sharing) for below in module.modules() if below is not module
    }
    kept = [module for module in (chosen, *sharing) if module not in inner]
    return {names[module]: module for module in kept}


def find_callers(model: nn.Module, embeddings: Iterable[nn.Module]) -> list[nn.Module]:
    """The modules whose call brings the masks of what the embeddings look up.

    They are the innermost modules around each embedding whose forward takes an attention_mask: in
    an encoder-decoder, the encoder and the decoder.
    """
    wanted = set(embeddings)
    callers: dict[nn.Module, None] = {}
    for path, module in model.named_modules(remove_duplicate=False):
        if module not in wanted:
            continue
        parts = path.split(".")
        for depth in reversed(range(len(parts))):
            outer = model.get_submodule(".".join(parts[:depth]))
            if "attention_mask" in parameters_of(outer):
                callers[outer] = None
                break
    return list(callers)


def parameters_of(module: nn.Module) -> list[str]:
    """The names of the parameters of a module's forward; none if its signature is unreadable."""
    try:
        return list(inspect.signature(module.forward).parameters)
    except (TypeError, ValueError):
        return []


def _named(model: nn.Module, layer: str | nn.Module, names: dict[nn.Module, str]) -> nn.Module:
    if isinstance(layer, nn.Module):
        return layer
    if not isinstance(layer, str):
        raise TypeError(f"layer must be a module or its name, got {format_value(layer)}")
    modules = {name: module for module, name in names.items()}
    if layer not in modules:
        raise ValueError(
            f"layer must name a module of the model, got {layer!r}; candidates: "
            f"{_candidates(model)}"
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
        f"found {len(tables) or 'no'} embeddings in a model without get_input_embeddings(); pass "
        f"layer=. Candidates: {_candidates(model)}"
    )


def _lookups(model: nn.Module) -> Iterator[tuple[str, nn.Module]]:
    return ((n, m) for n, m in model.named_modules() if isinstance(m, nn.Embedding))


def _candidates(model: nn.Module) -> str:
    found = [f"{name!r} {tuple(_table(module).shape)}" for name, module in _lookups(model)]  # type: ignore[union-attr]
    return ", ".join(found) or "none"


def _table(module: nn.Module) -> Tensor | None:
    weight = getattr(module, "weight", None)
    return weight if isinstance(weight, Tensor) and weight.ndim == 2 else None
