"""The API reference has every public name, with its docstring."""

import ast
import re

import pytest

from tests.site.conftest import ROOT
from tests.test_docs import PAGES, blocks, imports

PAGE_OF = {
    module: path.stem
    for path in (ROOT / "docs" / "reference").glob("*.md")
    for module in re.findall(r"^::: (\S+)$", path.read_text(), re.MULTILINE)
}


def source_of(module):
    base = ROOT if module.partition(".")[0] == "embnoise" else ROOT / "backends"
    path = base.joinpath(*module.split("."))
    return path / "__init__.py" if path.is_dir() else path.with_suffix(".py")


def public_names(module):
    """``__all__``, without importing the module: its framework may be missing."""
    for node in ast.parse(source_of(module).read_text()).body:
        if isinstance(node, ast.Assign) and ast.unparse(node.targets[0]) == "__all__":
            return ast.literal_eval(node.value)
    raise AssertionError(f"{module} has no __all__")


def test_the_modules_that_the_documentation_imports_are_listed():
    """Those of Python blocks, and in configuration files the names of plug-ins."""
    text = "".join(code for page in PAGES for _, code in blocks(page, "python", "py"))
    plugins = "".join(code for page in PAGES for _, code in blocks(page, "yaml"))
    named = {name for name in imports(text) if re.match(r"embnoise(_torch|_jax|_keras)?\b", name)}
    named |= set(re.findall(r"\b(embnoise_\w+\.\w+)\.\w+", plugins))
    assert "embnoise_torch.axolotl" in named
    assert named <= PAGE_OF.keys()


def test_the_first_page_lists_the_modules_of_each_page():
    rows = re.findall(r"^\| \[(.*?)\]\((.*?)\.md\) \| (.*) \|$", index(), re.MULTILINE)
    assert {page: re.findall("`(.*?)`", modules) for _, page, modules in rows} == {
        page: [module for module in PAGE_OF if PAGE_OF[module] == page] for page in PAGE_OF.values()
    }


def index():
    return (ROOT / "docs" / "reference" / "index.md").read_text()


@pytest.mark.parametrize("module", sorted(PAGE_OF))
def test_every_public_name_is_there(module, site):
    page = (site / "reference" / PAGE_OF[module] / "index.html").read_text()
    for name in public_names(module):
        heading = f'id="{module}.{name}"'
        assert page.count(heading) == 1, name
        described = page.partition(heading)[2].partition('<div class="doc doc-object ')[0]
        assert re.search(r'<div class="doc doc-contents ">\s*<p>', described), name


def test_examples_are_code(site):
    """Griffe takes Google's ``Example:`` for a note, whose prompts would be quotations."""
    for page in set(PAGE_OF.values()):
        text = (site / "reference" / page / "index.html").read_text()
        assert "<blockquote>" not in text
        assert "<p>&gt;&gt;&gt;" not in text


def test_what_a_list_says_of_a_name_is_whole(site):
    """Lists show the first line of a docstring, where a sentence may not end."""
    item = re.compile(r'<li class="doc-section-item .*?</li>', re.DOTALL)
    for page in set(PAGE_OF.values()):
        found = item.findall((site / "reference" / page / "index.html").read_text())
        assert found, page
        texts = [re.sub(r"<.*?>", "", each, flags=re.DOTALL).rstrip() for each in found]
        assert [text for text in texts if not text.endswith((".", ")", ":"))] == [], page


def test_docstrings_are_read_as_markdown(site):
    """No role of Sphinx is left, and two powers (2**14, 2**16) in a sentence are not bold text."""
    titles = r"[A-Z][a-z]+:"  # of sections such as Parameters
    for page in set(PAGE_OF.values()):
        text = (site / "reference" / page / "index.html").read_text()
        assert not re.search(r":(func|class|meth|mod|attr|data|exc):|::</p>", text), page
        bold = re.findall(r"<strong>(?!\s*<|\w+</strong>)(.*?)</strong>", text, re.DOTALL)
        assert all(re.fullmatch(titles, each) for each in bold), bold
