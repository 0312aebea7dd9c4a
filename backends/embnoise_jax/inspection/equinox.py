"""``inspect`` for Equinox."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any

import equinox as eqx
import jax

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
from embnoise_jax._find import tokens_by_layer
from embnoise_jax.equinox import Layer, attach, noisy_layers
from embnoise_jax.inspection._recording import as_numpy

__all__ = ["inspect"]


def inspect(
    model: Any,
    noise: Noise,
    *batches: jax.Array,
    layer: Layer | Sequence[Layer] | None = None,
    tokens: Callable[[Any], Mapping[str, Any]] = lambda batch: {},
    step: int = 0,
    lengths: Sequence[int] | None = None,
    reference_rms: float | None = None,
) -> Inspection:
    """How large noise is beside a model's embeddings, and what it does to them.

    Each batch is looked up in the embedding of the copy that ``attach`` makes, by two ``jax.vmap``.
    The model around it is not called, so what it does with the embeddings afterwards is not
    measured.

    Args:
        model: As for ``attach``.
        noise: What noise to add.
        *batches: Token ids, integers [B, L]. Without any, the noise is predicted and not measured.
        layer: As for ``attach``. Each layer must be an ``eqx.nn.Embedding``.
        tokens: From a batch to the arguments ``mask``, ``segment_ids`` and so on of ``attach``.
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
        >>> import equinox as eqx, jax, jax.numpy as jnp
        >>> from embnoise import neftune
        >>> from embnoise_jax.inspection.equinox import inspect
        >>> model = eqx.nn.Sequential([eqx.nn.Embedding(10, 64, key=jax.random.key(0))])
        >>> [report] = inspect(model, neftune(5.0), jnp.arange(10)[None]).embeddings
        >>> report.measured.lengths, abs(report.measured.measured / 0.1141 - 1) < 0.1
        ((10,), True)
    """
    check_batches(batches)
    fixed = noise_at(noise, step)
    tables: dict[str, Any] = {}
    lookups: dict[str, list[Lookup]] = {}
    for path, (embedding, _) in noisy_layers(attach(model, fixed, step=0, layer=layer)).items():
        if not isinstance(embedding, eqx.nn.Embedding):
            raise ValueError(
                f"layer must be an eqx.nn.Embedding, and {path!r} is a {type(embedding).__name__}"
            )
        tables[path], lookups[path] = as_numpy(embedding.weight), []
    for number, ids in enumerate(batches):
        given = tokens(ids)
        by_layer = tokens_by_layer(TokenArrays(**given), [*tables])
        noisy = attach(model, fixed, step=number, layer=layer, **given)
        for path, layers in noisy_layers(noisy).items():
            clean, with_noise = (as_numpy(jax.vmap(jax.vmap(each))(ids)) for each in layers)
            told = by_layer[path].map(as_numpy)
            lookups[path].append(Lookup(as_numpy(ids), clean, with_noise, told))
    seen = [Seen(path, tables[path], lookups[path] or None) for path in tables]
    return inspect_seen(noise, seen, lengths=lengths, step=step, reference_rms=reference_rms)
