"""Which mask tells the real tokens of a lookup, and what may be one but is not known to be."""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping
from typing import Any

import numpy as np
from keras import ops
from numpy.typing import NDArray

from embnoise_keras.inputs import Inputs, Place, label, shape_of

__all__ = [
    "as_reordered",
    "find_mask",
    "is_mask_of_layer",
    "is_of_other_ids",
    "mask_of_scores",
    "stem",
    "unknown_mask",
]

# What masks of tokens are called, the most specific first; encoder-decoders put a name before it.
_MASKS = ("padding_mask", "attention_mask", "input_mask", "mask")
_IDS = ("token_ids", "input_ids", "tokens", "ids", "inputs")
_SIDES = ("encoder", "decoder")
# Names that tell how long rows are, but not by which tokens are real.
_LENGTHS = re.compile(r"((seq|sequence|input|text|tokens?|ids|row|valid)_?)?(lengths?|lens?)")
_DOCUMENTS = re.compile(r"(segment|document|doc)(s|_?(ids?|idx|index|numbers?))")


def stem(name: str, endings: tuple[str, ...] = _IDS) -> str | None:
    """What comes before the ending: "encoder" of "encoder_token_ids", "" of "token_ids".

    ``None`` if the name has none of the endings.
    """
    for ending in endings:
        if name == ending or name.endswith("_" + ending):
            return name[: -len(ending)].rstrip("_")
    return None


def _is_mask(name: str) -> bool:
    """Whether an argument's name is that of a mask of tokens."""
    return stem(name, _MASKS) in ("", *_SIDES)


def is_mask_of_layer(name: str) -> bool:
    """Whether an argument of a layer is a mask of tokens, or of the queries, keys or values."""
    return stem(name, _MASKS) in ("", *_SIDES, "query", "key", "value")


def mask_of_scores(inputs: Inputs) -> str | None:
    """What to say of an input that is a mask of attention scores; ``None`` if none is."""
    for place, value in inputs.leaves.items():
        if _is_mask(str(place[-1])) and len(shape_of(value)) > 2:
            return f"{label(place)} of shape {shape_of(value)} is not [B, L]"
    return None


def unknown_mask(inputs: Inputs, ids: Any, looked_up: Iterable[Any]) -> str | None:
    """What to say of an input that may be the mask of ``ids``; ``None`` if none is.

    Names and dtypes decide, since a compiled step has no values.

    Args:
        inputs: The inputs of a call.
        ids: What was looked up.
        looked_up: What else was looked up in the call, which is no mask.
    """
    shape = shape_of(ids)[:2]
    own = [place for each in (ids, *looked_up) for place in inputs.places_of(each)]
    known = {*_whose((str(place[-1]), each) for place, each in inputs.leaves.items()), "", *_SIDES}
    alike = [place for place, value in inputs.leaves.items() if shape_of(value) == shape]
    others = {place: each for place, each in inputs.leaves.items() if place not in own}
    # BERT has segments that are no documents, beside a mask; and beside ids with a name of their
    # own, such as "query_ids", "doc_ids" are other tokens.
    packed = {stem(str(place[-1])) for place in inputs.places_of(ids)} <= {"", *_SIDES} and not any(
        _is_mask(str(place[-1])) for place in inputs.leaves
    )
    for place, value in others.items():
        numbers = packed and place in alike and _DOCUMENTS.fullmatch(str(place[-1]).lower())
        if numbers or _may_tell(place, value, shape, known):
            return f"the name of {label(place)} of shape {shape_of(value)} is not known"
    nameless = [place for place in alike if place not in own and not isinstance(place[-1], str)]
    if nameless and len(alike) > 1:  # one is the ids, or what they were computed from
        return f"{label(nameless[-1])} of shape {shape} has no name"
    return None


def _may_tell(place: Place, value: Any, shape: tuple[Any, ...], known: set[str]) -> bool:
    """Whether an input is a mask of ids, or their lengths, under a name that is not known.

    Args:
        place: Where the input is.
        value: The input.
        shape: The shape of the ids, [B, L].
        known: What comes before the names of masks that are known.
    """
    if not isinstance(place[-1], str):
        return False
    dtype = str(getattr(value, "dtype", ""))  # of any backend, or of NumPy
    if shape_of(value) == shape:
        is_mask = "mask" in label(place).lower() or "bool" in dtype
        return is_mask and stem(place[-1], _MASKS) not in known
    of_rows = shape_of(value) in (shape[:1], (*shape[:1], 1))
    return of_rows and "int" in dtype and bool(_LENGTHS.fullmatch(place[-1].lower()))


def as_reordered(mask: Any, own: Any) -> Any:
    """The mask of ids that a model computed: in each row ``own``, if they are in another order.

    Args:
        mask: The mask among the model's inputs, [B, L].
        own: What the embedding takes for padding in the ids themselves. It counts as many tokens,
            unless the ids are others or the embedding knows another id of padding.
    """
    mask = ops.not_equal(mask, 0)
    counts = [ops.sum(ops.cast(each, "int32"), axis=-1, keepdims=True) for each in (mask, own)]
    return ops.where(ops.equal(*counts), own, mask)


