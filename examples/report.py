"""What a comparison found: a table, a picture and a JSON file."""

from __future__ import annotations

import json
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, Self

from matplotlib.figure import Figure

SMOOTHED = 5  # how many logged losses a point of the training curve averages


@dataclass(frozen=True)
class Arm:
    """The figures of one fine-tuning. Only ``train_losses``, the curve, are with its noise."""

    name: str
    train_loss: float
    held_out_loss: float
    best_held_out_loss: float
    verbatim_rate: float
    seconds: float
    train_losses: list[tuple[int, float]]
    held_out_losses: list[tuple[int, float]]

    @classmethod
    def of(
        cls,
        name: str,
        train_losses: list[tuple[int, float]],
        held_out_losses: list[tuple[int, float]],
        *,
        train_loss: float,
        verbatim_rate: float,
        seconds: float,
    ) -> Self:
        """The arm with these curves: ``held_out_loss`` is the last of them."""
        return cls(
            name,
            train_loss=train_loss,
            held_out_loss=held_out_losses[-1][1],
            best_held_out_loss=min(loss for _, loss in held_out_losses),
            verbatim_rate=verbatim_rate,
            seconds=seconds,
            train_losses=train_losses,
            held_out_losses=held_out_losses,
        )


def table(arms: list[Arm]) -> str:
    """One line per arm."""
    head = f"{'':<12}{'train loss':>12}{'held-out loss':>15}{'(its best)':>12}"
    head += f"{'verbatim':>10}{'seconds':>9}"
    rows = [
        f"{arm.name:<12}{arm.train_loss:>12.3f}{arm.held_out_loss:>15.3f}"
        f"{arm.best_held_out_loss:>12.3f}{arm.verbatim_rate:>10.0%}{arm.seconds:>9.1f}"
        for arm in arms
    ]
    return "\n".join([head, *rows])


def save(arms: list[Arm], arguments: dict[str, Any]) -> list[Path]:
    """Write ``finetune.png`` and ``finetune.json`` to the output folder; returns their paths."""
    folder = Path(arguments["output"])
    folder.mkdir(parents=True, exist_ok=True)
    picture, figures = folder / "finetune.png", folder / "finetune.json"
    noise = "{distribution} noise, alpha {alpha:g}, {schedule}".format(**arguments)
    draw(arms, f"Fine-tuning, plain and with {noise}").savefig(picture, dpi=150)
    content = {"arguments": arguments, "arms": [asdict(arm) for arm in arms]}
    figures.write_text(json.dumps(content, indent=2, default=str) + "\n", encoding="utf-8")
    return [picture, figures]


def draw(arms: list[Arm], title: str) -> Figure:
    """The loss curves of all arms."""
    figure = Figure(figsize=(10, 4), layout="constrained")
    figure.suptitle(title)
    left, right = figure.subplots(1, 2)
    for arm, color in zip(arms, ["tab:gray", "tab:blue"], strict=True):
        steps, losses = zip(*arm.train_losses, strict=True)
        left.plot(steps, _smooth(losses), color=color, label=arm.name)
        steps, losses = zip(*arm.held_out_losses, strict=True)
        right.plot(steps, losses, color=color, label=arm.name, marker="o", markersize=4)
    left.set_title("training loss, noise included")
    right.set_title("held-out loss, without noise")
    for axes in (left, right):
        axes.set_xlabel("optimizer step")
        axes.set_ylabel("cross-entropy per token, nats")
        axes.grid(alpha=0.3)
        axes.legend()
    return figure


def _smooth(values: tuple[float, ...]) -> list[float]:
    """Each value averaged with those just before it."""
    windows = [values[max(0, end - SMOOTHED) : end] for end in range(1, len(values) + 1)]
    return [sum(window) / len(window) for window in windows]
