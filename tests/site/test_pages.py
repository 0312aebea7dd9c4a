"""The built site: its links lead somewhere, and it is complete without a network."""

import re
from html.parser import HTMLParser
from urllib.parse import unquote, urljoin, urlsplit

import pytest

from tests.site.conftest import ROOT
from tests.test_docs import PAGES

HERE = "https://site/"
GITHUB = re.compile(r"https://github\.com/embnoise/embnoise/(?:blob|tree|edit)/main/([^#]+)")
CONFIGURATION = (ROOT / "mkdocs.yml").read_text()
NAVIGATION = re.findall(r"([\w./-]+\.md)$", CONFIGURATION, re.MULTILINE)


class Page(HTMLParser):
    """The ids of a page, where it leads, and what it loads."""

    def __init__(self, text):
        super().__init__()
        self.ids, self.links, self.loads = set(), set(), set()
        self.feed(text)

    def handle_starttag(self, tag, attributes):
        found = dict(attributes)
        self.ids |= {found[name] for name in ("id", "name") if found.get(name)}
        if tag in ("a", "area") and found.get("href"):
            self.links.add(found["href"])
        elif tag == "link" and found.get("rel") in ("stylesheet", "icon", "preload"):
            self.loads.add(found["href"])
        elif tag != "a" and found.get("src"):
            self.loads.add(found["src"])


@pytest.fixture(scope="module")
def pages(site):
    """The pages by their addresses, ``.../`` for ``.../index.html``."""
    return {
        urljoin(HERE, str(path.relative_to(site)).removesuffix("index.html")): Page(
            path.read_text()
        )
        for path in site.rglob("*.html")
        if path.name != "404.html"  # its links are those of the site's own address
    }


def test_the_site_has_the_pages_of_the_navigation(pages):
    assert len(pages) == len(NAVIGATION) > 30


def test_links_lead_somewhere(site, pages):
    wrong = []
    for address, page in pages.items():
        for link in page.links | page.loads:
            target, _, anchor = urljoin(address, link).partition("#")
            if not target.startswith(HERE):
                continue
            if target in pages:
                found = not anchor or unquote(anchor) in pages[target].ids
            else:
                found = (site / urlsplit(target).path.lstrip("/")).is_file()
            if not found:
                wrong.append((address, link))
    assert not wrong


def test_links_to_the_repository_name_files_of_it(pages):
    links = {link for page in pages.values() for link in page.links}
    files = {match[1] for match in map(GITHUB.match, links) if match}
    assert len(files) > 20
    assert not [name for name in files if not (ROOT / name).exists()]


def test_nothing_is_loaded_from_elsewhere(site, pages):
    loads = {urljoin(address, each) for address, page in pages.items() for each in page.loads}
    assert len(loads) > 5
    assert not [each for each in loads if not each.startswith((HERE, "data:"))]
    sheets = "".join(path.read_text() for path in site.rglob("*.css"))
    assert not re.findall(r"url\([\"']?https?:|@import[^;]*https?:", sheets)


def test_the_python_of_all_pages_is_run():
    """tests/test_docs.py runs the pages of docs/ and the README; others have no Python."""
    covered = {path.relative_to(ROOT / "docs").as_posix() for path in PAGES if path.parent != ROOT}
    made = {"index.md", "contributing.md", "changelog.md"}
    rest = {page for page in NAVIGATION if not page.startswith("reference/")} - covered - made
    assert not rest
    for name in ("CONTRIBUTING.md", "CHANGELOG.md", *(f"docs/{p}" for p in NAVIGATION if "/" in p)):
        assert "```python" not in (ROOT / name).read_text(), name


@pytest.mark.parametrize("path", [*PAGES, ROOT / "CONTRIBUTING.md"], ids=lambda path: path.name)
def test_every_block_of_code_names_its_language(path):
    fences = re.findall(r"^ *```(.*)$", path.read_text(), re.MULTILINE)
    assert all(fences[::2]), fences
    assert not any(fences[1::2]), fences


def test_pictures_lead_to_themselves(site):
    """On a phone, the link shows them in their own size."""
    text = "".join(path.read_text() for path in site.rglob("*.html"))
    pictures = set(re.findall(r'<img [^>]*src="([^"]+\.png)"', text))
    assert len(pictures) >= 3
    assert not [each for each in pictures if f'href="{each}"' not in text]
