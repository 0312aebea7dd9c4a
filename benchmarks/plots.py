"""The pictures of the benchmarks."""

from __future__ import annotations

import math
from pathlib import Path
from typing import Any

import matplotlib as mpl

mpl.use("agg")  # it needs no screen
from matplotlib import pyplot as plt
from matplotlib.ticker import LogLocator, NullLocator

_MARKERS = "osD^"
_COLORS = {"embnoise": "C0", "hook": "C1", "mask": "C2", "Gaussian": "C3"}
"""By a word in the name of an implementation; all others draw uniform noise, as the hook does."""


def plot_ratios(report: dict[str, Any], path: Path) -> None:
    """Time over that of the bare lookup, by the size of the output.

    Args:
        report: What ``lookups.py`` writes: the machine, and for each framework its versions and
            results.
        path: Where the picture goes.
    """
    frameworks = report["frameworks"]
    dtypes = list(
        dict.fromkeys(each["dtype"] for own in frameworks.values() for each in own["results"])
    )
    rows, columns = len(frameworks), len(dtypes)
    size = (1.8 + 4.6 * columns, 3.6 * rows)
    figure, axes = plt.subplots(
        rows, columns, figsize=size, sharex=True, sharey="row", squeeze=False
    )
    for row, (framework, own) in zip(axes, frameworks.items(), strict=True):
        for axis, dtype in zip(row, dtypes, strict=True):
            _panel(axis, [each for each in own["results"] if each["dtype"] == dtype])
            axis.set_title(f"{framework}, {dtype}", fontsize="medium")
        row[0].set_ylabel("time / time of the lookup alone")
        row[-1].legend(fontsize="small", loc="upper left", bbox_to_anchor=(1, 1), frameon=False)
    for axis in axes[-1]:
        axis.set_xlabel("elements of the output, B x L x d")
    versions = "; ".join(own["versions"] for own in frameworks.values())
    subject = "Embedding lookup with noise, relative to the lookup alone"
    figure.suptitle(f"{subject}\n{report['machine']}\n{versions}", fontsize="medium")
    figure.tight_layout()
    figure.savefig(path, dpi=110)
    plt.close(figure)


def _panel(axis: Any, results: list[dict[str, Any]]) -> None:
    """One line for each implementation and embedding size."""
    dims = sorted({each["shape"][-1] for each in results})
    names = [name for name in results[0]["microseconds"] if name != "lookup"]
    axis.axhline(1, color="black", linewidth=0.8)
    for name in names:
        style = {"color": _color(name), "linewidth": 2 if name == "embnoise" else 0.9}
        for dim, marker in zip(dims, _MARKERS, strict=False):
            own = [each for each in results if each["shape"][-1] == dim]
            elements = [math.prod(each["shape"]) for each in own]
            ratios = [each["microseconds"][name] / each["microseconds"]["lookup"] for each in own]
            axis.plot(elements, ratios, marker=marker, markersize=4, alpha=0.85, **style)
        axis.plot([], [], label=name, **style)
    for dim, marker in zip(dims, _MARKERS, strict=False):
        axis.plot([], [], marker, color="gray", markersize=4, label=f"d = {dim:,}")
    axis.set(xscale="log", yscale="log")
    axis.yaxis.set_major_locator(LogLocator(subs=(1, 2, 5)))
    axis.yaxis.set_minor_locator(NullLocator())
    axis.yaxis.set_major_formatter(lambda value, _: f"{value:g}")
    axis.grid(which="major", linewidth=0.3)


def _color(name: str) -> str:
    """The same for the same kind of noise in every framework."""
    return next((color for word, color in _COLORS.items() if word in name), _COLORS["hook"])
