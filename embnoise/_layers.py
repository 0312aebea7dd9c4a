"""Several layers of one model with noise: how they are named, and what tells their noise apart."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import replace
from difflib import get_close_matches
from fnmatch import fnmatchcase
from typing import Any

from embnoise._noise import Noise
from embnoise._validation import format_value

__all__ = [
    "PLACES",
    "check_layers",
    "is_match",
    "match_layers",
    "no_hidden_states",
    "noise_by_layer",
    "refuse_equal_streams",
]

PLACES = ("output", "input")
"""What the argument ``at`` of ``attach`` may be."""


def check_layers(layer: Any) -> list[Any]:
    """What the argument ``layer`` of ``attach`` names, one or several, as a list.

    Raises:
        ValueError: It is an empty list, or an empty name.
    """
    layers = list(layer) if isinstance(layer, list | tuple) else [layer]
    if not layers:
        raise ValueError(f"layer must name at least one layer, got {layer!r}")
    if any(isinstance(each, str) and not each for each in layers):
        # In some frameworks the name of the whole model, which nobody means by it.
        raise ValueError(
            "layer must be the name of a layer inside the model, got ''; pass the model itself to "
            "add noise to its output, or call add_noise on that"
        )
    return layers


def no_hidden_states(found: object) -> TypeError:
    """The error for a layer where there are no hidden states to add noise to.

    Args:
        found: What the layer returns, or with noise at its input its first argument.
    """
    return TypeError(
        "layer must return hidden states, perhaps as the first entry of a tuple, and with "
        f"at='input' take them as its first argument, got {format_value(found)}"
    )


def is_match(pattern: str, name: str, separator: str = ".") -> bool:
    """Whether a pattern matches the name of a layer; see ``match_layers``."""
    own, parts = name.split(separator), pattern.split(separator)
    return len(own) == len(parts) and all(map(fnmatchcase, own, parts))


def match_layers(
    layer: str, names: Sequence[str], *, embeddings: str, separator: str = "."
) -> list[str]:
    """The names of a model's layers that ``layer``, a name or a pattern, stands for.

    In a pattern, ``*`` stands for any characters, ``?`` for one, and ``[0-3]`` for one of several,
    as in a shell. None of them stands for a separator, so ``"layers.*"`` is every layer of
    ``layers``, and nothing inside of those.

    Args:
        layer: The name or the pattern.
        names: The names of all layers of the model.
        embeddings: The model's embeddings, for errors.
        separator: What separates the parts of a name.

    Returns:
        The names in the order of the model, at least one.

    Raises:
        ValueError: No layer has this name or matches the pattern.

    Example:
        >>> names = ["embed", "layers.0", "layers.0.mlp", "layers.1", "layers.1.mlp"]
        >>> match_layers("layers.*", names, embeddings="'embed'")
        ['layers.0', 'layers.1']
        >>> match_layers("layers.[1-9].mlp", names, embeddings="'embed'")
        ['layers.1.mlp']
    """
    found = [layer] if layer in names else []
    found = found or [name for name in names if is_match(layer, name, separator)]
    if not found:
        close = ", ".join(map(repr, get_close_matches(layer, [name for name in names if name])))
        raise ValueError(
            f"layer must be the name of a layer of the model, or a pattern that matches some, got "
            f"{layer!r}; names like it: {close or 'none'}; embeddings: {embeddings}"
        )
    return found


def noise_by_layer(noise: Noise, names: Iterable[str]) -> dict[str, Noise]:
    """The noise of each layer of a model.

    The tokens of two layers have the same coordinates, so all layers but the first have a stream of
    their own, ``"{noise.stream}/{name}"``.
    """
    made: dict[str, Noise] = {}
    for name in dict.fromkeys(names):
        made[name] = replace(noise, stream=f"{noise.stream}/{name}") if made else noise
    return made


def refuse_equal_streams(
    wanted: Mapping[str, Noise],
    present: Mapping[str, Noise],
    key_of: Callable[[Noise], object] = lambda noise: noise._key,
) -> None:
    """Raise if a layer would get noise of the seed and the stream that a model has already.

    Args:
        wanted: The noise of each layer that is to get some.
        present: The noise that the model has: that of other layers, and of its ``EmbeddingNoise``.
        key_of: What tells noises apart: by default the Philox key, for seeds that are numbers.

    Raises:
        ValueError: One would; the error names both layers.
    """
    names = {key_of(noise): name for name, noise in present.items()}
    for name, noise in wanted.items() if names else ():
        if (key := key_of(noise)) in names:
            raise ValueError(
                f"model has noise of the stream {noise.stream!r} at {names[key]!r} already, and "
                f"{name!r} would get the same. Name both in one attach(layer=[...]), or pass a "
                "noise with another stream="
            )
