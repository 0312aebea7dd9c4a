"""How much the kit tests: quick, default or nightly."""

from __future__ import annotations

from dataclasses import dataclass

from embnoise._validation import check_choice

__all__ = ["PROFILES", "Profile", "profile_of"]


@dataclass(frozen=True)
class Profile:
    """How many values the statistics see, in which dtypes, and whether Hypothesis draws batches.

    No size is a small multiple of another, or of the eight ids, so that no two wrong rules give the
    same magnitude.
    """

    name: str
    batch: tuple[int, int, int]
    """B, L and d for the statistics."""
    draws: float
    """How many examples Hypothesis draws, as a multiple of the driver's number."""
    usual: tuple[str, ...] = ("float32", "bfloat16")
    """The dtypes of the checks that test the usual ones, if the driver declares them."""

    def shape(self, dtype: str) -> tuple[int, int, int]:
        """The batch for a dtype; in float16 its L*d is more than float16 can hold."""
        _, length, dim = self.batch
        return (1, 509, 130) if dtype == "float16" and length * dim < 65536 else self.batch


PROFILES = {
    "quick": Profile("quick", (6, 29, 95), draws=0, usual=("float32",)),  # 2^14 values
    "default": Profile("default", (10, 49, 134), draws=1),  # 2^16
    "nightly": Profile("nightly", (10, 245, 428), draws=10),  # 2^20
}


def profile_of(name: str) -> Profile:
    """The profile of a name.

    Raises:
        TypeError: ``name`` is not a string.
        ValueError: The name is unknown.
    """
    check_choice("profile", name, list(PROFILES))
    return PROFILES[name]
