"""``Inspection``: what noise means for a model, as numbers, as text and as JSON."""

from __future__ import annotations

import json
import math
import textwrap
from dataclasses import asdict, dataclass
from typing import Any

from embnoise._inspect.measurement import Measurement
from embnoise._noise import Noise

__all__ = ["AtLength", "EmbeddingReport", "Inspection"]

_PAPER = "the paper's LLaMA-2-7B setting (alpha 5, d 4096)"


@dataclass(frozen=True)
class AtLength:
    """The noise of sequences of one length.

    Attributes:
        tokens: The length L.
        noise_rms: The RMS of the noise where it is added.
        ratio: The noise ratio: that over the RMS of the embeddings where it is added.
        lost: The share of elements that do not change, by the 16-bit type.
        flipped: The share of tokens whose nearest row of the table is another one.
        matched_alpha: The alpha that gives the noise ratio of LLaMA-2-7B in the paper; ``None`` if
            its table's RMS was not given, or the scale rule is not proportional to alpha.
    """

    tokens: int
    noise_rms: float
    ratio: float
    lost: dict[str, float]
    flipped: float
    matched_alpha: float | None


@dataclass(frozen=True)
class EmbeddingReport:
    """One embedding table, and noise on what is looked up in it.

    Attributes:
        name: The names of the embeddings that have this table.
        shape: V and d.
        table_rms: The RMS of the table's elements.
        inner_multiplier: What the embedding multiplies its rows by, before the noise is added;
            ``None`` if its output is no multiple of its rows.
        outer_multiplier: What the model multiplies the noise and the embeddings by, after the noise
            is added; ``None`` if that was not measured.
        embedding_rms: The RMS of the embeddings where noise is added to them: that of the table
            times the inner multiplier.
        lengths: One entry for each length.
        measured: What calls of the model showed; ``None`` without a call.
    """

    name: str
    shape: tuple[int, int]
    table_rms: float
    inner_multiplier: float | None
    outer_multiplier: float | None
    embedding_rms: float
    lengths: tuple[AtLength, ...]
    measured: Measurement | None


@dataclass(frozen=True)
class Inspection:
    """What noise means for a model.

    Attributes:
        noise: The noise; alpha is that of the step that was asked for.
        embeddings: One report for each table.
        reference_rms: The RMS of LLaMA-2-7B's table, if it was given.
    """

    noise: Noise
    embeddings: tuple[EmbeddingReport, ...]
    reference_rms: float | None = None

    def table(self) -> str:
        """The report as text: the noise, and a block of lines for each embedding table."""
        lines = [str(self.noise)]
        for report in self.embeddings:
            lines += ["", *_block(report, self.reference_rms)]
        return "\n".join(lines)

    def to_dict(self) -> dict[str, Any]:
        """The report as JSON-ready values."""
        return {
            "noise": str(self.noise),
            "reference_rms": self.reference_rms,
            "embeddings": [asdict(each) for each in self.embeddings],
        }

    def to_json(self) -> str:
        """The report as JSON."""
        return json.dumps(self.to_dict(), indent=2)


def _block(report: EmbeddingReport, reference_rms: float | None) -> list[str]:
    rows, dim = report.shape
    said = {"table": f"RMS {report.table_rms:.4g}", "multiplier": _multipliers(report)}
    if report.measured is not None:
        said["measured"] = _measured(report.measured)
    said["alpha"] = _matched(report, reference_rms)
    lines = [f"{report.name}, {rows:,} x {dim:,}"]
    for name, what in said.items():
        lines += textwrap.wrap(
            what, 98, initial_indent=f"  {name:10}  ", subsequent_indent=" " * 14,
            break_on_hyphens=False,
        )  # fmt: skip
    lines.append("")
    types = list(report.lengths[0].lost)
    head = ["tokens", "noise RMS", "noise ratio", *(f"lost in {each}" for each in types)]
    head.append("other nearest row")
    lines.append("  " + "  ".join(head))
    for each in report.lengths:
        cells = [f"{each.tokens:,}", f"{each.noise_rms:.4g}", f"{each.ratio:.3g}"]
        cells += [f"{share:.1%}" for share in (*each.lost.values(), each.flipped)]
        aligned = (cell.rjust(len(title)) for cell, title in zip(cells, head, strict=True))
        lines.append("  " + "  ".join(aligned))
    return lines


def _multipliers(report: EmbeddingReport) -> str:
    inner, outer = report.inner_multiplier, report.outer_multiplier
    if report.measured is None:
        return f"taken as {inner:.4g} in the embedding: no call of a model was measured"
    if inner is None:
        said = (
            "the embedding's output is no multiple of its rows; what follows is about the rows, "
            "except for what is measured"
        )
    elif math.isclose(inner, 1, rel_tol=1e-3):
        said = "none in the embedding"
    else:
        said = (
            f"{inner:.4g} in the embedding, before the noise, which it leaves as it is: embeddings "
            f"of RMS {report.embedding_rms:.4g} get it"
        )
    if outer is None:
        return f"{said}; after the noise not measured"
    if math.isclose(outer, 1, rel_tol=1e-3):
        return f"{said}; none after the noise"
    return f"{said}; {outer:.4g} after the noise, of the noise and the embeddings alike"


def _measured(found: Measurement) -> str:
    """Predicted and measured side by side."""
    off = found.measured / found.predicted - 1 if found.predicted else math.inf
    shortest, longest = found.lengths[0], found.lengths[-1]
    lengths = f"{shortest:,}" if shortest == longest else f"{shortest:,} to {longest:,}"
    return (
        f"noise RMS {found.measured:.4g}, predicted {found.predicted:.4g} ({off:+.2%}, by chance "
        f"{found.chance:.2%}); {found.tokens:,} tokens in sequences of {lengths}; noise ratio "
        f"{found.ratio:.3g}"
    )


def _matched(report: EmbeddingReport, reference_rms: float | None) -> str:
    if reference_rms is None:
        return (
            "to match the paper's noise ratio (LLaMA-2-7B, alpha 5), pass --reference-rms R "
            "(reference_rms=R in Python); R is the RMS of that model's embedding table, which "
            "`embnoise inspect` prints for a copy of it"
        )
    alphas = [each.matched_alpha for each in report.lengths]
    known = [alpha for alpha in alphas if alpha is not None]
    if len(known) < len(alphas):
        return (
            f"no alpha gives the noise ratio of {_PAPER}: the scale rule is not proportional to it"
        )
    if math.isclose(min(known), max(known), rel_tol=1e-4):
        said = f"{known[0]:.4g}"
    else:
        each = (
            f"{a:.4g} at {e.tokens:,} tokens" for a, e in zip(known, report.lengths, strict=True)
        )
        said = ", ".join(each)
    return f"{said} for the noise ratio of {_PAPER} with a table of RMS {reference_rms:.4g}"
