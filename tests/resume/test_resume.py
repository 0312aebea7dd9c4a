"""A run that is killed and resumed ends with the weights of a run that was not, bit for bit."""

import json
import os
import signal
import subprocess
import sys
from pathlib import Path

import pytest

from tests.frameworks import needs

ROOT = Path(__file__).parents[2]


def run(name, folder, *options, **environment):
    return subprocess.run(
        [sys.executable, "-m", "tests.resume.run", name, str(folder), *options],
        cwd=ROOT,
        env={
            **os.environ,
            "PYTHONPATH": os.pathsep.join([str(ROOT), str(ROOT / "backends")]),
            **environment,
        },
        capture_output=True,
        text=True,
        check=False,
    )


def program(name, framework, kill, **environment):
    """One case: the module, and at which of its calls of ``kill`` it is killed."""
    backend = environment.get("KERAS_BACKEND")
    return pytest.param(
        name,
        kill,
        environment,
        marks=needs(framework),
        id=f"{name}-{backend}" if backend else name,
    )


@pytest.mark.sweep
@pytest.mark.parametrize(
    ("name", "kill", "environment"),
    [
        program("transformers_trainer", "torch", 6),
        program("accelerate_loop", "torch", 6),
        program("trl_sft", "torch", 5),
        program("lightning_fit", "torch", 6),
        program("deepspeed_zero", "torch", 7),
        program("nnx_orbax", "jax", 5),
        *(
            program(name, "keras", 5, KERAS_BACKEND=backend)
            for name in ("keras_fit", "keras_layer")
            for backend in ("tensorflow", "jax", "torch")
        ),
    ],
)
def test_killed_and_resumed(name, kill, environment, tmp_path):
    killed = run(name, tmp_path, "--kill", str(kill), **environment)
    assert killed.returncode == -signal.SIGKILL, killed.stderr[-3000:]
    resumed = run(name, tmp_path, **environment)
    assert resumed.returncode == 0, resumed.stderr[-3000:]
    found = json.loads(resumed.stdout.splitlines()[-1])
    assert found["same"] == found["weights"] > 0, found
    assert 0 < found["resumed"] < found["whole"], found  # it did go on from a checkpoint
    assert found["same_lookups"], found
    assert found["all_differ"], found
