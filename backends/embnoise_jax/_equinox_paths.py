"""The parts of an Equinox model by path, such as ``"decoder.embed"``."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import jax

from embnoise.backend import format_value

__all__ = ["nodes_at", "nodes_of", "path_of"]


def nodes_at(tree: Any, paths: Sequence[str]) -> list[Any]:
    """The nodes of a tree at some paths; a ``KeyError`` if there is none at one of them."""
    nodes = jax.tree_util.tree_leaves_with_path(
        tree, is_leaf=lambda path, _: _joined(path) in paths, is_leaf_takes_path=True
    )
    by_path = {_joined(path): node for path, node in nodes}
    return [by_path[path] for path in paths]


def path_of(layer: Callable[[Any], Any], model: Any) -> str:
    """The path of what a function of the model returns."""
    # In the copy, a module that is in the model at two places is two modules.
    copy = jax.tree.map(lambda leaf: leaf, model)
    try:
        node = layer(copy)
    except (AttributeError, LookupError, TypeError) as error:
        raise ValueError(
            f"layer must return a part of the model, and raised {type(error).__name__}: {error}"
        ) from error
    paths = [path for path, each in nodes_of(copy).items() if each is node]
    if not paths:
        raise ValueError(f"layer must return a part of the model, got {format_value(node)}")
    if len(paths) > 1:
        raise ValueError(
            f"layer must return a part of the model that is in it once, got {format_value(node)}, "
            f"which is at {', '.join(map(repr, paths))}: pass its path"
        )
    return paths[0]


def nodes_of(tree: Any) -> dict[str, Any]:
    """Every node of a model by path, each before those in it."""
    found: dict[str, Any] = {}

    def note(path: Any, node: Any) -> bool:
        found.setdefault(_joined(path), node)
        return False

    jax.tree_util.tree_leaves_with_path(tree, is_leaf=note, is_leaf_takes_path=True)
    return found


def _joined(path: Any) -> str:
    return jax.tree_util.keystr(path, simple=True, separator=".")
