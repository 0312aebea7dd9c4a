"""``inspect``: what noise means for a model, predicted from its tables and measured in calls."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any

from embnoise.backend import Inspection, Noise, check_batches, inspect_seen, noise_at
from embnoise_keras.attach import attach
from embnoise_keras.recorder import Recorder

__all__ = ["inspect"]


def inspect(
    model: Any,
    noise: Noise,
    *batches: Any,
    layer: str | Any | Sequence[str | Any] | None = None,
    tokens: Callable[..., Mapping[str, Any]] | None = None,
    where: str | Callable[..., Any] = "all",
    step: int = 0,
    lengths: Sequence[int] | None = None,
    reference_rms: float | None = None,
) -> Inspection:
    """How large noise is beside a model's embeddings, and what it does to them.

    The noise is attached for the duration of the call, and the model is called with each batch and
    ``training=True``. Afterwards the model is as it was, its statistics and random generators
    included. In mixed precision, what is measured contains the rounding of the sum.

    Args:
        model: As for ``attach``, and built.
        noise: What noise to add.
        *batches: Inputs of the model. Without any, the noise is predicted and not measured.
        layer: As for ``attach``. Each layer must be a ``keras.layers.Embedding``.
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

    Warns:
        RuntimeWarning: As for ``attach``.

    Example:
        >>> import keras
        >>> from embnoise import neftune
        >>> from embnoise_keras import inspect
        >>> ids = keras.ops.arange(10)[None]
        >>> model = keras.Sequential([keras.layers.Embedding(10, 64), keras.layers.Dense(4)])
        >>> output = model(ids)  # builds it
        >>> [report] = inspect(model, neftune(5.0), ids).embeddings
        >>> report.measured.lengths, abs(report.measured.measured / 0.1141 - 1) < 0.1
        ((10,), True)
    """
    check_batches(batches)
    handle = attach(model, noise_at(noise, step), layer=layer, tokens=tokens, where=where)
    try:  # not as a block, which would warn if there are no batches
        recorder = Recorder(model, handle)
        for batch in batches:
            recorder.record(batch)
        seen = recorder.seen()
    finally:
        handle.remove()
    return inspect_seen(noise, seen, lengths=lengths, step=step, reference_rms=reference_rms)
