"""Which layer of a model looks up its tokens."""

from __future__ import annotations

from typing import Any

import keras

from embnoise.backend import format_value
from embnoise_keras._compat import all_layers

__all__ = ["embedding_of"]


def embedding_of(model: Any, layer: str | Any | None) -> Any:
    """The embedding that ``layer`` names, or the model's token embedding.

    Raises:
        TypeError: ``layer`` is neither a layer nor a string.
        ValueError: It is not in the model; no embedding or several to choose from.
    """
    layers = all_layers(model)
    embeddings = [each for each in layers if isinstance(each, keras.layers.Embedding)]
    listed = ", ".join(
        f"{each.name!r} ({each.input_dim}, {each.output_dim})" for each in embeddings
    )
    if layer is None:
        for owner in (model, getattr(model, "backbone", None)):
            token_embedding = getattr(owner, "token_embedding", None)
            if token_embedding is not None:
                return token_embedding
        if len(embeddings) == 1:
            return embeddings[0]
        if embeddings:
            raise ValueError(
                f"found {len(embeddings)} embeddings in the model; pass layer=. "
                f"Candidates: {listed}"
            )
        raise ValueError(
            "found no keras.layers.Embedding in the model; pass layer= if it has another embedding"
        )
    if not isinstance(layer, str | keras.Layer):
        raise TypeError(f"layer must be a layer, its name or its path, got {format_value(layer)}")
    found = [each for each in layers if layer is each or layer in (each.name, each.path)]
    if len(found) != 1:
        raise ValueError(
            f"layer must match one layer of the model, got {layer!r}, which matches {len(found)}. "
            f"Candidates: {listed or 'none'}"
        )
    return found[0]
