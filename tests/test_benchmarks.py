"""The benchmarks run; their figures are for people to read."""

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

from tests.frameworks import needs

BENCHMARKS = Path(__file__).parents[1] / "benchmarks"


def run(script, *arguments):
    """What a benchmark prints; it must not fail, nor warn."""
    command = [sys.executable, "-W", "error::UserWarning", str(BENCHMARKS / script), *arguments]
    ran = subprocess.run(command, capture_output=True, text=True, env=os.environ, check=False)
    assert ran.returncode == 0, ran.stderr
    return ran.stdout


@needs("torch")
def test_the_gpu_benchmark_runs_on_a_cpu(tmp_path):
    pytest.importorskip("transformers")
    pytest.importorskip("matplotlib")
    out = run("gpu.py", "--device", "cpu", "--quick", "--out", str(tmp_path))
    report = json.loads((tmp_path / "gpu.json").read_text())
    assert "elements as on the CPU" in out
    assert {each["dtype"] for each in report["lookups"]} == {"bfloat16", "float16", "float32"}
    assert report["training_step_milliseconds"].keys() == {"plain", "embnoise", "transformers"}
    assert (tmp_path / "gpu.png").stat().st_size > 0


@needs("torch")
@pytest.mark.sweep
def test_fixed_cost():
    pytest.importorskip("transformers")
    assert run("overhead.py", "--quick").count("embnoise adds") == 2


@needs("keras")
@pytest.mark.sweep
def test_lengths_in_fit():
    assert "with noise" in run("lengths.py", "--quick")
