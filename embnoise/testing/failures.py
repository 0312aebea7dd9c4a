"""How a check says what it found."""

from __future__ import annotations

import re
import traceback
from pathlib import Path

__all__ = [
    "BrokenError",
    "CheckFailedError",
    "MisuseError",
    "NotFiniteError",
    "UnclaimedError",
    "raised_by_layer",
]

_KIT = Path(__file__).parent
_COLOURS = re.compile("\x1b\\[[0-9;]*m")


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


class NotFiniteError(MisuseError):
    """The layer's output is NaN or infinite somewhere: that can be told, and is a fault."""

    status = "failed"


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
    text = _COLOURS.sub("", text)
    own = [frame for frame in frames if "site-packages" not in frame.filename] or frames
    place = ""
    if own:  # there is none where the call itself does not fit
        place = f" ({Path(own[-1].filename).name}:{own[-1].lineno}, in {own[-1].name})"
    return MisuseError(f"{what} raised {type(error).__name__}: {text}{place}")
