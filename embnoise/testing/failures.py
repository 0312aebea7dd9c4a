"""The exceptions of the kit, and how it reports an exception that a layer raised."""

from __future__ import annotations

import re
import traceback
from pathlib import Path

__all__ = [
    "ERRORS",
    "CheckFailedError",
    "ClaimViolatedError",
    "NotClaimedError",
    "NotFiniteError",
    "NotTestedError",
    "UntestableError",
    "raised_by_layer",
]

ERRORS = Exception, SystemExit
"""What a layer may raise: ``sys.exit()`` in one must not end the kit."""

_KIT = Path(__file__).parent
_COLORS = re.compile("\x1b\\[[0-9;]*m")


class CheckFailedError(AssertionError):
    """A check failed, or could not test the layer."""


class ClaimViolatedError(Exception):
    """The layer violates a claim.

    Args:
        seen: What was observed and what was expected.
        likely: The likely cause.
    """

    status = "failed"

    def __init__(self, seen: str, likely: str) -> None:
        super().__init__(f"{seen}. Likely: {likely}.")
        self.seen = seen
        self.likely = likely


class UntestableError(Exception):
    """The layer or its factory cannot be tested as it is."""

    status = "error"


class NotFiniteError(UntestableError):
    """The output has NaN or infinite values, which counts as a failure."""

    status = "failed"


class NotClaimedError(Exception):
    """The layer does not claim what the check tests, or the driver cannot show it."""

    status = "not_claimed"


class NotTestedError(Exception):
    """Another check reports what the check would stumble over."""

    status = "not_tested"


def raised_by_layer(what: str, error: BaseException) -> UntestableError:
    """The error to report when a factory or a layer raises: its message and where it came from.

    Args:
        what: What raised, as the subject of the sentence.
        error: What it raised.
    """
    frames = [
        frame
        for frame in traceback.extract_tb(error.__traceback__)
        if _KIT not in Path(frame.filename).parents
    ]
    text = " ".join(str(error).split())
    text = text if len(text) <= 600 else text[:597] + "..."
    text = _COLORS.sub("", text) or "without a message"
    own = [frame for frame in frames if "site-packages" not in frame.filename] or frames
    place = ""
    if own:  # there are no frames if the call itself does not fit the signature
        place = f" ({Path(own[-1].filename).name}:{own[-1].lineno}, in {own[-1].name})"
    return UntestableError(f"{what} raised {type(error).__name__}: {text}{place}")
