"""The claims tested: every contrast with its estimate, its p-value and what it shows."""

from __future__ import annotations

from collections.abc import Sequence

from evidence.arms import Study
from evidence.claims import Claim, Contrast, claims, values
from evidence.results import Result
from evidence.statistics import Estimate, equivalence, estimate, holm

__all__ = ["Answer", "answers", "side_by_side"]


class Answer:
    """A contrast with its estimate and its p-values."""

    def __init__(self, claim: Claim, contrast: Contrast, differences: Sequence[float]) -> None:
        self.claim = claim
        self.contrast = contrast
        self.estimate: Estimate = estimate(differences)
        self.p = self.estimate.p
        if contrast.margin is not None:
            self.p = equivalence(differences, contrast.margin)
        self.adjusted = 1.0
        self.has_enough_seeds = True

    @property
    def verdict(self) -> str:
        """What the adjusted p-value says at 5%, and of what should be equal also the interval."""
        if (margin := self.contrast.margin) is not None:
            if self.adjusted < 0.05:
                return f"equal within ±{margin:g}"
            if self.estimate.high < -margin or self.estimate.low > margin:
                return f"{'lower' if self.estimate.mean < 0 else 'higher'} by more than {margin:g}"
            return f"not shown: ±{margin:g}"
        if not self.has_enough_seeds:
            return "too few seeds"
        if self.adjusted >= 0.05:
            return "no difference shown"
        return "lower" if self.estimate.mean < 0 else "higher"


def answers(study: Study, results: Sequence[Result]) -> list[Answer]:
    """All contrasts, with p-values that are adjusted over all of them."""
    found = [
        Answer(claim, contrast, differences)
        for claim in claims(study)
        for contrast in claim.contrasts
        if len(differences := values(contrast, results)) >= 3
    ]
    for answer, adjusted in zip(found, holm([each.p for each in found]), strict=True):
        answer.adjusted = adjusted
        # The smallest p-value of a sign-flip test, of which one of all answers has to be.
        answer.has_enough_seeds = 2.0 ** (1 - answer.estimate.count) * len(found) < 0.05
    return found


def side_by_side(
    found: Sequence[Answer], repetitions: Sequence[Sequence[Answer]]
) -> dict[str, list[Estimate | None]]:
    """By label, the estimates of the study and of each repetition, of what one of these has."""
    tables = [{each.contrast.label: each.estimate for each in own} for own in (found, *repetitions)]
    return {
        label: [table.get(label) for table in tables]
        for label in tables[0]
        if any(label in table for table in tables[1:])
    }
