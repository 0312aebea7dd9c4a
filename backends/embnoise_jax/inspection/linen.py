"""``inspect`` for Flax Linen."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from contextlib import ExitStack
from functools import partial
from typing import Any

import flax.linen as nn
import jax
from jax import Array

from embnoise.backend import (
    Inspection,
    Lookup,
    Noise,
    Seen,
    TokenArrays,
    check_batches,
    check_layers,
    inspect_seen,
    is_match,
    noise_at,
)
from embnoise_jax._arguments import first_argument, is_hidden
from embnoise_jax._find import tokens_by_layer
from embnoise_jax.inspection._recording import (
    LaterInputs,
    as_lookup,
    call_with,
    only_table,
)
from embnoise_jax.linen import attach

__all__ = ["inspect"]


def inspect(
    model: nn.Module,
    noise: Noise,
    *batches: Any,
    variables: Mapping[str, Any],
    layer: str | Sequence[str] | None = None,
    tokens: Callable[[Any], Mapping[str, Any]] = lambda batch: {},
    step: int = 0,
    lengths: Sequence[int] | None = None,
    reference_rms: float | None = None,
) -> Inspection:
    """How large noise is beside a model's embeddings, and what it does to them.

    ``model.apply`` is called with each batch, and in it the embedding gets noise as with
    ``attach``.

    Args:
        model: As for ``attach``.
        noise: What noise to add.
        *batches: What to call the model with, at least once: a dict of arguments by name, or its
            only argument.
        variables: The model's variables.
        layer: As for ``attach``. Each layer must have an embedding table.
        tokens: From a batch to the arguments ``mask``, ``segment_ids`` and so on of ``attach``.
        step: The step whose alpha is taken.
        lengths: Lengths of sequences, in tokens, for the table of the report. Default: quartiles of
            those of the batches.
        reference_rms: As for ``embnoise.inspect_table``.

    Returns:
        A report; ``table()`` and ``to_json()`` show it.

    Raises:
        TypeError: An argument of the wrong type.
        ValueError: As for ``attach`` and ``embnoise.inspect_table``; no batch; a layer without a
            table; no lookup with noise.

    Example:
        >>> import flax.linen as nn, jax, jax.numpy as jnp
        >>> from embnoise import neftune
        >>> from embnoise_jax.inspection.linen import inspect
        >>> model, ids = nn.Sequential([nn.Embed(10, 64), nn.Dense(4)]), jnp.arange(10)[None]
        >>> variables = model.init(jax.random.key(0), ids)
        >>> [report] = inspect(model, neftune(5.0), ids, variables=variables).embeddings
        >>> report.measured.lengths, abs(report.measured.measured / 0.1141 - 1) < 0.1
        ((10,), True)
    """
    if not batches:
        raise ValueError(
            "batches must have at least one, since a Linen model shows its embeddings when it is "
            "called; or use embnoise.inspect_table"
        )
    check_batches(batches)
    fixed, later = noise_at(noise, step), LaterInputs()
    paths = None if layer is None else check_layers(layer)
    found: dict[str, list[Lookup]] = {}
    call = partial(model.apply, nn.meta.unbox(variables))
    for number, batch in enumerate(batches):
        given = tokens(batch)
        by_layer = tokens_by_layer(TokenArrays(**given), paths or [_ONLY])
        with ExitStack() as stack:
            lookups = _Lookups(paths, by_layer, found, later)
            stack.enter_context(nn.intercept_methods(lookups.intercept))
            stack.enter_context(attach(model, fixed, step=number, layer=layer, **given))
            stack.enter_context(nn.intercept_methods(lookups.intercept))
            stack.enter_context(nn.intercept_methods(lookups.listen))
            later.start_call()
            call_with(call, batch)
        if number == 0:  # one call tells what the noise is multiplied by
            later.start_call()
            with nn.intercept_methods(lookups.listen_alone):
                call_with(call, batch)
    seen = [
        Seen(path, _table(path, variables), lookups, outer_multiplier=later.multiplier(path))
        for path, lookups in found.items()
    ]
    return inspect_seen(noise, seen, lengths=lengths, step=step, reference_rms=reference_rms)


_ONLY = ""


class _Lookups:
    """Notes what embeddings return, without the noise of ``attach`` and with it.

    Args:
        paths: The paths and patterns that get noise; ``None`` for every ``nn.Embed``.
        tokens: What the noise is told of the tokens.
        found: The lookups of each embedding, to which is added.
        later: Notes the calls of other modules.
    """

    def __init__(
        self,
        paths: Sequence[str] | None,
        tokens: Mapping[str, TokenArrays],
        found: dict[str, list[Lookup]],
        later: LaterInputs,
    ) -> None:
        self._paths, self._tokens, self._found, self._later = paths, tokens, found, later
        self._inner: dict[str, Array] = {}
        """What running calls of embeddings return without noise."""

    def intercept(
        self, forward: Any, args: tuple[Any, ...], kwargs: dict[str, Any], context: Any
    ) -> Any:
        """The interceptor that stands on both sides of that of ``attach``."""
        result = forward(*args, **kwargs)
        path, place = "/".join(context.module.path), self._place(context)
        if place is None:
            return result
        x = result[0] if isinstance(result, tuple) else result
        if path not in self._inner:  # the inner one of the two
            self._inner[path] = x
            return result
        clean = self._inner.pop(path)
        ids = first_argument(type(context.module).__call__, args, kwargs)
        if not is_hidden(ids):
            lookup = as_lookup(ids, clean, x, self._tokens[place])
            self._found.setdefault(path, []).append(lookup)
            self._later.begin(path, x)
        return result

    def listen(
        self, forward: Any, args: tuple[Any, ...], kwargs: dict[str, Any], context: Any
    ) -> Any:
        """The interceptor that notes what modules are called with."""
        if context.method_name == "__call__":
            self._later.note((args, kwargs))
        return forward(*args, **kwargs)

    def listen_alone(
        self, forward: Any, args: tuple[Any, ...], kwargs: dict[str, Any], context: Any
    ) -> Any:
        """The same, in a call without noise."""
        result = self.listen(forward, args, kwargs, context)
        path = "/".join(context.module.path)
        if self._place(context) is not None and path in self._found:
            self._later.begin(path, result[0] if isinstance(result, tuple) else result)
        return result

    def _place(self, context: Any) -> str | None:
        """The path or pattern by which a call gets noise; ``None`` if it gets none."""
        module, path = context.module, "/".join(context.module.path)
        if context.method_name != "__call__":
            return None
        if self._paths is None:
            return _ONLY if isinstance(module, nn.Embed) else None
        return next((each for each in self._paths if is_match(each, path, "/")), None)


def _table(path: str, variables: Mapping[str, Any]) -> Any:
    arrays: Any = nn.meta.unbox(variables)["params"]
    for name in path.split("/"):
        arrays = arrays[name]
    return only_table(path, jax.tree.leaves(arrays))
