"""What a run of the tests does without some of the frameworks."""

import os
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parent.parent


def pytest_with(*arguments, **environment):
    command = [sys.executable, "-m", "pytest", "-p", "no:cacheprovider", *arguments]
    ran = subprocess.run(
        command, cwd=ROOT, env={**os.environ, **environment},
        capture_output=True, text=True, check=False,
    )  # fmt: skip
    return ran.returncode, ran.stdout + ran.stderr


@pytest.mark.parametrize(
    ("arguments", "environment"),
    [(["--frameworks=numpy"], {}), ([], {"EMBNOISE_FRAMEWORKS": "numpy"})],
    ids=["option", "variable"],
)
def test_what_is_not_selected_is_skipped_with_the_reason(arguments, environment):
    folders = {"tests/torch": "torch", "tests/jax": "jax", "backends/embnoise_keras": "keras"}
    code, output = pytest_with(*arguments, *folders, "tests/test_noise.py", **environment)
    assert code == 0, output
    assert "frameworks: numpy; " in output
    for folder, framework in folders.items():
        assert f"{folder}: {framework} is not " in output
    assert " passed" in output


@pytest.mark.parametrize("name", ["torhc", "jax,torhc"])
def test_an_unknown_framework_is_a_usage_error(name):
    code, output = pytest_with("--frameworks", name, "tests/test_noise.py")
    assert code == 4
    assert "--frameworks takes numpy, torch, jax, keras, got 'torhc'" in output


def test_a_framework_that_is_not_installed_cannot_be_selected():
    code, output = pytest_with("--frameworks=keras", "tests/test_noise.py", KERAS_BACKEND="absent")
    assert code == 4
    assert "--frameworks names keras, but " in output
    assert " is not installed" in output
