"""The distribution: what it installs, and how adapters are found."""

import subprocess
import sys
import zipfile
from importlib.metadata import entry_points, requires, version
from pathlib import Path

import embnoise_lists

import embnoise
import embnoise_jax
import embnoise_keras
import embnoise_torch
from embnoise_jax import equinox, linen, nnx

ROOT = Path(__file__).parent.parent


def test_adapters_are_found_through_their_entry_point():
    found = {entry.name: entry.load() for entry in entry_points(group="embnoise.backends")}
    assert found["torch"] is embnoise_torch
    assert found["jax"] is embnoise_jax
    assert found["keras"] is embnoise_keras
    assert found["lists"] is embnoise_lists  # a third party's
    assert all("add_noise" in adapter.__all__ for adapter in found.values())
    for module in (embnoise_torch, embnoise_keras, nnx, linen, equinox):
        assert {"EmbeddingNoise", "attach"} <= set(module.__all__)


def test_the_documentation_says_how_many_lines_an_adapter_takes():
    code = Path(embnoise_lists.__file__).read_text()
    lines = [line for line in code.splitlines() if line.strip()]
    assert f"{len(lines)} lines" in (ROOT / "docs" / "adapters.md").read_text()


def test_the_wheel_holds_the_packages_side_by_side(tmp_path):
    build = [sys.executable, "-m", "hatchling", "build", "-t", "wheel", "-d", str(tmp_path)]
    subprocess.run(build, cwd=ROOT, check=True, capture_output=True)
    (wheel,) = tmp_path.glob("*.whl")
    names = zipfile.ZipFile(wheel).namelist()
    packages = {"embnoise", "embnoise_torch", "embnoise_jax", "embnoise_keras", "pytest_embnoise"}
    assert {
        "embnoise/noise.py",
        "embnoise/testing/checks/seeds.py",
        *(f"{name}/py.typed" for name in packages),
    } <= set(names)
    tops = {name.split("/")[0] for name in names}
    assert tops == {*packages, f"embnoise-{embnoise.__version__}.dist-info"}


def test_the_core_alone_needs_numpy_alone():
    assert version("embnoise") == embnoise.__version__
    always = [need for need in requires("embnoise") if "extra ==" not in need]
    assert always == ["numpy>=2.0"]


def test_constraints_pin_what_the_tests_need():
    pinned = dict(
        line.split("==") for line in (ROOT / "constraints.txt").read_text().split() if "==" in line
    )
    assert pinned["torch"] == "2.13.0"
    for name, wanted in pinned.items():
        assert version(name).split("+")[0] == wanted, name
