"""Choosing the layers of a model that get noise, and what is known of their tokens."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from embnoise.backend import TokenArrays

__all__ = ["SEVERAL", "Candidates", "list_embeddings", "only_embedding", "tokens_by_layer"]

SEVERAL = "pass layer=, one of them or a list"

Candidates = Mapping[str, tuple[int, ...]]
"""The shapes of the embeddings' tables by path."""


def list_embeddings(candidates: Candidates) -> str:
    """The candidates for an error message."""
    return ", ".join(f"{path!r} {shape}" for path, shape in candidates.items()) or "none"


def only_embedding(kind: str, candidates: Candidates) -> str:
    """The path of a model's only embedding.

    Args:
        kind: The class of the candidates, for errors.
        candidates: The embeddings of that class.

    Raises:
        ValueError: The model has several embeddings, or none.
    """
    if len(candidates) == 1:
        return next(iter(candidates))
    if not candidates:
        raise ValueError(f"found no {kind} in the model; pass layer= if it has another embedding")
    raise ValueError(
        f"found {len(candidates)} embeddings in the model; {SEVERAL}. "
        f"Candidates: {list_embeddings(candidates)}"
    )


def tokens_by_layer(tokens: TokenArrays, names: Sequence[str]) -> dict[str, TokenArrays]:
    """The token arrays of each embedding, from arrays for all and dicts of arrays by name.

    Raises:
        ValueError: A dict has another name.
    """
    for argument, given in tokens.given().items():
        for name in given if isinstance(given, Mapping) else ():
            if name not in names:
                raise ValueError(
                    f"{argument} has an array for {name!r}, which layer= does not name"
                )
    return {
        name: TokenArrays(
            *(given.get(name) if isinstance(given, Mapping) else given for given in tokens)
        )
        for name in names
    }
