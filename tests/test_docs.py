"""The documentation: its Python runs, its links lead somewhere, and it names what is public."""

import re
import sys
import tomllib
from importlib import import_module
from importlib.metadata import packages_distributions
from pathlib import Path

import pytest

from embnoise._distributions import DISTRIBUTIONS
from embnoise._scales import SCALES
from embnoise._schedules import SCHEDULES
from embnoise.testing.registry import CHECKS
from tests import command_line, rule_tables
from tests.frameworks import hasty_jax, is_tested, named_in, needs, params
from tests.testing import table

ROOT = Path(__file__).parent.parent
README, ARCHITECTURE = ROOT / "README.md", ROOT / "ARCHITECTURE.md"
GUIDES = sorted((ROOT / "docs").glob("*.md"))
PAGES = [README, *GUIDES]
EXTENSIONS = sorted((ROOT / "examples" / "extensions").glob("*.py"))


def over(pages):
    return pytest.mark.parametrize("page", pages, ids=lambda page: page.name)


def blocks(page, *languages):
    """The fenced blocks of a page in these languages, each with its language."""
    found = re.findall(r"^```(\w+)\n(.*?)^```", page.read_text(), re.DOTALL | re.MULTILINE)
    return [block for block in found if block[0] in languages]


def imports(text):
    """The modules that a text imports."""
    return re.findall(r"^(?:import|from) ([\w.]+)", text, re.MULTILINE)


def frameworks_of(text):
    return named_in(" ".join(imports(text)))


def run(text, names, page):
    exec(compile(text, str(page), "exec"), names)  # noqa: S102, our own


WITH_PYTHON = [page for page in GUIDES if blocks(page, "python")]


@pytest.fixture(autouse=True)
def _registries(monkeypatch):
    """Without what other tests have registered; what a page registers is forgotten after it."""
    for registry in (DISTRIBUTIONS, SCALES, SCHEDULES):
        origins = {
            name: origin
            for name, origin in registry._origins.items()
            if origin[0].startswith("embnoise.")
        }
        monkeypatch.setattr(registry, "_origins", origins)
        rules = {name: registry[name] for name in origins}
        monkeypatch.setattr(registry, "_rules", rules)


@over(WITH_PYTHON)
def test_the_python_of_a_page_runs(page, capsys, tmp_path, monkeypatch):
    """A block of text is what the Python before it prints, with "..." for what is left out."""
    monkeypatch.chdir(tmp_path)  # some write files
    ran, printed = 0, ""
    for language, text in blocks(page, "python", "text"):
        if language == "python":
            tested = all(map(is_tested, frameworks_of(text)))
            if tested:
                with hasty_jax():
                    run(text, {}, page)
            ran, printed = ran + tested, capsys.readouterr().out
        elif tested:
            check_printed(text, printed)
    if not ran:
        pytest.skip("the frameworks of the page are not tested")


def check_printed(text, printed):
    for part in text.split("...\n"):
        assert " ".join(part.split()) in " ".join(printed.split())


def torch_names():
    """What the first block of the README takes for granted, which shows that it adds noise."""
    import torch  # noqa: PLC0415

    model = torch.nn.Sequential(torch.nn.Embedding(10, 8), torch.nn.Linear(8, 1))

    def train(model, optimizer):
        ids = torch.tensor([[1, 2, 3]])
        assert not torch.equal(model(ids), model(ids))

    return {"model": model, "optimizer": torch.optim.SGD(model.parameters()), "train": train}


def jax_names():
    from flax import nnx  # noqa: PLC0415

    return {"model": nnx.Sequential(nnx.Embed(10, 8, rngs=nnx.Rngs(0)))}


def keras_names():
    import keras  # noqa: PLC0415
    import numpy as np  # noqa: PLC0415

    model = keras.Sequential([keras.layers.Embedding(10, 8), keras.layers.Dense(1)])
    model.compile("sgd", "mse")
    return {"model": model, "ids": np.array([[1, 2, 3]]), "targets": np.zeros((1, 3, 1))}


NAMES = {"torch": torch_names, "jax": jax_names, "keras": keras_names}


@pytest.mark.parametrize(
    "text",
    [
        pytest.param(text, marks=needs(*frameworks_of(text)), id=f"block {number}")
        for number, (_, text) in enumerate(blocks(README, "python"), start=1)
    ],
)
def test_the_python_of_the_readme_runs(text, capsys):
    """Its short blocks are about a model and a loop of the reader's."""
    names = {}
    for framework in frameworks_of(text):
        names.update(NAMES[framework]())
    run(text, names, README)
    if "print(" in text:
        ((_, shown),) = blocks(README, "text")
        check_printed(shown, capsys.readouterr().out)


OPTIONAL = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]["optional-dependencies"]


