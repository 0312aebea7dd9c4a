"""What the names of a call's arguments tell about its tokens, where nothing else does."""

from __future__ import annotations

import re
from collections.abc import Iterable, Sequence

__all__ = ["is_positions", "likeliest_ids"]

_POSITIONS = re.compile(
    r"((input|token|abs|absolute|seq)_?)?(pos|positions?)(_?(ids?|idx|index|indices))?"
)

# Integers with these in their names are something of each token, no ids of tokens, or hardly those
# that are looked up; and those that are, rather than others.
_NOT_LIKELY = (
    "position", "type", "segment", "mask", "label", "cache", "length", "target", "seq", "doc",
)  # fmt: skip
_LIKELIER = ("token", "input", "text", "word")


def is_positions(name: str) -> bool:
    """Whether an argument is the positions of tokens by its name.

    Example:
        >>> [name for name in ("position_ids", "input_pos", "composition") if is_positions(name)]
        ['position_ids', 'input_pos']
    """
    return _POSITIONS.fullmatch(name) is not None


def likeliest_ids(names: Sequence[str]) -> int | None:
    """Which of the integer arguments of a call is most likely what is looked up.

    The first one with a plain name, such as "src" of "src" and "tgt"; without one, the first that
    is called ids or tokens. Among several, the name of a token, a text or an input comes first.

    Args:
        names: Their names, in their order.

    Returns:
        Its place in ``names``; ``None`` if none is likely.

    Example:
        >>> likeliest_ids(["labels", "user_ids", "text_ids"])
        2
        >>> likeliest_ids(["position_ids", "token_type_ids"]) is None
        True
    """
    likely = [place for place, name in enumerate(names) if not _has_any(name, _NOT_LIKELY)]
    plain = [place for place in likely if "_" not in names[place]]
    likely = plain or [place for place in likely if names[place].endswith(("ids", "tokens"))]
    found = [place for place in likely if _has_any(names[place], _LIKELIER)] or likely
    return found[0] if found else None


def _has_any(name: str, parts: Iterable[str]) -> bool:
    return any(part in name for part in parts)
