"""How much the kit looks at: quick, default or nightly."""

from __future__ import annotations

from dataclasses import dataclass

from embnoise._validation import check_choice

__all__ = ["PROFILES", "Profile", "profile_of"]


@dataclass(frozen=True)
class Profile:
    """How many values the statistics see, and whether Hypothesis draws batches.

    The sizes of the batch share no factor that would make two wrong rules look alike.
    """

    name: str
    batch: tuple[int, int, int]
    """B, L and d for the statistics."""
    draws: float
    """The share of a driver's number of examples that Hypothesis draws."""

    def shape(self, dtype: str) -> tuple[int, int, int]:
        """The batch of a dtype: in float16 with an L*d that float16 cannot hold."""
        _, length, dim = self.batch
        return (1, 521, 130) if dtype == "float16" and length * dim < 65536 else self.batch


PROFILES = {
    "quick": Profile("quick", (6, 24, 114), draws=0),  # 2^14 values
    "default": Profile("default", (8, 64, 129), draws=1),  # 2^16
    "nightly": Profile("nightly", (10, 256, 410), draws=10),  # 2^20
}


def profile_of(name: str) -> Profile:
    """The profile of a name.

    Raises:
        TypeError: not a string.
        ValueError: an unknown name.
    """
    check_choice("profile", name, list(PROFILES))
    return PROFILES[name]
