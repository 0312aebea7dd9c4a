"""``embnoise plot`` without a picture: curves in characters, and tables."""

from __future__ import annotations

import math
from collections.abc import Mapping

import numpy as np
from numpy.typing import NDArray

from embnoise._curves import Curves
from embnoise._noise import Noise

__all__ = ["text"]

_WIDTH, _HEIGHT = 60, 8
_EIGHTHS = " ▁▂▃▄▅▆▇█"
_SHOWN = slice(0, None, 2)
"""The lengths of the table: 8, 32, 128, ..."""


def text(noises: Mapping[str, Noise], drawn: Mapping[str, Curves], dim: int) -> str:
    """Every configuration in turn, and a table of sizes for all of them."""
    lines: list[str] = []
    for name, curves in drawn.items():
        lines += [f"{name}: {_described(noises[name], curves)}", "", *_chart(curves), ""]
    return "\n".join([*lines, *_table(drawn, dim)])


def _described(noise: Noise, curves: Curves) -> str:
    bound = f"at most {curves.bound:.3g}" if math.isfinite(curves.bound) else "no bound"
    unit = noise._distribution.rms * noise._rms_factor
    return (
        f"{noise._distribution.name} noise of magnitude {noise._scale.formula}; in its units, RMS "
        f"{unit:.3g} and {bound}"
    )


def _chart(curves: Curves) -> list[str]:
    """Alpha over the run, as columns of characters."""
    highest = float(curves.alphas.max())
    steps = np.linspace(0, curves.steps[-1], _WIDTH)
    columns = np.interp(steps, curves.steps, curves.alphas)
    # A peak between two columns belongs to the nearer one.
    nearest = np.abs(steps[:, None] - curves.steps).argmin(axis=0)
    np.maximum.at(columns, nearest, curves.alphas)
    columns /= highest or 1.0
    rows = []
    for row in reversed(range(_HEIGHT)):
        filled = np.clip((columns * _HEIGHT - row) * 8, 0, 8).round().astype(int)
        label = {_HEIGHT - 1: f"{highest:.4g}", 0: "0"}.get(row, "")
        rows.append(f"  alpha {label:>8} |" + "".join(_EIGHTHS[part] for part in filled))
    last = f"step {curves.steps[-1]}"
    return [*rows, f"{'':>17}step 0{last:>{_WIDTH - 6}}"]


def _table(drawn: Mapping[str, Curves], dim: int) -> list[str]:
    """The RMS of the noise over lengths."""
    some = next(iter(drawn.values())).lengths[_SHOWN]
    labels = [
        f"{name}, times the {each.unit}" if each.unit else name for name, each in drawn.items()
    ]
    wide = max(map(len, labels))
    head = "  ".join(f"{length:>8,}" for length in some)
    return [
        f"RMS of the noise at the largest alpha, d = {dim:,}, by the number of tokens:",
        f"  {'':{wide}}  {head}",
        *(
            f"  {label:{wide}}  {_row(curves.rms[_SHOWN])}"
            for label, curves in zip(labels, drawn.values(), strict=True)
        ),
    ]


def _row(values: NDArray[np.float64]) -> str:
    return "  ".join(f"{value:>8.2g}" for value in values)
