"""What a layer accepts: the keywords that its signature, or that of the layer inside, names."""

from __future__ import annotations

import functools
import inspect
from collections.abc import Callable, Iterator, Mapping
from types import FunctionType, MappingProxyType, MethodType
from typing import Any
from weakref import WeakKeyDictionary

__all__ = ["KEYWORDS", "is_opaque", "layers_in", "named", "needs", "parameters_of", "signature_of"]

KEYWORDS = ("training", "mask", "step", "segment_ids")
"""The keywords that a layer, or a user's ``call``, may name."""

_INSIDE = ("_orig_mod", "module", "base_layer", "base_model", "model", "func", "__wrapped__")
"""Where wrappers keep what they wrap: ``torch.compile``, DDP, PEFT, ``functools``."""

_ANY = (inspect.Parameter.VAR_KEYWORD, inspect.Parameter.VAR_POSITIONAL)


def signature_of(layer: Any) -> Callable[..., Any]:
    """What runs when a layer is called: ``call`` (Keras), ``forward`` (PyTorch), or itself.

    For a wrapper that takes anything, it is what runs in the layer inside.
    """
    functions = []
    for each in layers_in(layer):
        function = _run_by(each)
        functions.append(function)
        if not is_opaque(function):
            return function
    return functions[0]


def layers_in(layer: Any) -> Iterator[Any]:
    """The layer, the one that it wraps, and so on."""
    seen: set[int] = set()
    while layer is not None and id(layer) not in seen:
        seen.add(id(layer))
        yield layer
        found = (*(_attribute(layer, name) for name in _INSIDE), _first(layer))
        layer = next((each for each in found if callable(each)), None)


def _attribute(layer: Any, name: str) -> Any:
    if name == "func" and not isinstance(layer, functools.partial):
        return None
    try:
        return getattr(layer, name, None)
    except Exception:  # an attribute that is computed may raise
        return None


def _first(layer: Any) -> Any:
    """The first layer of a sequential one, such as ``nnx.Sequential``: it gets the keywords."""
    try:
        return layer.layers[0]
    except Exception:  # there are none, or an attribute that is computed raises
        return None


def _run_by(layer: Any) -> Callable[..., Any]:
    for name in ("call", "forward"):  # a Keras layer on PyTorch has both
        method = getattr(layer, name, None)
        if callable(method):
            return method  # type: ignore[no-any-return]
    if any(hasattr(layer, name) for name in ("__signature__", "__wrapped__")):
        return layer  # type: ignore[no-any-return]
    method = layer.__call__
    return method if isinstance(method, MethodType) else layer


def parameters_of(function: Callable[..., Any]) -> Mapping[str, inspect.Parameter]:
    """The parameters of a function by name; none if it has no signature."""
    if not isinstance(function, MethodType):
        return _parameters_of(function)
    # Methods are made anew whenever they are looked up, and layers are called very often.
    parameters = _parameters_of(function.__func__)
    first = next(iter(parameters.values()), None)
    if first is None or first.kind is inspect.Parameter.VAR_POSITIONAL:
        return parameters
    return {name: each for name, each in parameters.items() if each is not first}


_KNOWN: WeakKeyDictionary[Callable[..., Any], Mapping[str, inspect.Parameter]] = WeakKeyDictionary()


def _parameters_of(function: Callable[..., Any]) -> Mapping[str, inspect.Parameter]:
    plain = isinstance(function, FunctionType)
    if plain and function in _KNOWN:
        return _KNOWN[function]
    try:
        parameters = inspect.signature(function).parameters
    except (TypeError, ValueError):  # some builtins have no signature
        parameters = MappingProxyType({})
    if plain:
        _KNOWN[function] = parameters
    return parameters


def is_opaque(function: Callable[..., Any]) -> bool:
    """Whether a function takes any keyword, so that its signature does not tell which it uses."""
    parameters = parameters_of(function)
    return any(each.kind is inspect.Parameter.VAR_KEYWORD for each in parameters.values()) and not (
        set(KEYWORDS) - {"training"}
    ) & set(parameters)


def named(function: Callable[..., Any], keywords: Mapping[str, Any]) -> dict[str, Any]:
    """The keywords that the function's signature names; all of ``KEYWORDS`` if it takes any."""
    parameters = parameters_of(function)
    names = {name for name, each in parameters.items() if each.kind not in _ANY}
    if is_opaque(function):
        names |= set(KEYWORDS)
    return {name: value for name, value in keywords.items() if name in names}


def needs(function: Callable[..., Any], keyword: str) -> bool:
    """Whether the function names the keyword and has no default for it."""
    parameter = parameters_of(function).get(keyword)
    return parameter is not None and parameter.default is parameter.empty
