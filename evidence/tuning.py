"""Settings are chosen by the validation loss, over seeds of their own."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable
from statistics import mean

from evidence.arms import Arm, family
from evidence.results import Result

__all__ = ["chosen_arms", "tuned"]


def tuned(results: Iterable[Result]) -> dict[str, dict[Arm, float]]:
    """For each family, the mean validation loss of each arm over the tuning seeds."""
    losses: dict[Arm, list[float]] = defaultdict(list)
    for result in results:
        if not result.is_reported:
            losses[result.arm].append(result.measures["validation_loss"])
    families: dict[str, dict[Arm, float]] = defaultdict(dict)
    for arm, found in losses.items():
        families[family(arm)][arm] = mean(found)
    return dict(families)


def chosen_arms(results: Iterable[Result]) -> dict[str, Arm]:
    """For each family, the arm with the lowest mean validation loss."""
    return {name: min(arms, key=arms.__getitem__) for name, arms in tuned(results).items()}
