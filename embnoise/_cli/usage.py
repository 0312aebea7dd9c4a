"""Errors in how the command is used."""

from __future__ import annotations

from pathlib import Path

__all__ = ["UsageError", "check_file", "check_place"]


class UsageError(Exception):
    """A message for the user of the command."""


def check_file(option: str, path: Path) -> None:
    """Raise unless the path that an option names is a file."""
    if path.is_dir():
        raise UsageError(f"{option} must be a file, and {str(path)!r} is a folder")
    if not path.exists():
        raise UsageError(f"{option}: there is no file {str(path)!r}")


def check_place(option: str, path: Path) -> None:
    """Raise unless a file can be put where an option says."""
    if path.is_dir():
        raise UsageError(f"{option} must be a file, and {str(path)!r} is a folder")
    if not path.parent.is_dir():
        raise UsageError(f"{option}: there is no folder {str(path.parent)!r}")
