"""How a check says what it found."""

from __future__ import annotations

import traceback
from pathlib import Path

__all__ = ["BrokenError", "CheckFailedError", "MisuseError", "UnclaimedError", "raised_by_layer"]

_KIT = Path(__file__).parent


class CheckFailedError(AssertionError):
    """What a check raises when a promise is broken, or cannot be looked at."""


class BrokenError(Exception):
    """A promise is broken: what was seen, what was promised, and the likely cause."""

    status = "failed"

    def __init__(self, seen: str, likely: str) -> None:
        super().__init__(f"{seen}. Likely: {likely}.")


class MisuseError(Exception):
    """The layer or its factory cannot be tested as it is."""

    status = "error"


class UnclaimedError(Exception):
    """A promise is not made, or cannot be looked at in this framework: the reason."""


def raised_by_layer(what: str, error: Exception) -> MisuseError:
    """The misuse of a factory or a layer that raises: its error, and where in its own code."""
    frames = [
        frame
        for frame in traceback.extract_tb(error.__traceback__)
        if _KIT not in Path(frame.filename).parents
    ]
    text = " ".join(str(error).split())
    text = text if len(text) <= 600 else text[:597] + "..."
    place = f" ({Path(frames[-1].filename).name}:{frames[-1].lineno}, in {frames[-1].name})"
    return MisuseError(f"{what} raised {type(error).__name__}: {text}{place if frames else ''}")
