"""Data-parallel replicas draw noise of their own."""

import os
import subprocess
import sys
from pathlib import Path

import keras
import pytest


@pytest.mark.skipif(keras.backend.backend() != "tensorflow", reason="it has the strategy")
def test_two_replicas_of_a_mirrored_strategy():
    script = Path(__file__).with_name("replicas.py")
    ran = subprocess.run(
        [sys.executable, str(script)],
        env={**os.environ, "TF_CPP_MIN_LOG_LEVEL": "3"},
        capture_output=True, text=True, check=False, timeout=600,
    )  # fmt: skip
    assert ran.stdout.strip() == "replicated", ran.stderr
