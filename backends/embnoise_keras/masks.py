"""Which mask tells the real tokens of a lookup, and what may be one but is not known to be."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any

from embnoise_keras._compat import compared_tokens

__all__ = [
    "find_mask",
    "mask_of_scores",
    "padding_tokens",
    "stem",
    "unknown_mask",
    "unknown_tokens",
]

# What masks of tokens are called, the most specific first; encoder-decoders put a name before it.
_MASKS = ("padding_mask", "attention_mask", "input_mask", "mask")
_IDS = ("token_ids", "input_ids", "tokens", "ids", "inputs")
_SIDES = ("encoder", "decoder")


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


def padding_tokens(model: Any, names: Iterable[str]) -> set[int]:
    """The ids of padding that the graph of a functional model compares the named inputs with.

    Any other id than 0 may be that of [MASK], say, unless the comparison becomes a mask.
    """
    compared = compared_tokens(model, names).items()
    return {token for token, passed in compared if token == 0 or any(map(_is_mask, passed))}


def mask_of_scores(inputs: Mapping[str, Any]) -> str | None:
    """What to say of an input that is a mask of attention scores; ``None`` if none is."""
    for name, value in inputs.items():
        if _is_mask(name) and len(_shape(value)) > 2:
            return f"{name} of shape {_shape(value)} is not [B, L]"
    return None


def unknown_mask(inputs: Mapping[str, Any], shape: tuple[Any, ...]) -> str | None:
    """What to say of an input that may be a mask of tokens of that shape; ``None`` if none is."""
    known = {*_whose(inputs), "", *_SIDES}
    for name, value in inputs.items():
        unknown = "mask" in name.lower() and stem(name, _MASKS) not in known
        if unknown and _shape(value) == shape:
            return f"the name of {name} of shape {shape} is not known"
    return None


def unknown_tokens(model: Any, names: Iterable[str]) -> str | None:
    """What to say of the ids that a graph compares the named inputs with; ``None`` if none are."""
    if compared := compared_tokens(model, names):
        tokens = " and ".join(map(str, sorted(compared)))
        return f"the model's comparison of ids with {tokens} may be with other tokens than padding"
    return None


def _shape(value: Any) -> tuple[Any, ...]:
    return tuple(getattr(value, "shape", ()))


def _whose(inputs: Mapping[str, Any]) -> set[str]:
    """What comes before the names of ids: "encoder" of "encoder_token_ids", "" of "token_ids"."""
    # Not those of a dict or a list, whose entries are among the inputs as well.
    found = {stem(name) for name, value in inputs.items() if hasattr(value, "shape")}
    return {each for each in found if each is not None}


def find_mask(inputs: Mapping[str, Any], sources: Iterable[str] | None) -> Any:
    """The mask of what was looked up, or ``None`` if the inputs of the call have none.

    Args:
        inputs: The inputs of a call by name.
        sources: The names of the inputs that the ids were computed from; ``None`` if unknown.

    Raises:
        ValueError: There are several, and nothing tells which.
    """
    masks = _masks(inputs)
    others = _whose(inputs)
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
            return None if taken else masks.get("", _only(masks, inputs))
    elif len(masks) == 1:
        ((whose, mask),) = masks.items()
        if whose == "":
            rivals = others & {*_SIDES} if "" in others else set()
        else:
            rivals = others - {whose, ""}
        if not rivals:
            return mask
    raise ValueError(
        f"found several inputs in the model's call, {sorted(inputs)}, and cannot tell which mask "
        "belongs to a lookup; pass tokens=lambda ids: {'mask': ids != 0}"
    )


def _masks(inputs: Mapping[str, Any]) -> dict[str, Any]:
    """The masks [B, L] by what comes before "mask" in their names."""
    found: dict[str, Any] = {}
    for ending in _MASKS:
        for name, value in inputs.items():
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
