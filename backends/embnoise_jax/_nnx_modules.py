"""The modules of an NNX model by path, those that ``layer`` names, and classes with noise."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from flax import nnx

from embnoise.backend import check_layers, format_value, is_match, match_layers
from embnoise_jax._find import Candidates, list_embeddings, only_embedding

__all__ = ["call_of", "extended", "find_layers", "modules_of"]


def call_of(kind: Any) -> str:
    """The name of the method that a layer of class ``kind`` is called by.

    The embeddings of Gemma and Tunix have ``encode`` and ``decode``, and cannot be called.
    """
    # Not hasattr: a class can be called itself.
    return "__call__" if any("__call__" in vars(each) for each in kind.__mro__) else "encode"


def extended(kind: Any, prefix: str, members: Mapping[str, Any]) -> Any:
    """A class that extends that of a module.

    A pickle or a shallow copy of a module that was given it has the class ``kind``, and no noise.
    NNX itself makes deep copies in another way.
    """

    def __reduce_ex__(self: Any, protocol: Any) -> Any:  # noqa: N807
        clean = object.__new__(kind)
        vars(clean).update(vars(self))
        if hasattr(clean, "embedding_noise"):
            del clean.embedding_noise
        build, *rest = kind.__reduce_ex__(clean, protocol)
        # pickle takes the usual function only for the class of the object itself.
        return object.__new__ if getattr(build, "__name__", "") == "__newobj__" else build, *rest

    made = {**members, "__reduce_ex__": __reduce_ex__}
    return type(kind)(f"{prefix}{kind.__name__}", (kind,), made)


def modules_of(model: nnx.Module) -> dict[str, Any]:
    """The modules of a model by path."""
    return {".".join(map(str, path)): module for path, module in nnx.iter_modules(model)}


def find_layers(
    model: nnx.Module, layer: str | nnx.Module | Sequence[str | nnx.Module] | None
) -> dict[str, Any]:
    """The layers that ``layer`` names, by path."""
    modules = modules_of(model)
    candidates = {
        path: (module.num_embeddings, module.features)
        for path, module in modules.items()
        if isinstance(module, nnx.Embed)
    }
    if layer is None:
        layer = modules[only_embedding("nnx.Embed", candidates)]
    found: dict[str, Any] = {}
    for each in check_layers(layer):
        for path in _paths_of(each, modules, candidates):
            kind = type(modules[path])
            if not hasattr(kind, call_of(kind)):
                raise TypeError(
                    f"layer must be callable, or have encode(), got a {kind.__name__}: {path!r}"
                )
            if issubclass(kind, nnx.bridge.ToNNX):  # it takes all it contains for Linen's variables
                raise ValueError(
                    f"layer must be no Linen module inside nnx.bridge.ToNNX, got {path!r}: wrap it "
                    "in an nnx.Module of your own and attach to that, or put an EmbeddingNoise "
                    "behind it"
                )
            found[path] = modules[path]
    return found


def _paths_of(layer: Any, modules: Mapping[str, Any], candidates: Candidates) -> list[str]:
    """The paths of the modules that a pattern matches by any of their paths, or of one module."""
    if isinstance(layer, nnx.Module):
        for path, module in modules.items():
            if module is layer:
                return [path]
        raise ValueError(f"layer must be a module of the model, got {type(layer).__name__}")
    if not isinstance(layer, str):
        raise TypeError(f"layer must be a module or its path, got {format_value(layer)}")
    if layer not in modules:
        reached = _reached(modules[""], layer)
        paths = [path for path, module in modules.items() if id(module) in reached]
        if paths:
            return paths
    return match_layers(layer, [*modules], embeddings=list_embeddings(candidates))


def _reached(model: nnx.Module, pattern: str) -> set[int]:
    """The identities of what a pattern matches; a module that is shared has several paths."""
    found: dict[int, Any] = {id(model): model}
    for part in pattern.split("."):
        around = [node for node in found.values() if not isinstance(node, nnx.Variable)]
        children = [child for node in around for child in nnx.iter_children(node)]
        found = {id(child): child for key, child in children if is_match(part, str(key))}
    return {*found}
