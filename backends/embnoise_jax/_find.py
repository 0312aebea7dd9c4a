"""Choosing the embedding of a model."""

from __future__ import annotations

from collections.abc import Mapping

__all__ = ["list_embeddings", "only_embedding"]

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
        f"found {len(candidates)} embeddings in the model; pass layer=. "
        f"Candidates: {list_embeddings(candidates)}"
    )
