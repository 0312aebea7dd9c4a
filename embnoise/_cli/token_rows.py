"""Rows of token ids from a file of JSON lines."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path

from embnoise._cli.usage import UsageError

__all__ = ["read_rows"]

_SHAPES = '{"input_ids": [1, 2, 3]} or {"text": "..."}'


def read_rows(
    path: Path, vocabulary: int, tokenize: Callable[[list[str]], list[list[int]]]
) -> list[list[int]]:
    """The token ids of every line; empty lines are skipped.

    Args:
        path: A file whose lines are objects with a key ``input_ids`` or ``text``.
        vocabulary: Ids must be below this.
        tokenize: The ids of texts.

    Raises:
        UsageError: The file cannot be read; a line is something else, has no token, or has an
            id that is not in the table.
    """
    try:
        # Not `splitlines`: a text may have other separators than newlines in it.
        lines = path.read_text(encoding="utf-8-sig").split("\n")
    except (OSError, UnicodeDecodeError) as error:
        raise UsageError(f"--data must be a text file that can be read: {error}") from None
    entries = [
        (number, _entry(path, number, line))
        for number, line in enumerate(lines, start=1)
        if line.strip()
    ]
    if not entries:
        raise UsageError(f"{path} has no lines; each must be {_SHAPES}")
    texts = [entry for _, entry in entries if isinstance(entry, str)]
    tokenized = iter(tokenize(texts) if texts else [])
    rows = []
    for number, entry in entries:
        row = next(tokenized) if isinstance(entry, str) else entry
        if not row:
            raise UsageError(f"{path}, line {number} has no token")
        if not 0 <= min(row) <= max(row) < vocabulary:
            wrong = next(each for each in row if not 0 <= each < vocabulary)
            raise UsageError(
                f"{path}, line {number} has the token id {wrong}, and the embedding table has "
                f"{vocabulary} rows; use the tokenizer of this model"
            )
        rows.append(row)
    return rows


def _entry(path: Path, number: int, line: str) -> str | list[int]:
    """The text or the ids of a line."""
    try:
        entry = json.loads(line)
    except ValueError as error:
        raise UsageError(f"{path}, line {number} is not JSON: {error}") from None
    if isinstance(entry, dict):
        ids, text = entry.get("input_ids"), entry.get("text")
        if isinstance(ids, list) and all(type(each) is int for each in ids):
            return ids
        if isinstance(text, str) and ids is None:
            return text
    raise UsageError(f"{path}, line {number} must be {_SHAPES}, got {line[:60]}")
