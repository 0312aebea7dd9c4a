"""``inspect``: what noise means for a model, predicted from its tables and measured in calls."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any

from torch import Tensor, nn

from embnoise.backend import Inspection, Noise, check_batches, inspect_seen, noise_at
from embnoise_torch.attach import attach
from embnoise_torch.recorder import Recorder

__all__ = ["inspect"]


def inspect(
    model: nn.Module,
    noise: Noise,
    *batches: Any,
    layer: str | nn.Module | Sequence[str | nn.Module] | None = None,
    tokens: Callable[..., Mapping[str, Any]] | None = None,
    where: str | Callable[..., Tensor] = "all",
    placeholders: bool = False,
    step: int = 0,
    lengths: Sequence[int] | None = None,
    reference_rms: float | None = None,
) -> Inspection:
    """How large noise is beside a model's embeddings, and what it does to them.

    The noise is attached for the duration of the call, and the model is called with each batch. It
    is in evaluation mode, except for the embeddings themselves, so nothing but the noise is random.
    Afterwards the model is as it was. In 16-bit models, what is measured contains the rounding of
    the sum.

    Args:
        model: As for ``attach``; it may not be sharded.
        noise: What noise to add.
        *batches: What to call the model with: a dict of arguments by name, or its only argument.
            Without any, the noise is predicted and not measured.
        layer: As for ``attach``. Each layer must have an embedding table.
        tokens: As for ``attach``.
        where: As for ``attach``.
        placeholders: As for ``attach``.
        step: The step whose alpha is taken.
        lengths: Lengths of sequences, in tokens, for the table of the report. Default: quartiles of
            those of the batches, or 16 to 4096 without a batch.
        reference_rms: As for ``embnoise.inspect_table``.

    Returns:
        A report; ``table()`` and ``to_json()`` show it.

    Raises:
        TypeError: An argument of the wrong type.
        ValueError: As for ``attach`` and ``embnoise.inspect_table``; a layer without a table, or
            of which this rank holds only a part; batches in which no token gets noise.

    Example:
        >>> import torch
        >>> from embnoise import neftune
        >>> from embnoise_torch import inspect
        >>> model = torch.nn.Sequential(torch.nn.Embedding(10, 64), torch.nn.Linear(64, 10))
        >>> [report] = inspect(model, neftune(5.0), torch.arange(10)[None]).embeddings
        >>> report.measured.lengths, abs(report.measured.measured / 0.1141 - 1) < 0.1
        ((10,), True)
    """
    check_batches(batches)
    options: dict[str, Any] = {
        "layer": layer, "tokens": tokens, "where": where, "placeholders": placeholders,
    }  # fmt: skip
    with attach(model, noise_at(noise, step), **options) as handle:
        recorder = Recorder(model, handle)
        for batch in batches:
            recorder.record(batch)
        seen = recorder.seen()
    return inspect_seen(noise, seen, lengths=lengths, step=step, reference_rms=reference_rms)
