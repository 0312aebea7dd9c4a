"""The picture of ``embnoise inspect``, which needs matplotlib."""

from __future__ import annotations

from matplotlib.figure import Figure

from embnoise._cli.plot_figure import COLORS, style
from embnoise._inspection_report import Inspection

__all__ = ["figure"]


def figure(inspection: Inspection) -> Figure:
    """Over the lengths: noise beside embeddings, elements that are lost, and nearest rows."""
    result = Figure(figsize=(12, 3.8), layout="constrained")
    sizes, lost, nearest = result.subplots(1, 3)
    for number, report in enumerate(inspection.embeddings):
        color = COLORS[number % len(COLORS)]
        tokens = [each.tokens for each in report.lengths]
        sizes.plot(
            tokens, [each.ratio for each in report.lengths], marker="o", color=color,
            label=report.name,
        )  # fmt: skip
        if report.measured is not None:
            sizes.axhline(report.measured.ratio, color=color, linestyle=":", linewidth=1)
        for dtype, line in zip(report.lengths[0].lost, ("-", "--"), strict=True):
            shares = [each.lost[dtype] for each in report.lengths]
            lost.plot(tokens, shares, line, marker="o", color=color, label=dtype)
        nearest.plot(tokens, [each.flipped for each in report.lengths], marker="o", color=color)
    sizes.set(
        title="noise beside embeddings, measured (dotted)",
        ylabel="RMS of the noise / RMS of the embeddings",
        yscale="log",
    )
    lost.set(title="elements that do not change", ylabel="share", ylim=(0, None))
    nearest.set(title="tokens whose nearest row is another one", ylabel="share", ylim=(-0.02, 1.02))
    sizes.legend()
    lost.legend()
    for axes in (sizes, lost, nearest):
        axes.set(xlabel="tokens", xscale="log")
    style(sizes, lost, nearest)
    return result
