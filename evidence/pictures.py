"""The pictures of ``docs/evidence.md``."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from matplotlib.figure import Figure

from evidence.answers import Answer
from evidence.arms import Arm, Study
from evidence.results import Result
from evidence.statistics import estimate

__all__ = ["save_all"]

PLAIN, NOISY = "#767676", "#1f77b4"


def save_all(
    study: Study, results: Sequence[Result], found: Sequence[Answer], folder: Path
) -> list[Path]:
    """Write the pictures; returns their paths."""
    pictures = {
        "evidence-sizes.png": _sizes(study, results),
        "evidence-answers.png": _answers(found),
    }
    paths = []
    for name, figure in pictures.items():
        figure.savefig(folder / name, dpi=150)
        paths.append(folder / name)
    return paths


def _sizes(study: Study, results: Sequence[Result]) -> Figure:
    """Losses over the number of pairs, plain and noisy, with 95% intervals over seeds."""
    figure = Figure(figsize=(10, 3.6), layout="constrained")
    loss = "cross-entropy per answer token, nats"
    panels = {
        "train_loss": ("training loss", loss),
        "test_loss": ("test loss", loss),
        "verbatim": ("verbatim rate", "share of training prompts"),
    }
    for axes, (measure, (title, unit)) in zip(figure.subplots(1, 3), panels.items(), strict=True):
        for arms, color, label in (
            (study.plain, PLAIN, "plain"),
            (study.noisy, NOISY, "with noise"),
        ):
            _curve(axes, arms, results, measure, color, label)
        axes.set_xscale("log", base=2)
        axes.set_xticks(list(study.plain), [f"{pairs:,}" for pairs in study.plain])
        axes.set_xlabel("pairs to fine-tune on")
        axes.set_ylabel(unit)
        axes.set_title(title)
        axes.grid(alpha=0.3)
    figure.axes[0].legend()
    return figure


def _curve(
    axes: Any,
    arms: dict[int, Arm],
    results: Sequence[Result],
    measure: str,
    color: str,
    label: str,
) -> None:
    found = {
        pairs: estimate([r.measures[measure] for r in results if r.arm == arm and r.is_reported])
        for pairs, arm in arms.items()
    }
    means = [each.mean for each in found.values()]
    below = [each.mean - each.low for each in found.values()]
    above = [each.high - each.mean for each in found.values()]
    axes.errorbar(
        list(found), means, [below, above], color=color, label=label, marker="o", capsize=3
    )


def _answers(found: Sequence[Answer]) -> Figure:
    """Every comparison of test losses, as an interval."""
    shown = [
        answer
        for answer in found
        if all(measure.endswith("test_loss") for _, _, measure in answer.contrast.terms)
    ][::-1]
    figure = Figure(figsize=(8, 0.32 * len(shown) + 1.6), layout="constrained")
    axes = figure.subplots()
    axes.axvline(0, color="black", linewidth=0.8)
    for place, answer in enumerate(shown):
        of, style = answer.estimate, _style(answer)
        axes.plot([of.low, of.high], [place, place], color=style["color"], linewidth=2)
        axes.plot(of.mean, place, **style)
    handles, labels = axes.get_legend_handles_labels()
    named = sorted(dict(zip(labels, handles, strict=True)).items())  # one entry for each kind
    figure.legend(
        [handle for _, handle in named], [label for label, _ in named], ncols=len(named),
        loc="outside upper center", fontsize="small", title="95% intervals, adjusted p-values",
    )  # fmt: skip
    axes.set_yticks(range(len(shown)), [answer.contrast.label for answer in shown])
    axes.set_xlabel(
        "difference in nats: the first minus the second, or with noise minus plain\n"
        "(negative: a lower test loss, or a smaller gain)",
        fontsize="small",
    )
    axes.grid(axis="x", alpha=0.3)
    return figure


def _style(answer: Answer) -> dict[str, Any]:
    """How an answer is marked: a difference, equality within the margin, or neither is shown."""
    shown = answer.adjusted < 0.05
    style = {"marker": "o", "linestyle": "none", "color": NOISY if shown else PLAIN}
    if not shown:
        return style | {"label": "neither shown"}
    if answer.contrast.margin is None:
        return style | {"label": "a difference, p < 0.05"}
    equal = f"equal within ±{answer.contrast.margin:g}, p < 0.05"
    return style | {"label": equal, "markerfacecolor": "white"}
