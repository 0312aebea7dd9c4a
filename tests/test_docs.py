"""The documentation: its Python runs, its links lead somewhere, and it names what is public."""

import re
from importlib import import_module
from pathlib import Path

import pytest

import embnoise
from embnoise.testing.registry import CHECKS
from tests.frameworks import named_in, needs, params
from tests.testing import table

ROOT = Path(__file__).parent.parent
PAGES = sorted([ROOT / "README.md", *(ROOT / "docs").glob("*.md")])


def blocks(page):
    return re.findall(r"```python\n(.*?)```", page.read_text(), re.DOTALL)


def imports(page):
    return "\n".join(re.findall(r"^\s*(?:import|from) .*", "".join(blocks(page)), re.MULTILINE))


RUNNABLE = [page for page in PAGES if page.name != "README.md" and blocks(page)]


@pytest.mark.parametrize(
    "page",
    [pytest.param(page, marks=needs(*named_in(imports(page))), id=page.name) for page in RUNNABLE],
)
def test_the_python_of_a_page_runs(page):
    for block in blocks(page):
        exec(compile(block, str(page), "exec"), {})  # noqa: S102, our own


@needs("torch")
def test_the_python_of_the_readme_runs():
    """Its first block is about a model and a loop of the reader's."""
    import torch  # noqa: PLC0415

    model = torch.nn.Sequential(torch.nn.Embedding(10, 8), torch.nn.Linear(8, 1))
    seen = []

    def train(model, optimizer):
        ids = torch.tensor([[1, 2, 3]])
        seen.append(not torch.equal(model(ids), model(ids)))

    names = {"model": model, "optimizer": torch.optim.SGD(model.parameters()), "train": train}
    for block in blocks(ROOT / "README.md"):
        exec(compile(block, "README.md", "exec"), names)  # noqa: S102, our own
    assert seen == [True]


@pytest.mark.parametrize("page", [*PAGES, ROOT / "CONTRIBUTING.md"], ids=lambda page: page.name)
def test_links_lead_somewhere(page):
    for target in re.findall(r"\]\(([^)#]+)\)", page.read_text()):
        assert target.startswith("https://") or (page.parent / target).exists(), target


@pytest.mark.parametrize(
    "package",
    params(
        *("embnoise", "embnoise.testing", "embnoise_torch", "embnoise_keras"),
        *("embnoise_jax", "embnoise_jax.nnx", "embnoise_jax.linen", "embnoise_jax.equinox"),
    ),
)
def test_all_that_is_public_is_documented(package):
    package = import_module(package)
    text = "\n".join(page.read_text() for page in PAGES)
    for name in package.__all__:
        public = getattr(package, name)
        assert public.__doc__, name
        # A handle and a schedule are got from the verbs, which the pages name.
        assert re.search(rf"\b{name}\b", text) or name in ("Handle", "Schedule"), name


def test_the_contributors_page_lists_every_module():
    text = (ROOT / "CONTRIBUTING.md").read_text()
    for package in (ROOT / "embnoise", *(ROOT / "backends").glob("embnoise_*")):
        for module in (*package.glob("*.py"), *package.glob("testing/*.py")):
            private = module.name.startswith("_") or module.name == "namespace.py"
            assert private or module.name in text, module


def test_the_changelog_and_the_version_agree():
    assert "## Unreleased" in (ROOT / "CHANGELOG.md").read_text()
    assert re.fullmatch(r"\d+\.\d+\.\d+", embnoise.__version__)


@needs("torch", "jax", "keras")
def test_the_table_of_faults_is_that_of_the_layers():
    assert table.PAGE.read_text() == table.page_with_the_table()


@needs("torch", "jax", "keras")
def test_every_check_is_documented_and_has_a_layer_that_it_must_catch():
    faults = [layer for framework in table.FRAMEWORKS for layer in table.faults(framework)]
    # EN01 is about factories and layers that cannot be called: tests/testing/test_kit.py.
    assert {layer.caught_by for layer in faults} | {"EN01"} == set(CHECKS)
    assert len(faults) >= 40 + 12 + 12
