"""Keras on its other backends: a process can have one only, so each gets a process of its own."""

import os
import subprocess
import sys
from pathlib import Path

import pytest

from tests.frameworks import KERAS_BACKEND, params

ROOT = Path(__file__).parent.parent
SUITE = ["test_properties.py", "test_known_answers.py", "test_random_state.py", "test_errors.py"]


@pytest.mark.skipif(KERAS_BACKEND != "tensorflow", reason="this is such a process")
@pytest.mark.parametrize("backend", params("jax", "torch"))
def test_the_suite_holds(backend):
    ran = subprocess.run(
        [
            *(sys.executable, "-m", "pytest", "-q", "-p", "no:cacheprovider"),
            *("--frameworks", "keras"),
            *(f"tests/{name}" for name in SUITE),
            *("tests/keras", "tests/testing/test_keras.py"),
            # That faults are named is shown once, on TensorFlow.
            *("-k", "keras and not test_a_fault_is_named and not test_no_false_alarm"),
        ],
        cwd=ROOT,
        env={**os.environ, "KERAS_BACKEND": backend},
        capture_output=True,
        text=True,
        check=False,
    )
    assert ran.returncode == 0, ran.stdout[-4000:]
    passed = int(ran.stdout.split(" passed")[0].split()[-1])
    assert passed > 100, ran.stdout[-500:]
