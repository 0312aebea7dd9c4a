"""The decorator and the plugin, in pytest runs of their own."""

import os
import re
import subprocess
import sys
from importlib.metadata import entry_points

import pytest

LAYERS = """
import embnoise, numpy
from embnoise import neftune

def make_layer(*, dim, alpha, seed):
    noise = neftune(alpha, seed=seed)
    def layer(x, *, training, step):
        return embnoise.add_noise(x, noise, training=training, step=step)
    return layer
"""

TESTS = """
from layers import make_layer
from embnoise.testing import Claims, case, parametrize_with_checks

PADDED = case("Padded", make_layer, driver="numpy", claims=Claims(length="padded"))
TOKENS = case(
    "Tokens", make_layer, driver="numpy",
    expected_failures={"EN09": "padding gets noise", "EN02": "it was wrong once"},
)

@parametrize_with_checks([PADDED, TOKENS])
def test_noise(check):
    check()
"""

PROBE = """
import sys

def pytest_unconfigure(config):
    tops = {name.partition(".")[0] for name in sys.modules}
    heavy = {"embnoise", "numpy", "torch", "jax", "keras", "tensorflow", "flax", "numba"}
    print("imported:", *sorted(tops & (heavy | {"pytest_embnoise"})))
"""


# Other plugins that happen to be installed may import what they like.
ALONE = ("-p", "pytest_embnoise"), {"PYTEST_DISABLE_PLUGIN_AUTOLOAD": "1"}


def pytest_in(folder, *arguments, **environment):
    command = [sys.executable, "-m", "pytest", "-p", "no:cacheprovider", *arguments]
    environment = {**os.environ, **environment}
    ran = subprocess.run(
        command, cwd=folder, env=environment, capture_output=True, text=True, check=False
    )
    return ran.returncode, ran.stdout + ran.stderr


@pytest.fixture
def folder(tmp_path):
    (tmp_path / "layers.py").write_text(LAYERS)
    (tmp_path / "test_layers.py").write_text(TESTS)
    return tmp_path


def test_its_presence_imports_nothing(tmp_path):
    (tmp_path / "conftest.py").write_text(PROBE)
    (tmp_path / "test_one.py").write_text("def test_one():\n    pass\n")
    code, output = pytest_in(tmp_path, "-q", "-s", *ALONE[0], **ALONE[1])
    assert code == 0, output
    assert "imported: pytest_embnoise\n" in output
    assert "embnoise:" not in output  # nor does it say anything


def test_the_probe_would_notice(tmp_path):
    (tmp_path / "conftest.py").write_text(PROBE)
    (tmp_path / "test_one.py").write_text("import embnoise\n\ndef test_one():\n    pass\n")
    output = pytest_in(tmp_path, "-q", "-s", *ALONE[0], **ALONE[1])[1]
    assert "imported: embnoise numpy pytest_embnoise\n" in output


def test_pytest_finds_it_by_itself(tmp_path):
    (plugin,) = entry_points(group="pytest11", name="embnoise")
    assert plugin.value == "pytest_embnoise"
    assert "--embnoise-profile" in pytest_in(tmp_path, "--help")[1]


def test_every_check_is_a_test(folder):
    code, output = pytest_in(folder, "-rA", "--embnoise-profile", "quick")
    assert code == 1
    test = "test_layers.py::test_noise"
    assert f"PASSED {test}[Padded-EN05_same_seed_same_noise[float32]]" in output
    assert re.search(r"SKIPPED \[\d+\] .*: not claimed: antithetic=False", output)
    assert f"XFAIL {test}[Tokens-EN09_padding_untouched[float32]] - padding gets noise (" in output
    assert f"FAILED {test}[Tokens-EN02_eval_is_identity[float16]] - " in output
    assert "passes, but was expected to fail: it was wrong once" in output
    assert f"FAILED {test}[Tokens-EN19_length_of_ragged_rows[float32]]" in output
    assert "L is the row's width, padding included" in output
    assert "run.py" not in output  # no traceback from inside the kit
    assert "4 failed" in output.splitlines()[-1]


def test_the_options_reach_the_checks(folder):
    (folder / "test_layers.py").write_text(
        TESTS.replace("    check()", "    print(check.check.profile.name, check.check.seed)")
    )
    assert "default 0\n" in pytest_in(folder, "-s")[1]
    given = ("--embnoise-profile=nightly", "--embnoise-seed=7")
    output = pytest_in(folder, "-s", *given)[1]
    assert "embnoise: profile nightly, seed 7" in output
    assert "nightly 7\n" in output
    assert "default 0\n" not in output
    drawn = [pytest_in(folder, "-s", "--embnoise-seed=random")[1] for _ in range(2)]
    seeds = [re.search(r"embnoise: seed (\d+)", each)[1] for each in drawn]
    assert seeds[0] != seeds[1]
    assert all(f"default {seed}\n" in each for seed, each in zip(seeds, drawn, strict=True))


@pytest.mark.parametrize("option", ["--embnoise-profile=fast", "--embnoise-seed=soon"])
def test_a_wrong_option_is_a_usage_error(folder, option):
    code, output = pytest_in(folder, option)
    assert code == 4
    assert option.partition("=")[0] in output
