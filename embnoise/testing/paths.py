"""The paths that a layer may take through its code: plain, padded and packed batches."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

from embnoise.testing.context import CheckContext
from embnoise.testing.inputs import PACKED, RAGGED, SMALL, Inputs

__all__ = ["SIZED", "over_paths"]

SIZED = ("EN09", "EN19", "EN20", "EN24", "EN47", "EN49", "EN23")
"""The checks of the same size in padded and packed batches, at one step and of one layer."""


def over_paths(
    context: CheckContext,
    fill: str | None = None,
    *,
    plain: bool = True,
    sizes: bool = False,
) -> Iterator[Inputs]:
    """Batches for every path of the layer, each with a transcript of its own.

    What an assertion reports of a path other than the plain one says which it is. In the quick
    profile, float32 alone has other paths.

    Args:
        context: The check's.
        fill: As for ``CheckContext.batch``.
        plain: Whether there is a batch without padding, of one document in each row.
        sizes: Whether there are also the profile's batch, in float32, and, in all profiles but the
            quick one, a batch of one row.
    """
    made: list[tuple[str, tuple[int, int, int], dict[str, Any]]] = []
    if plain:
        made.append(("", SMALL, {}))
    if context.dtype == "float32" or context.profile.draws:
        layer = context.layer()
        if context.case.inputs == "ids" or layer.gets("mask"):
            made.append(("in padded batches, ", SMALL, {"mask": RAGGED}))
        if layer.takes("segment_ids"):
            made.append(("in packed batches, ", SMALL, {"segments": PACKED}))
        if sizes and context.profile.draws:
            made.append(("in batches of one row, ", (1, *SMALL[1:]), {}))
    if sizes and context.dtype == "float32":
        made.append(("in large batches, ", context.profile.batch, {}))
    for where, shape, options in made:
        context.transcript.clear()
        context.where = where
        yield context.batch(shape, fill, **options)
    context.where = ""
