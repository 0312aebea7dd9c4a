"""The notes of a release: its section of the changelog.

``python -m tests.release.changelog v0.1.0`` prints that of the tag, which must be of this version.
"""

from __future__ import annotations

import re
import sys
from pathlib import Path

ROOT = Path(__file__).parents[2]


def version() -> str:
    """The version of the checkout, whichever one is installed."""
    text = (ROOT / "embnoise" / "__init__.py").read_text()
    (found,) = re.findall('^__version__ = "(.*)"$', text, re.MULTILINE)
    return found


def sections() -> dict[str, str]:
    """The texts of the changelog by their headings, such as ``0.1.0 - 2026-11-28``."""
    _, *parts = re.split(r"^## ", (ROOT / "CHANGELOG.md").read_text(), flags=re.MULTILINE)
    return {heading: text.strip() for heading, _, text in (part.partition("\n") for part in parts)}


def notes(tag: str) -> str:
    """What changed in the version that a tag is of."""
    if tag != f"v{version()}":
        raise ValueError(f"the tag is {tag}, but embnoise.__version__ is {version()}")
    found = [text for heading, text in sections().items() if heading.startswith(f"{version()} - ")]
    if len(found) != 1:
        raise ValueError(f"CHANGELOG.md has {len(found)} headings '## {version()} - <date>'")
    return found[0]


if __name__ == "__main__":
    sys.stdout.write(notes(sys.argv[1]) + "\n")
