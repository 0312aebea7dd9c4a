"""What the arguments of one call of a module say about its tokens.

The names are those of ``transformers``. Padding comes from ``attention_mask``; in packed rows,
documents come from ``cu_seq_lens_q`` (one flattened row), ``seq_idx``, document numbers in
``attention_mask``, or ``position_ids`` that start again. The tokens of a decoder have the same
names with ``decoder_`` in front.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from types import SimpleNamespace
from typing import Any, NamedTuple, TypeAlias, cast

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn.functional import pad

from embnoise.backend import format_value

__all__ = [
    "BESIDE_MASKS",
    "DECODER",
    "TELLING",
    "WHERE",
    "CallTokens",
    "ModelCall",
    "calls_in",
    "entries_of",
    "fields_of",
    "filled",
    "flat_calls",
    "is_unread",
    "may_have_ids",
    "telling_batch",
    "tells_padding",
    "tokens_in",
]

ModelCall: TypeAlias = Mapping[str, Any]
"""The arguments of a module's call, by name."""

DECODER = "decoder_"
"""What the names of a decoder's arguments begin with, beside those of its encoder."""

_CUMULATIVE = ("cu_seq_lens_q", "cu_seq_lens", "cu_seqlens_q", "cu_seqlens")

_NAMES = {
    prefix: tuple(
        f"{prefix}{name}" for name in ("input_ids", "attention_mask", "position_ids", "seq_idx")
    )
    for prefix in ("", DECODER)
}

BESIDE_MASKS = frozenset(
    ("position_ids", "seq_idx", *_CUMULATIVE, "past_key_values", "cache_params")
)
"""The arguments that tell the documents of packed rows, or of earlier tokens, beside a mask."""

TELLING = frozenset(name for names in (*_NAMES.values(), _CUMULATIVE) for name in names)
"""A forward that takes one of these may know about its tokens."""

_NOT_TOKENS = ("mask", "position", "type", "segment", "label", "cache", "length")
"""An integer argument with one of these in its name has no ids of tokens."""

_NOT_IDS = (*_NOT_TOKENS, "target", "seq", "_")
"""One with one of these in its name is not what is looked up, in a call without ``input_ids``."""

_DATACLASS = "__dataclass_fields__"
_PLAIN = (Tensor, bool, str)
_NO_BATCHES = (Tensor, nn.Module, str, bytes, int, float, complex, list, np.ndarray, type)
_DEPTH = 2
"""How deep a batch may lie in others."""


class CallTokens(NamedTuple):
    """The tensors of a call that tell about its tokens; ``resolve_tokens`` reads them."""

    ids: Tensor | None
    """[B, L]: ``input_ids``. What is looked up is compared with it."""
    other_ids: Tensor | None
    """[B, L]: another argument that looks like ids, in a call without ``input_ids``."""
    mask: Tensor | None
    """[B, L], or longer by what is cached; of any other shape or dtype it cannot be read."""
    positions: Tensor | None
    """[B, L], or [n, B, L] for n kinds of positions."""
    cumulative: Tensor | None
    """[n + 1]: where the documents of one flattened row begin and end."""
    documents: Tensor | None
    """[B, L]: the number of every token's document."""
    rival_ids: Tensor | None = None
    """The ids of the other side of an encoder-decoder, if the lookup may be on either."""
    rival_mask: Tensor | None = None
    """The mask of that side."""
    unknown: Tensor | None = None
    """What is a mask or lengths by its name, which is not one that is known: see ``untold_in``."""
    unknown_documents: Tensor | None = None
    """What is the numbers of documents by its name."""
    unnamed: Tensor | None = None
    """What may be any of these by its values alone."""
    beside: Tensor | None = None
    """[n, B', L']: the other arguments that look like ids, beside ``input_ids``; -1 fills them."""
    cached: Tensor | None = None
    """Empty, if the call has a cache: a mask that is longer than the ids is then of that, too."""
    unread: Tensor | None = None
    """Empty, if all that the call has is an object that cannot be read."""


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
    """Whether the only argument of a call is an object that may be a batch and cannot be read."""
    if len(call) != 1:
        return False
    (value,) = call.values()
    plain = value is None or isinstance(value, (*_NO_BATCHES, Mapping, tuple))
    return not (plain or fields_of(value))


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

    A list of integers is an entry.
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
    if isinstance(value, tuple | list) and not (value and isinstance(value[0], int)):
        return [{"": each} for each in value]
    return []


def tokens_in(call: ModelCall, prefix: str) -> CallTokens:
    """What a call tells about its tokens, or with the prefix ``DECODER`` about its decoder's."""
    given, *rest = map(call.get, _NAMES[prefix])
    ids, cumulative = _tensor(given), None
    mask, positions, documents = map(_told, rest)
    if not prefix:
        for name in _CUMULATIVE:
            if (given := call.get(name)) is not None:
                cumulative = _told(given)
    if mask is not None and ids is not None and ids.ndim == mask.ndim == 1:
        mask = mask[None]  # of one row
    told = CallTokens(
        ids,
        None if prefix or ids is not None else _other_ids(call),
        mask,
        positions,
        cumulative,
        documents,
    )
    if not prefix and ids is not None:
        told = told._replace(beside=_beside(call, ids))
    if _has_cache(call):
        told = told._replace(cached=torch.empty(0))
    return told


