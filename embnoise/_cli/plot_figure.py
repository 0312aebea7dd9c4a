"""The picture of ``embnoise plot``, which needs matplotlib."""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any

from matplotlib.figure import Figure

from embnoise._curves import Curves

__all__ = ["COLORS", "figure", "style"]

COLORS = ("#1f77b4", "#d62728", "#2ca02c", "#9467bd", "#8c564b", "#17becf")


def figure(drawn: Mapping[str, Curves], dim: int) -> Figure:
    """Three panels, with all configurations in each of them."""
    result = Figure(figsize=(12, 3.8), layout="constrained")
    run, sizes, shape = result.subplots(1, 3)
    for number, (name, curves) in enumerate(drawn.items()):
        color = COLORS[number % len(COLORS)]
        dashes = (0, (4, 2)) if number % 2 else "-"  # curves that coincide are both seen
        run.plot(curves.steps, curves.alphas, color=color, linestyle=dashes, label=name)
        unit = f"{name}, times the {curves.unit}" if curves.unit else None
        sizes.plot(curves.lengths, curves.rms, color=color, linestyle=dashes, label=unit)
        shape.step(curves.values, curves.probabilities, where="post", color=color, linestyle=dashes)
        if math.isfinite(curves.bound):
            for bound in (-curves.bound, curves.bound):
                shape.axvline(bound, color=color, linestyle=":", linewidth=1)
    run.set(title="amplitude over the run", xlabel="step", ylabel="alpha", ylim=(0, None))
    run.legend()
    if any(curves.unit for curves in drawn.values()):
        sizes.legend()
    sizes.set(
        title=f"size over length, d = {dim:,}",
        xlabel="tokens",
        ylabel="RMS of the noise at the largest alpha",
        xscale="log",
        yscale="log",
    )
    shape.set(
        title="distribution, and its bound (dotted)",
        xlabel="noise / magnitude",
        ylabel="probability of a smaller value",
    )
    style(run, sizes, shape)
    return result


def style(*panels: Any) -> None:
    """What all panels have in common."""
    for axes in panels:
        axes.grid(alpha=0.3)
