"""Which mask tells the real tokens of a lookup."""

from __future__ import annotations

from collections.abc import Collection, Iterable, Mapping
from typing import Any

from keras import ops

from embnoise.backend import likeliest_ids
from embnoise_keras.inputs import Inputs, Place, label, shape_of

__all__ = [
    "MASKS",
    "SIDES",
    "as_reordered",
    "find_mask",
    "is_mask",
    "is_mask_of_layer",
    "likelier_ids",
    "prefixes",
    "stem",
]

# What masks of tokens are called, the most specific first; encoder-decoders put a name before it.
MASKS = ("padding_mask", "attention_mask", "input_mask", "mask")
_IDS = ("token_ids", "input_ids", "tokens", "ids", "inputs")
SIDES = ("encoder", "decoder")
# Integers with these in their names are something of each token, no ids of tokens.
_OF_EACH = ("position", "type", "segment")


def stem(name: str, endings: tuple[str, ...] = _IDS) -> str | None:
    """What comes before the ending: "encoder" of "encoder_token_ids", "" of "token_ids".

    ``None`` if the name has none of the endings.
    """
    for ending in endings:
        if name == ending or name.endswith("_" + ending):
            return name[: -len(ending)].rstrip("_")
    return None


def is_mask(name: str) -> bool:
    """Whether an argument's name is that of a mask of tokens."""
    return stem(name, MASKS) in ("", *SIDES)


def is_mask_of_layer(name: str) -> bool:
    """Whether an argument of a layer is a mask of tokens, or of the queries, keys or values."""
    return stem(name, MASKS) in ("", *SIDES, "query", "key", "value")


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


def likelier_ids(inputs: Inputs, mask: Any, places: Collection[Place]) -> Place | None:
    """Where other ids are that a mask more likely belongs to; ``None`` if there are none.

    Of several arguments beside a mask that says nothing of whose it is, it belongs to the first
    that has the name of ids, or a plain one, such as "src" of "src" and "tgt".

    Args:
        inputs: The inputs of a call.
        mask: The mask among them, [B, L].
        places: Where the ids, or what they were computed from, are; empty if that is unknown.
    """
    own = [str(place[-1]) for place in places]
    of_ids = {stem(str(place[-1]), MASKS) for place in inputs.places_of(mask)} == {""}
    if not of_ids or {stem(name) for name in own} & {"", *SIDES}:
        return None
    if all(_has_any(name, _OF_EACH) for name in own):
        return None
    around = {place[:-1] for place in places}
    alike = [
        place
        for place, value in inputs.leaves.items()
        if place[:-1] in around
        and isinstance(place[-1], str)
        and "int" in str(getattr(value, "dtype", ""))
        and shape_of(value) == shape_of(mask)
    ]
    likeliest = likeliest_ids([place[-1] for place in alike])
    return None if likeliest is None or alike[likeliest] in places else alike[likeliest]


def _has_any(name: str, parts: Iterable[str]) -> bool:
    return any(part in name for part in parts)


def prefixes(named: Iterable[tuple[str, Any]]) -> set[str]:
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
        if where != near[: len(where)] and is_mask(name) and hasattr(value, "shape"):
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
        if len(shape_of(value)) > 1 and stem(str(place[-1]), MASKS) is None
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
    others = prefixes(seen.items())
    known = {*others, "", *SIDES}
    masks = {whose: mask for whose, mask in masks.items() if whose in known}
    if not masks:
        return None
    if sources is not None:
        own = {"" if _has_any(name, _OF_EACH) else stem(name) for name in sources} - {None}
        found = [masks[whose] for whose in masks if whose in own]
        if len(found) == 1:
            return found[0]
        if not found:
            taken = "" in masks and "" in others  # by ids that are not these
            return None if taken else masks.get("", _only(masks, seen))
    elif len(masks) == 1:
        ((whose, mask),) = masks.items()
        if whose == "":
            rivals = others & {*SIDES} if "" in others else set()
        else:
            rivals = others - {whose, ""}
        if not rivals:
            return mask
    raise _several(inputs)


def _masks(seen: Mapping[str, Any]) -> dict[str, Any]:
    """The masks [B, L] by what comes before "mask" in their names."""
    found: dict[str, Any] = {}
    for ending in MASKS:
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