def _has_cache(call: ModelCall) -> bool:
    """Whether there are tokens of earlier calls."""
    return any(
        ("past" in name or "cache" in name) and "position" not in name and _holds_tokens(value)
        for name, value in call.items()
    )


def _holds_tokens(cache: Any) -> bool:
    """Whether something is a cache that is not empty; ``use_cache`` is none."""
    if cache is None or isinstance(cache, bool | int | str):
        return False
    if not hasattr(cache, "get_seq_length"):
        return not hasattr(cache, "__len__") or len(cache) > 0
    try:
        length = cache.get_seq_length()
    except ValueError:  # transformers: all of its layers are recurrent
        return True
    return not isinstance(length, int) or length > 0  # a tensor's value would be waited for


def tells_padding(call: CallTokens) -> bool:
    """Whether a call tells which tokens are padding; its position ids do not."""
    return not (call.mask is call.cumulative is call.documents is None)


def flat_calls(calls: Iterable[CallTokens]) -> list[Tensor | None]:
    """The tensors of several calls in a row, as an operator takes them."""
    return [tensor for call in calls for tensor in call]


def calls_in(tensors: Sequence[Tensor | None]) -> list[CallTokens]:
    """The calls of ``flat_calls``."""
    size = len(CallTokens._fields)
    return [CallTokens(*tensors[start : start + size]) for start in range(0, len(tensors), size)]


def _tensor(value: Any) -> Tensor | None:
    """A tensor, a NumPy array or nested lists of numbers as a tensor; ``None`` for the rest."""
    if value is None or isinstance(value, Tensor):
        return value
    if isinstance(value, np.ndarray):
        return torch.from_numpy(value.copy())  # its strides may be negative
    return None if _sizes(value) is None else torch.tensor(value, device="cpu")


def _sizes(value: Any) -> tuple[int, ...] | None:
    """The sizes of nested lists of numbers; ``None`` if they are ragged, or something else."""
    if isinstance(value, int | float):
        return ()
    if not isinstance(value, list | tuple) or not value:
        return None
    first, *others = map(_sizes, value)
    if first is None or any(each != first for each in others):
        return None
    return (len(value), *first)


def _told(value: Any) -> Tensor | None:
    """The same; without a value if there is something that cannot be read.

    It may be a mask for each kind of layer, or a block mask.
    """
    array = _tensor(value)
    return torch.empty((0,) * 4) if array is None and value is not None else array


def _other_ids(call: ModelCall) -> Tensor | None:
    for name, value, _ in entries_of(call):
        if _may_be_ids(name, value, _NOT_IDS):
            return cast("Tensor", value)
    return None


def _may_be_ids(name: str, value: Any, unlike: Iterable[str]) -> bool:
    return (
        isinstance(value, Tensor)
        and value.ndim in (1, 2)
        and not (value.is_floating_point() or value.dtype is torch.bool)
        and not any(part in name for part in unlike)
    )


def may_have_ids(call: ModelCall) -> bool:
    """Whether anything in a call may be what is looked up, and not features or settings alone."""
    for name, value, _ in entries_of(call):
        if isinstance(value, Tensor):
            numbers = value.is_floating_point() or value.is_complex() or value.dtype is torch.bool
            if not (numbers or any(part in name for part in _NOT_TOKENS)):
                return True
        elif not (value is None or isinstance(value, str | int | float)):
            return True
    return False


def _beside(call: ModelCall, ids: Tensor) -> Tensor | None:
    """The arguments beside ``input_ids`` that look like ids, also those in a batch or a list."""
    named: list[tuple[str, Any]] = []
    for name, value in call.items():
        if isinstance(value, list):
            named += [(name, each) for each in value]
        elif isinstance(value, Tensor):
            if name not in TELLING:
                named.append((name, value))
        elif value is not None:
            named += fields_of(value).items()
    others = [
        value.reshape((1, *value.shape)[-2:]).to(ids.device, torch.int64)
        for name, value in named
        if value is not ids and _may_be_ids(name, value, _NOT_TOKENS)
    ]
    if not others:
        return None
    rows, length = (max(sizes) for sizes in zip(*(each.shape for each in others), strict=True))
    return torch.stack([filled(each, rows, length) for each in others])


def filled(ids: Tensor, rows: int, length: int) -> Tensor:
    """Ids [B, L] in a larger array, filled up with -1, which is no id."""
    return pad(ids, (0, length - ids.shape[1], 0, rows - len(ids)), value=-1)


def _in_completion(call: ModelCall) -> Tensor:
    labels = call.get("labels")
    if not isinstance(labels, Tensor):
        raise ValueError(f"where needs labels in the model's call, got {format_value(labels)}")
    return labels != -100


def _in_prompt(call: ModelCall) -> Tensor:
    return ~_in_completion(call)


WHERE: dict[str, Callable[[ModelCall], Tensor]] = {
    "prompt": _in_prompt,
    "completion": _in_completion,
}
"""What the argument ``where`` of ``attach`` may be besides ``"all"``."""
