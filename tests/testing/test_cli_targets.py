"""What the command says of a target that is not one, and of one that raises, exits or prints."""

import json
import re
import sys

import pytest

from embnoise._cli import main
from embnoise.testing import Claims, case

LAYERS = """
import sys

import embnoise

def raising(*, dim, alpha, seed):
    raise RuntimeError("no weights here")

def exiting(*, dim, alpha, seed):
    sys.exit(3)

def nothing(*, dim, alpha, seed):
    pass

def printing(*, dim, alpha, seed):
    noise = embnoise.neftune(alpha, seed=seed)

    def layer(x, *, training, mask, step):
        print("called")
        return embnoise.add_noise(x, noise, training=training, mask=mask, step=step)

    return layer
"""


@pytest.fixture(autouse=True)
def _here(tmp_path, monkeypatch):
    (tmp_path / "layers_of_targets.py").write_text(LAYERS)
    (tmp_path / "exits_at_once.py").write_text("raise SystemExit(3)")
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sys, "path", list(sys.path))
    yield
    sys.modules.pop("layers_of_targets", None)


@pytest.mark.parametrize(
    ("target", "says"),
    [
        ("layers_of_targets:raising", r"seed=0\) raised RuntimeError: no weights here"),
        ("layers_of_targets:exiting", r"seed=0\) raised SystemExit: 3"),
        ("layers_of_targets:nothing", r"seed=0\) returned None"),
        ("exits_at_once:make", "importing exits_at_once raised SystemExit: 3"),
        ("./layers_of_targets.py:printing", r"did you mean layers_of_targets:printing\?"),
        ("layers_of_targets.py:printing", r"did you mean layers_of_targets:printing\?"),
        (".layers_of_targets:printing", r"did you mean layers_of_targets:printing\?"),
        ("some/layers:printing", r"did you mean some.layers:printing\?"),
        ("/elsewhere/layers.py:x", r"did you mean layers:x in the folder /elsewhere\?"),
    ],
)
def test_a_target_that_is_none_is_an_error_that_says_why(target, says, capsys):
    assert main(["check", target]) == 2
    seen = capsys.readouterr()
    assert re.search(says, seen.err)
    assert not seen.out


def test_the_module_of_a_file_here_is_named(tmp_path, capsys):
    assert main(["check", f"{tmp_path}/layers_of_targets.py:printing"]) == 2
    assert "did you mean layers_of_targets:printing?" in capsys.readouterr().err


def test_what_a_layer_prints_is_not_mixed_with_json(capsys):
    target = "layers_of_targets:printing"
    assert main(["check", target, "--driver", "numpy", "--profile", "quick", "--json"]) == 0
    seen = capsys.readouterr()
    assert json.loads(seen.out)["ok"]
    assert "called" in seen.err


def test_a_distribution_that_raises_is_named():
    with pytest.raises(ValueError, match=r"distribution '<lambda>' .* ZeroDivisionError: division"):
        Claims(distribution=lambda p: 1 / 0)


def test_a_dtype_that_is_none_is_answered_with_those_there_are():
    with pytest.raises(ValueError, match=r"EN09\[fp16\] must be one of \['float32', 'float16'"):
        case("mine", lambda *, dim, alpha, seed: None, driver="numpy",
             expected_failures={"EN09[fp16]": "known"})  # fmt: skip