def is_of_other_ids(mask: NDArray[Any], ids: NDArray[Any], inputs: Iterable[NDArray[Any]]) -> bool:
    """Whether ids that a model computed have moved away from their mask, such as reversed ones.

    Where the mask tells padding, they then are several tokens, and not those of the inputs.

    Args:
        mask: Nonzero for real tokens, [B, L].
        ids: What was looked up, [B, L].
        inputs: What the model was given, each [B, L].
    """
    padding = ids[mask == 0]
    same = any(np.array_equal(padding, each[mask == 0]) for each in inputs)
    return len(np.unique(padding)) > 1 and not same


def _whose(named: Iterable[tuple[str, Any]]) -> set[str]:
    """What comes before the names of ids: "encoder" of "encoder_token_ids", "" of "token_ids"."""
    found = {stem(name) for name, value in named if hasattr(value, "shape")}
    return {each for each in found if each is not None}


def find_mask(inputs: Inputs, places: Iterable[Place]) -> Any:
    """The mask of what was looked up, or ``None`` if the inputs of the call have none.

    Args:
        inputs: The inputs of a call.
        places: Where the ids, or what they were computed from, are; empty if that is unknown.

    Raises:
        ValueError: There are several, and nothing tells which.
    """
    sources: dict[Place, list[str] | None] = {}
    for place in places:
        sources[place[:-1]] = [*(sources.get(place[:-1]) or []), str(place[-1])]
    # If it is unknown, the ids may be in any structure that has rows.
    sources = sources or dict.fromkeys(_with_rows(inputs) or {()})
    found = [_nearest_mask(inputs, near, names) for near, names in sources.items()]
    if any(mask is not found[0] for mask in found):
        raise _several(inputs)
    return found[0]


def _nearest_mask(inputs: Inputs, near: Place, sources: list[str] | None) -> Any:
    """The mask of what is looked up in the structure ``near``, from there or from around it."""
    others = False
    for depth in range(len(near), -1, -1):
        seen, has_others = _seen_in(inputs, near, near[:depth])
        mask = _mask_among(seen, sources, inputs)
        if mask is not None:
            return mask
        others |= has_others
    if others:
        raise _several(inputs)
    return None


def _seen_in(inputs: Inputs, near: Place, around: Place) -> tuple[dict[str, Any], bool]:
    """What is in the structure ``around``, by name, as ``near`` in it sees it.

    Returns:
        The inputs, and whether masks are left out: those in structures beside ``near`` that may
        belong to what is there with them.
    """
    seen: dict[str, Any] = {}
    beside: dict[str, Any] = {}
    others = False
    for place, value in inputs.from_nearest(near):
        name, where = str(place[-1]), place[:-1]
        if where[: len(around)] != around:
            continue
        if where != near[: len(where)] and _is_mask(name) and hasattr(value, "shape"):
            if where in _with_rows(inputs):
                others = True
                continue
            if name in beside and beside[name] is not value:
                raise _several(inputs)
            if name not in seen:
                beside[name] = value
        seen.setdefault(name, value)
    return seen, others


def _with_rows(inputs: Inputs) -> dict[Place, None]:
    """The structures that have arrays of rows in them, apart from masks."""
    return {
        place[:-1]: None
        for place, value in inputs.leaves.items()
        if len(shape_of(value)) > 1 and stem(str(place[-1]), _MASKS) is None
    }


def _several(inputs: Inputs) -> ValueError:
    names = sorted(map(label, inputs.leaves))
    return ValueError(
        f"found several inputs in the model's call, {names}, and cannot tell which "
        "mask belongs to a lookup; pass tokens=lambda ids: {'mask': ids != 0}"
    )


def _mask_among(seen: Mapping[str, Any], sources: Iterable[str] | None, inputs: Inputs) -> Any:
    """The mask of the inputs ``sources`` among those by name; ``None`` if these are unknown."""
    masks = _masks(seen)
    others = _whose(seen.items())
    known = {*others, "", *_SIDES}
    masks = {whose: mask for whose, mask in masks.items() if whose in known}
    if not masks:
        return None
    if sources is not None:
        own = {stem(name) for name in sources} - {None}
        found = [masks[whose] for whose in masks if whose in own]
        if len(found) == 1:
            return found[0]
        if not found:
            taken = "" in masks and "" in others  # by ids that are not these
            return None if taken else masks.get("", _only(masks, seen))
    elif len(masks) == 1:
        ((whose, mask),) = masks.items()
        if whose == "":
            rivals = others & {*_SIDES} if "" in others else set()
        else:
            rivals = others - {whose, ""}
        if not rivals:
            return mask
    raise _several(inputs)


def _masks(seen: Mapping[str, Any]) -> dict[str, Any]:
    """The masks [B, L] by what comes before "mask" in their names."""
    found: dict[str, Any] = {}
    for ending in _MASKS:
        for name, value in seen.items():
            named = name == ending or name.endswith("_" + ending)
            if named and len(getattr(value, "shape", (0, 0, 0))) <= 2:
                found.setdefault(name[: -len(ending)].rstrip("_"), value)
    return found


def _only(masks: Mapping[str, Any], inputs: Mapping[str, Any]) -> Any:
    """The only mask, unless it is that of another input."""
    if len(masks) != 1:
        return None
    ((whose, mask),) = masks.items()
    others = [name for name in inputs if name.startswith(f"{whose}_") and not name.endswith("mask")]
    return None if others else mask
