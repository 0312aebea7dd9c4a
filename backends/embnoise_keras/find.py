"""Which layers of a model get noise: those that look up its tokens, or those that are named."""

from __future__ import annotations

from typing import Any

import keras

from embnoise.backend import check_layers, format_value, match_layers
from embnoise_keras._compat import all_layers
from embnoise_keras._compat_graph import graph_calls
from embnoise_keras.masks import stem

__all__ = ["layers_of"]

_NAMES = ("token_embedding", "encoder_token_embedding", "decoder_token_embedding")
_TOKENS = ("token_ids", "input_ids", "tokens")


def layers_of(model: Any, layer: Any) -> list[Any]:
    """The layers that ``layer`` names, or the model's token embeddings.

    Raises:
        TypeError: ``layer`` is neither a layer nor a string, nor a list of those.
        ValueError: It is not in the model or matches nothing there; no embedding or several to
            choose from.
    """
    layers = all_layers(model)
    embeddings = [each for each in layers if isinstance(each, keras.layers.Embedding)]
    listed = ", ".join(
        f"{each.name!r} ({each.input_dim}, {each.output_dim})" for each in embeddings
    )
    if layer is not None:
        chosen = [_named(each, layers, listed) for each in check_layers(layer)]
        return _distinct([each for found in chosen for each in found])
    for owner in (model, getattr(model, "backbone", None)):
        if found := _by_attribute([owner]):
            return found
    if len(embeddings) <= 1:
        if embeddings:
            return embeddings
        built = all(each.built for each in layers)
        first = "" if built else "; call the model first, since not all of its layers are built"
        raise ValueError(
            f"found no keras.layers.Embedding in the model{first}; pass layer= if it has another "
            "embedding"
        )
    if len(found := _by_attribute(layers)) == 1:
        return found
    if found := _of_both_sides(model, embeddings):
        return found
    raise ValueError(
        f"found {len(embeddings)} embeddings in the model; pass layer=, the embedding of its "
        f"tokens or a list of them. Candidates: {listed}"
    )


def _by_attribute(owners: list[Any]) -> list[Any]:
    found = [getattr(owner, name, None) for owner in owners for name in _NAMES]
    return _distinct([each for each in found if isinstance(each, keras.Layer)])


def _of_both_sides(model: Any, embeddings: list[Any]) -> list[Any]:
    """The embeddings of a functional encoder-decoder; none if it is no such model.

    They look up inputs such as "encoder_token_ids" and "decoder_token_ids".
    """
    sides: dict[str, Any] = {}
    for embedding in embeddings:
        for call in graph_calls(model, embedding):
            for whose in {stem(name, _TOKENS) for name in call.sources if call.direct} - {None}:
                if sides.setdefault(str(whose), embedding) is not embedding:
                    return []  # two embeddings of the same ids
    return _distinct(list(sides.values())) if len(sides) > 1 else []


def _distinct(layers: list[Any]) -> list[Any]:
    return list({id(each): each for each in layers}.values())


def _named(layer: Any, layers: list[Any], listed: str) -> list[Any]:
    if not isinstance(layer, str | keras.Layer):
        raise TypeError(
            "layer must be a layer, its name or its path, or a list of those, got "
            f"{format_value(layer)}"
        )
    found = [each for each in layers if layer is each or layer in (each.name, each.path)]
    if not found and isinstance(layer, str):
        names = [name for each in layers for name in (each.name, each.path) if name]
        matching = {*match_layers(layer, names, embeddings=listed or "none", separator="/")}
        return [each for each in layers if matching & {each.name, each.path}]
    if len(found) != 1:
        raise ValueError(
            f"layer must match one layer of the model, got {layer!r}, which matches {len(found)}. "
            f"Candidates: {listed or 'none'}"
        )
    return found
