"""An error in how the command is used."""

from __future__ import annotations

__all__ = ["UsageError"]


class UsageError(Exception):
    """A message for the user of the command."""
