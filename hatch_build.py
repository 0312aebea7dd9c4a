"""The README as the package index shows it: what it links to lies in the repository."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

from hatchling.metadata.plugin.interface import MetadataHookInterface

REPOSITORY = "https://github.com/embnoise/embnoise"
RELATIVE = re.compile(r"(!?)(\[[^\]]*\]\()(?!https://|#)")


class ReadmeHook(MetadataHookInterface):
    """Makes the links of README.md absolute, to the files of the version that is built."""

    def update(self, metadata: dict[str, Any]) -> None:
        """Add the README to what the package index is told."""
        tag = f"v{metadata['version']}"

        def absolute(link: re.Match[str]) -> str:
            image, text = link.groups()
            return f"{image}{text}{REPOSITORY}/{'raw' if image else 'blob'}/{tag}/"

        text = RELATIVE.sub(absolute, Path(self.root, "README.md").read_text())
        metadata["readme"] = {"content-type": "text/markdown", "text": text}
