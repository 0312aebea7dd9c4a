"""What the three ``inspect`` share: arrays of NumPy, and what later modules are called with."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from numpy.typing import NDArray

from embnoise.backend import LATER_CALLS, Lookup, TokenArrays, multiplier_between
from embnoise_jax._tracing import is_traced

__all__ = ["LaterInputs", "as_lookup", "as_numpy", "call_with", "only_table"]

Arrays = NDArray[Any]


def as_numpy(array: Any) -> Arrays:
    """An array's values, float32 if they are floating-point.

    Raises:
        ValueError: It has none yet: the lookup is being compiled.
    """
    if is_traced(array):
        raise ValueError(
            "model must look its tokens up outside of compiled code (jax.jit, nnx.remat, nnx.scan "
            "and the like) to be inspected"
        )
    if jnp.issubdtype(array.dtype, jnp.floating):
        array = jnp.asarray(array, jnp.float32)
    return np.asarray(array)


def as_lookup(ids: Any, clean: Any, noisy: Any, tokens: TokenArrays) -> Lookup:
    """A recorded lookup [B, L] or [L]."""
    first, *embeddings = map(as_numpy, (ids, clean, noisy))
    if first.ndim == 1:
        first, *embeddings = (each[None] for each in (first, *embeddings))
    return Lookup(first, embeddings[0], embeddings[1], tokens.map(as_numpy))


def call_with(model: Any, batch: Any) -> Any:
    """Call a model with a dict of arguments by name, or with its only argument."""
    return model(**batch) if isinstance(batch, Mapping) else model(batch)


def only_table(path: str, arrays: Iterable[Any]) -> Arrays:
    """The embedding table among the arrays of a layer: the only one that is [V, d].

    Raises:
        ValueError: There is none, or there are several.
    """
    tables = [each for each in arrays if getattr(each, "ndim", None) == 2]
    if len(tables) != 1:
        raise ValueError(
            f"layer must have one embedding table [V, d], and {path!r} has {len(tables)} arrays of "
            "two dimensions"
        )
    return as_numpy(tables[0])


class LaterInputs:
    """What the modules after a lookup are called with, in a call with noise and in one without."""

    def __init__(self) -> None:
        self._noted: dict[str, list[list[Arrays]]] = {}
        self._number = 0

    def begin(self, path: str, embeddings: Any) -> None:
        """Note what a lookup of an embedding returns; the first one of a call counts."""
        calls = self._noted.setdefault(path, [])
        if len(calls) < self._number:
            calls.append([as_numpy(embeddings)])

    def start_call(self) -> None:
        """A call of the model begins."""
        self._number += 1

    def note(self, arguments: Iterable[Any]) -> None:
        """Note what a module is called with."""
        given = jax.tree.leaves(list(arguments))
        for calls in self._noted.values():
            found = calls[-1]
            like = (each for each in given if _is_like(each, found[0]))
            if len(calls) == self._number and len(found) <= LATER_CALLS:
                found += [as_numpy(each) for each in list(like)[:1]]

    def multiplier(self, path: str) -> float | None:
        """What the model multiplies noise by after it is added; ``None`` if no module tells."""
        calls = self._noted.get(path, [])
        return multiplier_between(*calls[:2]) if len(calls) >= 2 else None


def _is_like(given: Any, embeddings: Arrays) -> bool:
    return (
        isinstance(given, jax.Array)
        and not is_traced(given)
        and given.shape == embeddings.shape
        and jnp.issubdtype(given.dtype, jnp.floating)
    )
