"""What noise means for a model: its size beside that of the embeddings, and what it does to them.

Everything is computed from arrays: the table of an embedding, and lookups that an adapter records.

B batch, L tokens in a row, d channels, V rows of a table.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace
from numbers import Number
from typing import Any

import numpy as np
from numpy.typing import NDArray

from embnoise._arrays import NUMPY
from embnoise._inspect.measurement import Lookup, inner_multiplier, measure
from embnoise._inspect.report import AtLength, EmbeddingReport, Inspection
from embnoise._inspect.table_effects import (
    ROUNDINGS,
    flipped_shares,
    lost_share,
    root_mean_square,
    unit_draws,
)
from embnoise._noise import Noise, check_noise
from embnoise._validation import check_amplitude, check_integer, format_value

__all__ = ["Seen", "check_batches", "inspect_seen", "inspect_table", "noise_at"]

LENGTHS = (16, 64, 256, 1024, 4096)
"""The lengths of a report without a batch."""
SAMPLE = 256
"""For how many tokens of a table it is computed what the noise does to them."""
REFERENCE_ALPHA, REFERENCE_DIM = 5.0, 4096
"""The noise of NEFTune's LLaMA-2-7B runs (arXiv 2310.05914): uniform, alpha / sqrt(L * d)."""


@dataclass(frozen=True)
class Seen:
    """What an adapter saw of one table.

    Attributes:
        name: The names of the embeddings that have this table.
        table: [V, d], floating-point.
        lookups: Those with noise in the calls of the model; ``None`` if it was not called.
        inner_multiplier: What the embedding multiplies its rows by, where no lookup shows it.
        outer_multiplier: See ``EmbeddingReport``.
    """

    name: str
    table: NDArray[Any]
    lookups: Sequence[Lookup] | None = None
    inner_multiplier: float = 1.0
    outer_multiplier: float | None = None


def noise_at(noise: Noise, step: int) -> Noise:
    """A noise with the alpha of one step, which adapters attach to measure it.

    Raises:
        TypeError: ``noise`` is not a ``Noise``, or ``step`` not an integer.
        ValueError: The step is negative, the schedule unbound, or alpha 0 there.
    """
    alpha = check_noise(noise).alpha_at(check_integer("step", step, minimum=0))
    if not alpha > 0:
        raise ValueError(
            f"alpha must be above 0 at step {step}, got {alpha}"
            + ("" if isinstance(noise.alpha, float) else "; pass the step to inspect")
        )
    return replace(noise, alpha=alpha)


def check_batches(batches: Sequence[Any]) -> None:
    """Raise for a batch that no model can be called with.

    Raises:
        TypeError: It is a number, a string or ``None``.
    """
    for place, batch in enumerate(batches):
        if batch is None or isinstance(batch, str | bytes | Number):
            raise TypeError(
                f"batches[{place}] must be what the model is called with, such as an array of "
                f"token ids [B, L], got {format_value(batch)}"
            )


def inspect_table(
    table: NDArray[Any],
    noise: Noise,
    *,
    name: str = "embedding",
    multiplier: float = 1.0,
    lengths: Sequence[int] = LENGTHS,
    step: int = 0,
    reference_rms: float | None = None,
) -> Inspection:
    """How large noise is beside the rows of an embedding table, and what it does to them.

    The shares are computed for 256 rows of the table, or all of a smaller one, with the noise of
    these tokens; the nearest neighbors are looked for in the whole table.

    Args:
        table: The embedding table, floating-point [V, d].
        noise: What noise to add.
        name: What the report calls the table.
        multiplier: What the embedding multiplies its rows by before noise is added.
        lengths: Lengths of sequences, in tokens.
        step: The step whose alpha is taken.
        reference_rms: The RMS of the embedding table of LLaMA-2-7B, to find the alpha that gives
            the noise ratio of that model in the paper (alpha 5, d 4096).

    Raises:
        TypeError: An argument of the wrong type.
        ValueError: An argument out of range, an unbound schedule, or alpha 0 at the step.

    Example:
        >>> import numpy as np
        >>> from embnoise import inspect_table, neftune
        >>> table = np.random.default_rng(0).normal(0, 0.02, (1000, 64)).astype(np.float32)
        >>> [report] = inspect_table(table, neftune(5.0), lengths=[100]).embeddings
        >>> [found] = report.lengths
        >>> round(found.noise_rms, 4), round(found.ratio, 2)  # 5 / sqrt(100 * 64) / sqrt(3)
        (0.0361, 1.8)
    """
    if not check_amplitude("multiplier", multiplier) > 0:
        raise ValueError(f"multiplier must be above 0, got {multiplier!r}")
    seen = Seen(name, table, inner_multiplier=float(multiplier))
    return inspect_seen(noise, [seen], lengths=lengths, step=step, reference_rms=reference_rms)