def installed_by(commands):
    """The packages that ``pip install`` lines ask for, extras of embnoise included."""
    packages = {"numpy"}
    for line in re.findall(r"^pip install ([^#\n]*)", commands, re.MULTILINE):
        for name in line.replace('"', "").split():
            packages |= with_extras(name)
    return packages


def with_extras(requirement):
    name, extras = re.match(r"([\w-]+)(?:\[([\w,-]+)\])?", requirement).groups()
    packages = {name}
    if name == "embnoise" and extras:
        for extra in extras.split(","):
            packages = packages.union(*map(with_extras, OPTIONAL[extra]))
    return packages


@over([README, *WITH_PYTHON])
def test_the_extras_of_a_page_install_what_its_python_imports(page):
    code = "".join(text for _, text in blocks(page, "python"))
    commands = "".join(text for _, text in blocks(page, "sh"))
    if page is not README:
        assert blocks(page, "sh", "python")[0][1].startswith("pip install ")
    distributions = packages_distributions()
    needed = {module.split(".")[0] for module in imports(code)} - set(sys.stdlib_module_names)
    # An adapter needs its framework.
    needed = {name.removeprefix("embnoise_") for name in needed} - {"embnoise"}
    missing = {
        name for name in needed if not installed_by(commands) & {name, *distributions.get(name, ())}
    }
    assert not missing


@over([*PAGES, ROOT / "CONTRIBUTING.md", ARCHITECTURE])
def test_links_lead_somewhere(page):
    for target in re.findall(r"\]\(([^)]+)\)", page.read_text()):
        if target.startswith("https://"):
            continue
        path, _, anchor = target.partition("#")
        linked = page.parent / path if path else page
        assert linked.exists(), target
        assert not anchor or anchor in anchors(linked), target


def anchors(page):
    """Those that GitHub makes for the headings of a page."""
    headings = re.findall(r"^#+ (.*)", page.read_text(), re.MULTILINE)
    return {re.sub(r"[^\w\- ]", "", each.lower()).replace(" ", "-") for each in headings}


@pytest.mark.parametrize(
    "package",
    params(
        *("embnoise", "embnoise.backend", "embnoise.testing"),
        *("embnoise_torch", "embnoise_torch.kernels", "embnoise_torch.transformers"),
        *("embnoise_torch.lightning", "embnoise_torch.trl"),
        *("embnoise_jax", "embnoise_jax.nnx", "embnoise_jax.linen", "embnoise_jax.equinox"),
        "embnoise_keras",
    ),
)
def test_all_that_is_public_is_documented(package):
    pages = [ROOT / "docs" / "adapters.md"] if package == "embnoise.backend" else PAGES
    text = "\n".join(page.read_text() for page in pages)
    module = import_module(package)
    for name in module.__all__:
        assert getattr(module, name).__doc__, name
        assert re.search(rf"\b{name}\b", text), name


def test_the_tables_of_rules_are_those_of_the_registries():
    assert rule_tables.PAGE.read_text() == rule_tables.page_with_the_tables()


@pytest.mark.parametrize("extension", EXTENSIONS, ids=lambda path: path.stem)
def test_the_extensions_are_shown_as_they_are(extension):
    _, _, code = extension.read_text().split('"""', 2)
    shown = code.partition("def make_layer")[0].strip()
    assert shown in (ROOT / "docs" / "configuration.md").read_text()


@needs("torch")
def test_the_page_about_the_command_line_is_that_of_the_parsers():
    """Run ``python -m tests.command_line`` if this fails."""
    pytest.importorskip("trl")
    assert command_line.PAGE.read_text() == command_line.page()


def test_the_number_of_checks_is_that_of_the_registry():
    kinds = [sum(kind in each.inputs for each in CHECKS.values()) for kind in ("embeddings", "ids")]
    testing = (ROOT / "docs" / "testing.md").read_text()
    assert f"A kit of {len(CHECKS)} property tests" in README.read_text()
    assert f"has {len(CHECKS)} property tests" in testing
    assert "{} of them for a layer that takes embeddings, {} for one that takes ids".format(
        *kinds
    ) in " ".join(testing.split())


@needs("torch", "jax", "keras")
def test_the_pages_about_the_checks_are_those_of_the_code():
    for page, text in table.pages().items():
        assert page.read_text() == text


@needs("torch", "jax", "keras")
def test_every_check_is_documented_and_has_a_layer_that_it_must_catch():
    faults = [layer for framework in table.FRAMEWORKS for layer in table.faults(framework)]
    # EN01 is about factories and layers that cannot be called: tests/testing/test_kit.py.
    assert {layer.caught_by for layer in faults} | {"EN01"} == set(CHECKS)
    assert len(faults) >= 40 + 12 + 12
