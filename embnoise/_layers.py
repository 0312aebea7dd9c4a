"""Several embeddings in one model: how they are named, and what tells their noise apart."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import replace
from typing import Any

from embnoise._noise import Noise

__all__ = ["check_layers", "noise_by_layer", "refuse_equal_streams"]


def check_layers(layer: Any) -> list[Any]:
    """What the argument ``layer`` of ``attach`` names, one or several, as a list.

    Raises:
        ValueError: It is an empty list.
    """
    if not isinstance(layer, list | tuple):
        return [layer]
    if not layer:
        raise ValueError(f"layer must name at least one embedding, got {layer!r}")
    return list(layer)


def noise_by_layer(noise: Noise, names: Iterable[str]) -> dict[str, Noise]:
    """The noise of each embedding of a model.

    Two of them look up at the same coordinates, so all but the first have a stream of their own,
    ``"{noise.stream}/{name}"``.
    """
    made: dict[str, Noise] = {}
    for name in dict.fromkeys(names):
        made[name] = replace(noise, stream=f"{noise.stream}/{name}") if made else noise
    return made


def refuse_equal_streams(wanted: Mapping[str, Noise], attached: Mapping[str, Noise]) -> None:
    """Raise if an embedding would get the noise that another one of the model has already.

    Args:
        wanted: The noise of each embedding that is to get some.
        attached: The noise of those that have some.
    """
    names = {noise.stream: name for name, noise in attached.items()}
    for name, noise in wanted.items():
        if noise.stream in names:
            raise ValueError(
                f"model has noise of the stream {noise.stream!r} attached to "
                f"{names[noise.stream]!r} already, and {name!r} would get the same. Name both in "
                f"one attach(layer=[...]), or pass a noise with another stream="
            )
