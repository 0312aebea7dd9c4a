"""The distribution: what it installs, and how adapters are found."""

import itertools
import re
import tomllib
from importlib import import_module
from importlib.metadata import entry_points, requires, version
from pathlib import Path

import embnoise_lists
import pytest

import embnoise
from tests.frameworks import params

ROOT = Path(__file__).parent.parent


@pytest.mark.parametrize("name", params("torch", "jax", "keras", "lists"))
def test_an_adapter_is_found_through_its_entry_point(name):
    (entry,) = entry_points(group="embnoise.backends", name=name)
    adapter = entry.load()
    assert adapter is import_module(f"embnoise_{name}")
    assert "add_noise" in adapter.__all__


@pytest.mark.parametrize(
    "name",
    params(
        *("embnoise_torch", "embnoise_keras"),
        *("embnoise_jax.nnx", "embnoise_jax.linen", "embnoise_jax.equinox"),
    ),
)
def test_a_module_for_training_has_the_three_verbs(name):
    assert {"EmbeddingNoise", "attach"} <= set(import_module(name).__all__)


def test_the_documentation_says_how_many_lines_an_adapter_takes():
    lines = len(Path(embnoise_lists.__file__).read_text().splitlines())
    tens = lines // 10 * 10 + 10
    assert f"in under {tens} lines" in (ROOT / "docs" / "adapters.md").read_text()


def test_the_core_alone_needs_numpy_alone():
    assert version("embnoise") == embnoise.__version__
    always = [need for need in requires("embnoise") if "extra ==" not in need]
    assert always == ["numpy>=2.1"]


def test_the_minimums_are_those_that_are_declared():
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    extras = project["optional-dependencies"].values()
    needs = [*project["dependencies"], *itertools.chain.from_iterable(extras)]
    declared = {re.sub(">=(.*?)(;.*)?$", r"==\1", need) for need in needs if ">=" in need}
    lines = (ROOT / "minimums.txt").read_text().splitlines()
    assert declared == {line for line in lines if not line.startswith("#")}
