"""Hooks of MkDocs: pages that are made of files outside ``docs``, and links to such files.

The same Markdown is read on GitHub, where a link leads to a file of the repository. On the site,
what is a page leads to that page, and everything else to GitHub.
"""

from __future__ import annotations

import posixpath
import re
from pathlib import Path
from typing import Any

from mkdocs.structure.files import File, Files
from mkdocs.structure.pages import Page

ROOT = Path(__file__).parent.parent
GITHUB = "https://github.com/embnoise/embnoise"
MADE = {
    "index.md": "README.md",
    "contributing.md": "CONTRIBUTING.md",
    "changelog.md": "CHANGELOG.md",
}
"""The file of the repository that each page is made of."""
PICTURE = re.compile(r"^!\[[^\]]*\]\((\S+)\)$", re.MULTILINE)
LOOKED_UP = ("reference/", "checks.md", "changelog.md")
"""Pages with so many headings that the search would list them before any guide."""
LINK = re.compile(r"(?<=\]\()(?!https?:|#)([^)\s#]+)")


def on_files(files: Files, config: Any) -> Files:
    """Add the pages that are made of files outside ``docs``."""
    for page, source in MADE.items():
        files.append(File.generated(config, page, content=(ROOT / source).read_text()))
    return files


def on_page_markdown(markdown: str, page: Page, config: Any, files: Files) -> str:
    """Make links between files of the repository links of the site, and of each picture a link.

    On a phone, a picture is too small to read; the link shows it in its own size.
    """
    source = MADE.get(page.file.src_uri)
    if source:
        page.edit_url = f"{GITHUB}/edit/main/{source}"
    if page.file.src_uri.startswith(LOOKED_UP):
        page.meta["search"] = {"boost": 0.01}
    folder = posixpath.dirname(source or f"docs/{page.file.src_uri}")
    here = posixpath.dirname(page.file.src_uri)
    markdown = PICTURE.sub(r"[\g<0>](\1)", markdown)
    return LINK.sub(lambda link: _target(link[1], folder, here), markdown)


def _target(link: str, folder: str, here: str) -> str:
    """Where a link leads that a file in ``folder`` has, from a page in ``here``."""
    path = posixpath.normpath(posixpath.join(folder, link))
    pages = {source: page for page, source in MADE.items()}
    page = pages.get(path, path.removeprefix("docs/") if path.startswith("docs/") else None)
    if page is None:
        return f"{GITHUB}/{'tree' if (ROOT / path).is_dir() else 'blob'}/main/{path}"
    return posixpath.relpath(page, here or ".")
