"""Which mask among the inputs of a call tells the real tokens of a lookup."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any

__all__ = ["find_mask", "is_mask", "stem"]

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


def is_mask(name: str) -> bool:
    """Whether an input's name is that of a mask of tokens."""
    return stem(name, _MASKS) in ("", *_SIDES)


def find_mask(inputs: Mapping[str, Any], sources: Iterable[str] | None) -> Any:
    """The mask of what was looked up, or ``None`` if the inputs of the call have none.

    Args:
        inputs: The inputs of a call by name.
        sources: The names of the inputs that the ids were computed from; ``None`` if unknown.

    Raises:
        ValueError: There are several, and nothing tells which.
    """
    masks = _masks(inputs)
    # Not a dict or a list, whose entries are among the inputs as well.
    others = {stem(name) for name, value in inputs.items() if hasattr(value, "shape")} - {None}
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
