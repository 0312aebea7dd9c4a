"""The core imports NumPy and the standard library alone, whatever else is installed."""

import subprocess
import sys

import pytest

PROBE = """
import sys
{imports}
import embnoise, embnoise.backend
import numpy
x = embnoise.add_noise(numpy.zeros((2, 3, 8), "float32"), embnoise.neftune(), step=0)
foreign = sorted(
    name for name, module in sys.modules.items()
    if "." not in name and "site-packages" in (getattr(module, "__file__", None) or "")
)
print(*foreign)
"""


def foreign_modules(imports=""):
    """The installed top-level modules that a new process has imported at the end."""
    # -S would hide the frameworks; -I keeps what the environment adds out.
    ran = subprocess.run(
        [sys.executable, "-I", "-c", PROBE.format(imports=imports)],
        capture_output=True, text=True, check=True,
    )  # fmt: skip
    return {name for name in ran.stdout.split() if not name.startswith("_")}


KIT = """
import embnoise._cli, embnoise.testing
layer = lambda *, dim, alpha, seed: lambda x: x
assert not embnoise.testing.check_layer(
    embnoise.testing.case("mine", layer, driver="numpy"), profile="quick", raises=False
).ok
"""


@pytest.mark.parametrize("imports", ["", KIT], ids=["core", "kit"])
def test_the_core_imports_numpy_alone(imports):
    assert foreign_modules(imports) <= {"numpy", "embnoise"}


def test_the_test_would_notice():
    assert "hypothesis" in foreign_modules("import hypothesis")


def test_the_linter_refuses_a_framework_in_the_core():
    pytest.importorskip("ruff")
    ran = subprocess.run(
        [sys.executable, "-m", "ruff", "check", "--stdin-filename", "embnoise/noise.py", "-"],
        input="import torch\n", capture_output=True, text=True, check=False,
    )  # fmt: skip
    assert "TID251" in ran.stdout