def inspect_seen(
    noise: Noise,
    seen: Sequence[Seen],
    *,
    lengths: Sequence[int] | None,
    step: int,
    reference_rms: float | None,
) -> Inspection:
    """The report on what an adapter saw.

    Args:
        noise: What noise to add.
        seen: The tables.
        lengths: Lengths of sequences; ``None`` for those of the lookups, or, without lookups, for
            16 to 4096 tokens.
        step: As for ``inspect_table``.
        reference_rms: As for ``inspect_table``.

    Raises:
        TypeError: As for ``inspect_table``.
        ValueError: As for ``inspect_table``, or a model was called and looked up nothing.
    """
    noise = noise_at(noise, step)
    if reference_rms is not None and not check_amplitude("reference_rms", reference_rms) > 0:
        raise ValueError(f"reference_rms must be above 0, got {reference_rms!r}")
    if lengths is not None:
        if isinstance(lengths, str) or not isinstance(lengths, Iterable):
            raise TypeError(f"lengths must be a list of integers, got {format_value(lengths)}")
        lengths = [
            check_integer(f"lengths[{place}]", each, minimum=1)
            for place, each in enumerate(lengths)
        ]
        if not lengths:
            raise ValueError("lengths must name at least one length, got []")
    reports = tuple(_report(noise, each, lengths, reference_rms) for each in seen)
    return Inspection(noise, reports, reference_rms)


def _report(
    noise: Noise, seen: Seen, lengths: Sequence[int] | None, reference_rms: float | None
) -> EmbeddingReport:
    table = seen.table
    if seen.lookups is not None and not seen.lookups:
        raise ValueError(
            f"batch must have token ids that {seen.name!r} looks up, and the model looked up none "
            "there; pass the embedding that it uses as layer="
        )
    if not (isinstance(table, np.ndarray) and table.ndim == 2 and table.size):
        raise ValueError(f"table must be an array [V, d], got {format_value(table)}")
    if table.dtype.kind != "f" and table.dtype.name != "bfloat16":
        raise TypeError(f"table must be floating-point, got {format_value(table)}")
    table_rms = root_mean_square(table)
    if not (math.isfinite(table_rms) and table_rms > 0):
        raise ValueError(f"table must be finite and not all zeros, got one of RMS {table_rms}")
    inner: float | None = seen.inner_multiplier
    measured = None
    if seen.lookups:
        inner, measured = inner_multiplier(table, seen.lookups), measure(noise, seen.lookups)
    if lengths is None:
        lengths = measured.lengths if measured else LENGTHS
    factor = 1.0 if inner is None else inner
    looked_up = [each.ids[each.ids < len(table)] for each in seen.lookups or ()]
    tokens = np.unique(np.concatenate(looked_up)) if looked_up else np.arange(len(table))
    return EmbeddingReport(
        seen.name,
        (table.shape[0], table.shape[1]),
        table_rms,
        inner,
        seen.outer_multiplier,
        table_rms * factor,
        tuple(_at_lengths(noise, table, factor, table_rms, tokens, lengths, reference_rms)),
        measured,
    )


def _at_lengths(
    noise: Noise,
    table: NDArray[Any],
    multiplier: float,
    table_rms: float,
    tokens: NDArray[np.int64],
    lengths: Sequence[int],
    reference_rms: float | None,
) -> list[AtLength]:
    """What the noise is and does at each length.

    Args:
        noise: What noise to add.
        table: [V, d].
        multiplier: What the embedding multiplies its rows by.
        table_rms: The RMS of the table.
        tokens: The ids that a sample is drawn from.
        lengths: The lengths.
        reference_rms: See ``inspect_table``.
    """
    dim = table.shape[1]
    embedding_rms = table_rms * multiplier
    draw = np.random.default_rng(0)  # the same sample every time
    rows = np.sort(draw.choice(tokens, min(SAMPLE, len(tokens)), replace=False))
    x = np.asarray(table[rows], np.float32) * np.float32(multiplier)
    draws = unit_draws(noise, len(rows), dim)
    unit_rms = noise._distribution.rms * noise._rms_factor

    def magnitude(alpha: float, tokens: int) -> float:
        length = noise.length if isinstance(noise.length, int) else tokens
        return float(noise._scale(alpha, float(length), float(dim), embedding_rms, NUMPY))

    def matched_alpha(tokens: int, size: float) -> float | None:
        if reference_rms is None or not size:
            return None
        published = REFERENCE_ALPHA / math.sqrt(tokens * REFERENCE_DIM) / math.sqrt(3)
        wanted = published / reference_rms * embedding_rms / unit_rms
        alpha = float(noise.alpha) * wanted / size  # type: ignore[arg-type]  # it is no schedule
        return alpha if math.isclose(magnitude(alpha, tokens), wanted, rel_tol=1e-5) else None

    sizes = [magnitude(noise.alpha, each) for each in lengths]  # type: ignore[arg-type]
    flipped = flipped_shares(table, multiplier, rows, draws, sizes)
    return [
        AtLength(
            length,
            size * unit_rms,
            size * unit_rms / embedding_rms,
            {dtype: lost_share(x, np.float32(size) * draws, dtype) for dtype in ROUNDINGS},
            share,
            matched_alpha(length, size),
        )
        for length, size, share in zip(lengths, sizes, flipped, strict=True)
    ]
