"""Records what the embeddings of a model look up, and what the model does with it afterwards."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from typing import Any

import keras
import numpy as np
from keras import ops
from numpy.typing import NDArray

from embnoise.backend import LATER_CALLS, Lookup, Seen, TokenArrays, multiplier_between
from embnoise_keras._compat import all_layers
from embnoise_keras.handle import Handle

__all__ = ["Recorder"]

Arrays = NDArray[Any]


class Recorder:
    """Calls a model and records the lookups of the embeddings that have noise.

    Args:
        model: The model.
        handle: The noise.

    Raises:
        ValueError: One of the layers has no embedding table.
    """

    def __init__(self, model: Any, handle: Handle) -> None:
        self._model, self._handle = model, handle
        self._noise = handle._attached
        self._layers = self._noise.layers
        for layer in self._layers:
            _check_table(layer)
        self._lookups: dict[int, list[Lookup]] = {id(layer): [] for layer in self._layers}
        self._outer: dict[int, float | None] | None = None
        self._noised: list[tuple[Arrays, Arrays, TokenArrays]] = []
        """Of the running lookup: the embeddings, with noise, and their tokens."""

    def record(self, batch: Any) -> None:
        """Call the model with a batch: its input."""
        with self._unchanged(), self._noting_noise(), self._noting_lookups() as noisy:
            self._model(batch, training=True)
        if self._outer is None:  # one call tells
            with self._unchanged(), self._handle.paused(), self._noting_inputs() as clean:
                self._model(batch, training=True)
            self._outer = {
                key: multiplier_between(noisy[key], clean[key])
                for key in noisy
                if self._lookups[key]
            }

    def seen(self) -> list[Seen]:
        """One entry for each table."""
        found = []
        for layer in self._layers:
            name, table = layer.path or layer.name, _array(layer.embeddings)
            lookups = None if self._outer is None else self._lookups[id(layer)]
            outer = (self._outer or {}).get(id(layer))
            found.append(Seen(name, table, lookups, outer_multiplier=outer))
        return found

    @contextmanager
    def _unchanged(self) -> Iterator[None]:
        """A context after which statistics and random generators of the model are as before."""
        before = [(each, ops.copy(each.value)) for each in self._model.non_trainable_variables]
        try:
            yield
        finally:
            own = set(map(id, self._noise.variables))
            for variable, value in before:
                if id(variable) not in own:  # every call is to have noise of its own
                    variable.assign(value)

    @contextmanager
    def _noting_noise(self) -> Iterator[None]:
        """Note in ``_noised`` what is given noise."""
        noisy = self._noise._noisy

        def noting(x: Any, noise: Any, step: Any, tokens: TokenArrays) -> Any:
            result = noisy(x, noise, step, tokens)
            self._noised.append((_array(x), _array(result), tokens.map(_array)))
            return result

        with _replaced(self._noise, "_noisy", noting):
            yield

    @contextmanager
    def _noting_lookups(self) -> Iterator[dict[int, list[Arrays]]]:
        """Note the lookups, and what ``_noting_inputs`` does."""

        def noting(layer: Any, call: Callable[..., Any]) -> Any:
            def noted(*args: Any, **kwargs: Any) -> Any:
                self._noised.clear()
                output = call(*args, **kwargs)
                given = args[0] if args else next(iter(kwargs.values()))
                for clean, noisy, tokens in self._noised:
                    ids = np.atleast_2d(_array(given)).astype(np.int64)
                    if ids.shape != clean.shape[:2] or not np.array_equal(_array(output), noisy):
                        ids = ids.T  # a model that computes on [L, B]
                    self._lookups[id(layer)].append(Lookup(ids, clean, noisy, tokens))
                return output

            return noted

        with ExitStack() as stack:
            for layer in self._layers:
                stack.enter_context(_replaced(layer, "call", noting(layer, layer.call)))
            yield stack.enter_context(self._noting_inputs())

    @contextmanager
    def _noting_inputs(self) -> Iterator[dict[int, list[Arrays]]]:
        """What the first lookup of every embedding returns, and what later layers are given.

        Yields:
            By the identity of the embedding, its output and then arrays of the same shape.
        """
        noted: dict[int, list[Arrays]] = {}

        def of_lookup(layer: Any, call: Callable[..., Any]) -> Any:
            def noting(*args: Any, **kwargs: Any) -> Any:
                output = call(*args, **kwargs)
                noted.setdefault(id(layer), [_array(output)])
                return output

            return noting

        def of_other(call: Callable[..., Any]) -> Any:
            def noting(*args: Any, **kwargs: Any) -> Any:
                for found in noted.values():
                    for given in keras.tree.flatten([args, kwargs]):
                        if len(found) <= LATER_CALLS and _is_like(given, found[0]):
                            found.append(_array(given))
                            break
                return call(*args, **kwargs)

            return noting

        with ExitStack() as stack:
            for layer in all_layers(self._model):
                own = any(layer is each for each in self._layers)
                noting = of_lookup(layer, layer.call) if own else of_other(layer.call)
                stack.enter_context(_replaced(layer, "call", noting))
            yield noted


@contextmanager
def _replaced(owner: Any, name: str, value: Any) -> Iterator[None]:
    """An object with another method, of the instance."""
    missing = object()
    before = vars(owner).get(name, missing)
    setattr(owner, name, value)
    try:
        yield
    finally:
        if before is missing:
            delattr(owner, name)
        else:
            setattr(owner, name, before)


def _is_like(given: Any, embeddings: Arrays) -> bool:
    return (
        hasattr(given, "dtype")
        and tuple(given.shape) == embeddings.shape
        and keras.backend.is_float_dtype(keras.backend.standardize_dtype(given.dtype))
    )


def _check_table(layer: Any) -> None:
    if not isinstance(layer, keras.layers.Embedding):
        raise ValueError(
            f"layer must be a keras.layers.Embedding, and {layer.name!r} is a "
            f"{type(layer).__name__}, which has no table that is known"
        )
    if not layer.built:
        raise ValueError(f"model must be built, and its {layer.name!r} is not: call it once")
    dtype = keras.backend.standardize_dtype(layer.embeddings.dtype)
    if not keras.backend.is_float_dtype(dtype):
        raise ValueError(
            f"layer must have a floating-point table, and that of {layer.name!r} is {dtype}; "
            "inspect the model before it is quantized"
        )


def _array(tensor: Any) -> Arrays:
    """A copy of a tensor's values, float32 if they are floating-point."""
    if keras.backend.is_float_dtype(keras.backend.standardize_dtype(tensor.dtype)):
        tensor = ops.cast(tensor, "float32")
    return np.array(ops.convert_to_numpy(tensor))
