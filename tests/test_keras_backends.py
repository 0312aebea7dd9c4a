"""Keras on its other backends: a process can have one only, so each group of tests gets its own.

The groups are short, so that processes of pytest-xdist share them out. What does not depend on the
backend is shown once, on TensorFlow: that the kit names faults, which embedding and which mask of
the models of keras-hub is found, sequential models, which are functional ones inside, and the
messages for wrong arguments. How JAX and PyTorch round a sum is shown by themselves.
"""

import os
import subprocess
import sys
from pathlib import Path

import pytest

from tests.frameworks import KERAS_BACKEND, needs

ROOT = Path(__file__).parent.parent
# What these show depends on the backend least: of the adapter under the noise, another group tells.
SLOW = {
    "jax": {"answers", "attach", "kit", "masks", "models", "properties", "state"},
    "torch": {"attach", "kit", "layer", "masks", "models", "properties", "state"},
}
# The files, what is left out of them, and how many tests pass at least.
GROUPS = {
    "properties": (["test_properties.py"], [], 15),
    "answers": (
        ["test_known_answers.py", "test_random_state.py", "test_errors.py"],
        ["within_one_ulp"],
        35,
    ),
    "attach": (
        [
            *("keras/test_attach.py", "keras/test_hidden_states.py", "keras/test_logger.py"),
            "keras/test_unused_blocks.py",
        ],
        ["wrong_calls", "sequential"],
        43,
    ),
    "layer": (
        [
            *("keras/test_layer.py", "keras/test_keras_own_tests.py"),
            *("keras/test_masks_in_fit.py", "keras/test_loops.py", "keras/test_lost_masks.py"),
        ],
        [],
        41,
    ),
    "state": (
        [
            *("keras/test_state.py", "keras/test_compat.py", "keras/test_compat_graph.py"),
            "keras/test_numpy_arrays.py",
        ],
        ["wrong_st"],
        30,
    ),
    "masks": (
        [
            *("keras/test_masks.py", "keras/test_graph_masks.py", "keras/test_nested_inputs.py"),
            *("keras/test_variadic_calls.py", "keras/test_quantized.py"),
            *("keras/test_training_defaults.py", "keras/test_computed_ids.py"),
            *("keras/test_untold_masks.py", "keras/test_whose_mask.py"),
            *("keras/test_known_values.py", "keras/test_row_parts.py"),
            "keras/test_graph_mask_sources.py",
        ],
        ["names_its_inputs"],
        163,
    ),
    "models": (["keras/test_hub.py"], ["gemma", "gpt2", "bert", "bool_masks", "two_noises"], 2),
    "kit": (["testing/test_keras.py"], ["a_fault_is_named", "no_false_alarm", "attach"], 5),
}


@pytest.mark.skipif(KERAS_BACKEND != "tensorflow", reason="this is such a process")
@pytest.mark.parametrize(
    ("backend", "group"),
    [
        pytest.param(
            backend,
            group,
            marks=[needs(backend), *([pytest.mark.sweep] if group in SLOW[backend] else [])],
        )
        for backend in ("jax", "torch")
        for group in GROUPS
    ],
)
def test_the_suite_holds(backend, group):
    files, left_out, least = GROUPS[group]
    ran = subprocess.run(
        [
            *(sys.executable, "-m", "pytest", "-q", "-p", "no:cacheprovider", "-p", "no:xdist"),
            *("--frameworks", "keras"),
            *(f"tests/{name}" for name in files),
            *("-k", " and not ".join(["keras", *left_out])),
        ],
        cwd=ROOT,
        env={**os.environ, "KERAS_BACKEND": backend},
        capture_output=True,
        text=True,
        check=False,
    )
    assert ran.returncode == 0, ran.stdout[-4000:]
    passed = int(ran.stdout.split(" passed")[0].split()[-1])
    assert passed >= least, ran.stdout[-500:]
