"""What a call is given: the names that tell about tokens, batches, and arrays of any kind."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from types import SimpleNamespace
from typing import Any, TypeAlias

import numpy as np
import torch
from torch import Tensor, nn

__all__ = [
    "BESIDE_MASKS",
    "CUMULATIVE",
    "DECODER",
    "NAMES",
    "TELLING",
    "ModelCall",
    "as_tensor",
    "entries_of",
    "fields_of",
    "is_unread",
    "telling_batch",
]

ModelCall: TypeAlias = Mapping[str, Any]
"""The arguments of a module's call, by name."""

DECODER = "decoder_"
"""What the names of a decoder's arguments begin with, beside those of its encoder."""

CUMULATIVE = ("cu_seq_lens_q", "cu_seq_lens", "cu_seqlens_q", "cu_seqlens")

NAMES = {
    prefix: tuple(
        f"{prefix}{name}" for name in ("input_ids", "attention_mask", "position_ids", "seq_idx")
    )
    for prefix in ("", DECODER)
}

BESIDE_MASKS = frozenset(
    ("position_ids", "seq_idx", *CUMULATIVE, "past_key_values", "cache_params")
)
"""The arguments that tell the documents of packed rows, or of earlier tokens, beside a mask."""

TELLING = frozenset(name for names in (*NAMES.values(), CUMULATIVE) for name in names)
"""A forward that takes one of these may know about its tokens."""

_DATACLASS = "__dataclass_fields__"
_PLAIN = (Tensor, bool, str)
_NO_BATCHES = (Tensor, nn.Module, str, bytes, int, float, complex, list, np.ndarray, type)
_SETTINGS = (bool, int, float, str)
_UNSIGNED = (torch.uint16, torch.uint32, torch.uint64)
_DEPTH = 2
"""How deep a batch may lie in others."""


def fields_of(batch: Any) -> ModelCall:
    """What is in a batch: a mapping, a named tuple, a dataclass or a namespace; else nothing.

    A class of its own may be any of these without saying so: what has ``keys``, or tensors.
    """
    if batch is None or isinstance(batch, _NO_BATCHES):
        return {}
    if isinstance(batch, Mapping):
        return {name: value for name, value in batch.items() if isinstance(name, str)}
    if isinstance(batch, tuple) or hasattr(type(batch), _DATACLASS):
        names = getattr(type(batch), "_fields" if isinstance(batch, tuple) else _DATACLASS, ())
        return {name: getattr(batch, name) for name in names}
    if hasattr(batch, "keys") and hasattr(batch, "__getitem__"):
        return {name: batch[name] for name in batch.keys() if isinstance(name, str)}  # noqa: SIM118
    fields: ModelCall = getattr(batch, "__dict__", {})
    if isinstance(batch, SimpleNamespace) or TELLING & set(fields):
        return fields
    return fields if any(isinstance(value, Tensor) for value in fields.values()) else {}


def is_unread(call: ModelCall) -> bool:
    """Whether the only argument of a call is an object that may be a batch and cannot be read.

    Settings, such as flags and numbers, are not counted.
    """
    values = [
        value for value in call.values() if not (value is None or isinstance(value, _SETTINGS))
    ]
    if len(values) != 1 or isinstance(values[0], (*_NO_BATCHES, Mapping, tuple)):
        return False
    return not fields_of(values[0])


def telling_batch(call: ModelCall) -> ModelCall:
    """The batch among the arguments of a call that tells about its tokens; nothing without one.

    It may be in another one if it is the only one there that has ids.
    """
    values = _not_plain(call.values())
    for depth in range(_DEPTH + 1 if values else 0):
        batches = [fields for value in values for fields in _inside(value)]
        telling = [each for each in batches if TELLING & set(each)]
        if depth > 0:
            telling = [each for each in telling if each.get("input_ids") is not None]
        if telling:
            return telling[0] if depth == 0 or len(telling) == 1 else {}
        values = _not_plain(each for fields in batches for each in fields.values())
    return {}


def _not_plain(values: Iterable[Any]) -> list[Any]:
    """Those that may be a batch or have one in them; most arguments of most calls are not."""
    return [value for value in values if not (value is None or isinstance(value, _PLAIN))]


def entries_of(batch: ModelCall, depth: int = 0) -> list[tuple[str, Any, int]]:
    """What is in a batch and in what it contains: the name, "" in a tuple or a list, value, depth.

    A list of numbers, nested perhaps, is an entry.
    """
    found = []
    for name, value in batch.items():
        plain = value is None or isinstance(value, _PLAIN)
        inside = [] if plain or depth == _DEPTH else _inside(value)
        for each in inside:
            found += entries_of(each, depth + 1)
        if not inside:
            found.append((name, value, depth))
    return found


def _inside(value: Any) -> list[ModelCall]:
    """What is in a value: one batch, or for a tuple or a list one without a name for each entry."""
    if fields := fields_of(value):
        return [fields]
    if isinstance(value, tuple | list) and _sizes(value) is None:
        return [{"": each} for each in value]
    return []


def as_tensor(value: Any) -> Tensor | None:
    """A tensor, a NumPy array or nested lists of numbers as a tensor; ``None`` for the rest.

    Also for a sparse or nested tensor, or one without values. Unsigned integers, which PyTorch
    hardly computes with, become signed ones.
    """
    if value is None or isinstance(value, Tensor):
        given = value
    elif isinstance(value, np.ndarray):
        # The compiler cannot ask for the dtype.
        readable = torch.compiler.is_compiling() or (
            value.dtype.kind in "biufc" and value.dtype.isnative
        )
        given = torch.from_numpy(value.copy()) if readable else None  # strides may be negative
    else:
        given = None if _sizes(value) is None else torch.tensor(value, device="cpu")
    if given is None or given.layout is not torch.strided or given.is_nested:
        return None
    return given.to(torch.int64) if given.dtype in _UNSIGNED else given


def _sizes(value: Any) -> tuple[int, ...] | None:
    """The sizes of nested lists of numbers; ``None`` if they are ragged, or something else."""
    if isinstance(value, int | float | np.number) or _is_number(value):
        return ()
    if not isinstance(value, list | tuple) or not value:
        return None
    first, *others = map(_sizes, value)
    if first is None or any(each != first for each in others):
        return None
    return (len(value), *first)


def _is_number(value: Any) -> bool:
    return isinstance(value, Tensor) and value.ndim == 0
