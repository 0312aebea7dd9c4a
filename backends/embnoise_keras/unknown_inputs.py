"""Inputs that may tell the padding or the documents of a lookup under names that are not known."""

from __future__ import annotations

import re
from collections.abc import Collection, Iterable
from typing import Any

from embnoise.backend import is_positions
from embnoise_keras._compat import known_value
from embnoise_keras.inputs import Inputs, Place, label, shape_of
from embnoise_keras.known_values import are_segments, start_again
from embnoise_keras.masks import MASKS, SIDES, is_mask, prefixes, stem

__all__ = ["documents_among", "mask_of_scores", "unknown_mask"]

# Names that tell how long rows are, but not by which tokens are real.
_LENGTHS = re.compile(r"((seq|sequence|input|text|tokens?|ids|row|valid)_?)?(lengths?|lens?)")
_DOCUMENTS = re.compile(r"(segment|document|doc)(s|_?(ids?|idx|index|numbers?))")


def mask_of_scores(inputs: Inputs) -> str | None:
    """What to say of an input that is a mask of attention scores; ``None`` if none is."""
    for place, value in inputs.leaves.items():
        if is_mask(str(place[-1])) and len(shape_of(value)) > 2:
            return f"{label(place)} of shape {shape_of(value)} is not [B, L]"
    return None


def unknown_mask(
    inputs: Inputs, ids: Any, looked_up: Iterable[Any], taken: Collection[str] = ()
) -> str | None:
    """What to say of an input that may be the mask of ``ids``; ``None`` if none is.

    Names and dtypes decide, since a compiled step has no values.

    Args:
        inputs: The inputs of a call.
        ids: What was looked up.
        looked_up: What else was looked up in the call, which is no mask.
        taken: The names of inputs that ``where=`` takes, so that they may tell something else.
    """
    shape = shape_of(ids)[:2]
    own = [place for each in (ids, *looked_up) for place in inputs.places_of(each)]
    known = {*prefixes((str(place[-1]), each) for place, each in inputs.leaves.items()), "", *SIDES}
    alike = [place for place, value in inputs.leaves.items() if shape_of(value) == shape]
    others = {
        place: each
        for place, each in inputs.leaves.items()
        if place not in own and not {*place} & {*taken}
    }
    # BERT has segments that are no documents, beside a mask.
    packed = _may_be_packed(inputs, ids) and not any(
        is_mask(str(place[-1])) for place in inputs.leaves
    )
    for place, value in others.items():
        numbers = packed and place in alike and _DOCUMENTS.fullmatch(str(place[-1]).lower())
        if numbers or _may_tell(place, value, shape, known):
            return f"the name of {label(place)} of shape {shape_of(value)} is not known"
    nameless = [place for place in alike if place in others and not isinstance(place[-1], str)]
    if not nameless or len(alike) < 2:  # one is the ids, or what they were computed from
        return None
    if len(nameless) == 1:
        return f"{label(nameless[0])} of shape {shape} has no name"
    listed = " or ".join(map(label, nameless))
    return f"whether {listed} of shape {shape} is a mask is not known"


def _may_be_packed(inputs: Inputs, ids: Any) -> bool:
    """Whether the documents of a call are those of ids.

    Beside ids with a name of their own, such as "query_ids", "doc_ids" are other tokens.
    """
    return {stem(str(place[-1])) for place in inputs.places_of(ids)} <= {"", *SIDES}


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
    given = shape_of(value)
    if given == shape or (
        len(given) > 2 and given == (shape[0], *(1,) * (len(given) - 2), shape[1])
    ):
        may_mask = "mask" in label(place).lower() or "bool" in dtype
        return may_mask and stem(place[-1], MASKS) not in known
    of_rows = given in (shape[:1], (*shape[:1], 1))
    return of_rows and "int" in dtype and bool(_LENGTHS.fullmatch(place[-1].lower()))


def documents_among(
    inputs: Inputs,
    ids: Any,
    looked_up: Iterable[Any],
    mask: Any,
) -> Place | None:
    """Where positions that start again, or the numbers of documents, are; ``None`` if nowhere.

    Documents are known by name, and without a mask, ``unknown_mask`` says so. What is called
    segments may be the two of BERT, and most positions do not start again, so their values decide.

    Args:
        inputs: The inputs of a call.
        ids: What was looked up.
        looked_up: What else was looked up in the call.
        mask: The mask of the ids, if there is one.
    """
    shape = shape_of(ids)[:2]
    own = [place for each in (ids, *looked_up) for place in inputs.places_of(each)]
    packed = mask is not None and _may_be_packed(inputs, ids)
    for place, given in inputs.leaves.items():
        name = str(place[-1]).lower()
        rows = shape_of(given) in (shape, shape[1:], (1, *shape[1:]))
        if place in own or not rows or "int" not in str(getattr(given, "dtype", "")):
            continue
        if packed and _DOCUMENTS.fullmatch(name) and not name.startswith("segment"):
            return place
        segments = packed and _DOCUMENTS.fullmatch(name)
        if not segments and not is_positions(name):
            continue
        values, told = known_value(given), None if mask is None else known_value(mask)
        if values is not None and (are_segments if segments else start_again)(values, told):
            return place
    return None
