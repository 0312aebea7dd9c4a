"""Which modules look tokens up in a call of a model, and what they return."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn

from tests.torch.sweep.calls import Side

NOT_THE_INPUT = re.compile(
    r".*(position\w*|embed_tokens_per_layer|patcher.*|value_embeddings|embed_tokens_extend)"
)
"""Modules that take token ids too, and whose output is not the input of the first layer."""


class Lookup(NamedTuple):
    """One lookup: by which module, of which side, and what came out."""

    name: str
    module: nn.Module
    side: str
    tokens: dict[str, Tensor]
    """The mask and the segments of the side, for ids as the module got them."""
    transposed: bool
    """Whether the module got [L, B]."""
    output: Tensor


def _columns(ids: Tensor, wanted: Tensor) -> int | None:
    """The column of ``ids`` where the wanted ones begin; ``None`` if they are not there."""
    extra = ids.shape[1] - wanted.shape[1]
    if ids.shape[0] != wanted.shape[0] or extra < 0:
        return None
    for start in (0, extra):
        if torch.equal(ids[:, start : start + wanted.shape[1]], wanted):
            return start
    return None


def _read(ids: Any, side: Side) -> tuple[dict[str, Tensor], bool] | None:
    """What is known of looked up ids, if they are the side's."""
    if not isinstance(ids, Tensor) or ids.dtype not in (torch.int32, torch.int64) or ids.ndim != 2:
        return None
    for transposed in (False, True):
        rows = ids.T if transposed else ids
        start = _columns(rows, side.ids)
        if start is not None:
            end = rows.shape[1] - start - side.ids.shape[1]
            pad = nn.functional.pad
            tokens = {name: pad(value, (start, end)) for name, value in side.tokens.items()}
            return tokens, transposed
    return None


def first_of(output: Any) -> Any:
    """The embeddings among what a module returns."""
    while isinstance(output, tuple) and output:
        output = output[0]
    return output


@contextmanager
def hooked(modules: Mapping[str, nn.Module], hook: Callable[..., Any]) -> Iterator[None]:
    """Call ``hook(name, module, args, kwargs, output)`` after each of the modules."""

    def bound(name: str) -> Callable[..., Any]:
        return lambda *call: hook(name, *call)

    handles = [
        module.register_forward_hook(bound(name), with_kwargs=True)
        for name, module in modules.items()
    ]
    try:
        yield
    finally:
        for handle in handles:
            handle.remove()


@contextmanager
def recording(model: nn.Module, sides: Mapping[str, Side]) -> Iterator[list[Lookup]]:
    """Fill a list with the lookups of the calls inside, each by its innermost module."""
    found: list[Lookup] = []
    below = {module: set(module.modules()) - {module} for module in model.modules()}

    def record(name: str, module: nn.Module, args: Any, kwargs: Any, output: Any) -> None:
        output, given = first_of(output), [*args, *kwargs.values()]
        if not isinstance(output, Tensor) or not output.is_floating_point():
            return
        if any(isinstance(value, Tensor) and value.is_floating_point() for value in given):
            return
        for key, side in sides.items():
            for value in given:
                read = _read(value, side)
                if read is None or output.shape[:-1] != value.shape:
                    continue
                inner = {lookup.module for lookup in found if lookup.side == key}
                if inner.isdisjoint(below[module]):
                    found.append(Lookup(name, module, key, *read, output.detach().clone()))
                return

    named = {
        name: module
        for name, module in model.named_modules()
        if name and not NOT_THE_INPUT.fullmatch(name)
    }
    with hooked(named, record):
        yield found
