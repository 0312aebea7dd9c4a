"""``inspect`` for Flax NNX."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from functools import wraps
from typing import Any

import jax
import numpy as np
from flax import nnx
from jax import Array

from embnoise.backend import (
    Inspection,
    Lookup,
    Noise,
    Seen,
    TokenArrays,
    check_batches,
    inspect_seen,
    noise_at,
)
from embnoise_jax._arguments import is_hidden
from embnoise_jax._compat import change_class
from embnoise_jax.inspection._recording import (
    LaterInputs,
    as_lookup,
    call_with,
    only_table,
)
from embnoise_jax.nnx import attach

__all__ = ["inspect"]


def inspect(
    model: nnx.Module,
    noise: Noise,
    *batches: Any,
    layer: str | nnx.Module | Sequence[str | nnx.Module] | None = None,
    tokens: Callable[..., Mapping[str, Array]] | None = None,
    where: str | Callable[..., Array] = "all",
    step: int = 0,
    lengths: Sequence[int] | None = None,
    reference_rms: float | None = None,
) -> Inspection:
    """How large noise is beside a model's embeddings, and what it does to them.

    The noise is attached for the duration of the call, and the model is called with each batch, in
    the mode that it is in: call ``model.eval()`` before, so that dropout draws nothing.

    Args:
        model: As for ``attach``.
        noise: What noise to add.
        *batches: What to call the model with: a dict of arguments by name, or its only argument.
            Without any, the noise is predicted and not measured.
        layer: As for ``attach``. Each layer must have an embedding table.
        tokens: As for ``attach``.
        where: As for ``attach``.
        step: The step whose alpha is taken.
        lengths: Lengths of sequences, in tokens, for the table of the report. Default: quartiles of
            those of the batches, or 16 to 4096 without a batch.
        reference_rms: As for ``embnoise.inspect_table``.

    Returns:
        A report; ``table()`` and ``to_json()`` show it.

    Raises:
        TypeError: An argument of the wrong type.
        ValueError: As for ``attach`` and ``embnoise.inspect_table``; a layer without a table;
            batches in which no token gets noise.

    Example:
        >>> import jax.numpy as jnp
        >>> from embnoise import neftune
        >>> from embnoise_jax.inspection.nnx import inspect
        >>> from flax import nnx
        >>> model = nnx.Sequential(nnx.Embed(10, 64, rngs=nnx.Rngs(0)), nnx.relu)
        >>> [report] = inspect(model, neftune(5.0), jnp.arange(10)[None]).embeddings
        >>> report.measured.lengths, abs(report.measured.measured / 0.1141 - 1) < 0.1
        ((10,), True)
    """
    check_batches(batches)
    options: dict[str, Any] = {"layer": layer, "tokens": tokens, "where": where}
    later = LaterInputs()
    with attach(model, noise_at(noise, step), **options) as handle:
        embeddings: dict[str, Any] = {
            ".".join(map(str, path)): module
            for path, module in nnx.iter_modules(model)
            if "embedding_noise" in vars(module)
        }
        lookups: dict[str, list[Lookup]] = {path: [] for path in embeddings}
        for path, module in embeddings.items():
            _record(module.embedding_noise, lookups[path], later, path)
        with _listening(model, embeddings.values(), later):
            for number, batch in enumerate(batches):
                later.start_call()
                call_with(model, batch)
                if number == 0:  # one call tells what the noise is multiplied by
                    later.start_call()
                    with handle.paused():
                        call_with(model, batch)
    seen = [
        Seen(
            path, _table(path, module), lookups[path] if batches else None,
            outer_multiplier=later.multiplier(path),
        )
        for path, module in embeddings.items()
    ]  # fmt: skip
    return inspect_seen(noise, seen, lengths=lengths, step=step, reference_rms=reference_rms)


def _table(path: str, module: nnx.Module) -> np.ndarray[Any, Any]:
    return only_table(path, jax.tree.leaves(nnx.state(module, nnx.Param)))


def _record(noise: Any, lookups: list[Lookup], later: LaterInputs, path: str) -> None:
    """Let an attached noise note what it is added to; it is dropped after this."""
    told: list[TokenArrays] = []

    class Recording(type(noise)):  # type: ignore[misc]
        def __call__(self, x: Array, **tokens: Any) -> Array:
            told.append(TokenArrays(**tokens))
            noisy: Array = super().__call__(x, **tokens)
            return noisy

        def _add_to(self, x: Array, argument: Any, layer: nnx.Module) -> Array:
            told.clear()
            noisy: Array = super()._add_to(x, argument, layer)
            if told and not is_hidden(argument):
                lookups.append(as_lookup(argument, x, noisy, told[0]))
            later.begin(path, noisy)
            return noisy

    change_class(noise, Recording)


@contextmanager
def _listening(model: nnx.Module, embeddings: Any, later: LaterInputs) -> Iterator[None]:
    """A context in which the calls of all other modules are noted."""
    kinds: list[tuple[Any, Any]] = []
    own = set(map(id, embeddings))
    for _, module in nnx.iter_modules(model):
        kind: Any = type(module)
        if id(module) not in own and any("__call__" in vars(each) for each in kind.__mro__):
            kinds.append((module, kind))
    for module, kind in kinds:
        change_class(module, _listening_class(kind, later))
    try:
        yield
    finally:
        for module, kind in kinds:
            change_class(module, kind)


def _listening_class(kind: Any, later: LaterInputs) -> Any:
    call = kind.__call__

    @wraps(call)
    def listening(self: Any, *args: Any, **kwargs: Any) -> Any:
        later.note((args, kwargs))
        return call(self, *args, **kwargs)

    return type(kind)(f"Listening{kind.__name__}", (kind,), {"__call__": listening})
