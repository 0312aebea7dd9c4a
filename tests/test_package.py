"""The distribution: what it installs, and how adapters are found."""

import subprocess
import sys
import zipfile
from importlib.metadata import entry_points, requires, version
from pathlib import Path

import embnoise
import embnoise_torch

ROOT = Path(__file__).parent.parent


def test_adapters_are_found_through_their_entry_point():
    found = {entry.name: entry.load() for entry in entry_points(group="embnoise.backends")}
    assert found["torch"] is embnoise_torch
    assert {"add_noise", "EmbeddingNoise", "attach"} <= set(found["torch"].__all__)


def test_the_wheel_holds_the_packages_side_by_side(tmp_path):
    build = [sys.executable, "-m", "hatchling", "build", "-t", "wheel", "-d", str(tmp_path)]
    subprocess.run(build, cwd=ROOT, check=True, capture_output=True)
    (wheel,) = tmp_path.glob("*.whl")
    names = zipfile.ZipFile(wheel).namelist()
    assert {"embnoise/noise.py", "embnoise/py.typed", "embnoise_torch/py.typed"} <= set(names)
    tops = {name.split("/")[0] for name in names}
    assert tops == {"embnoise", "embnoise_torch", f"embnoise-{embnoise.__version__}.dist-info"}


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
