"""Expected failures from a file, on the command line and in pytest."""

import pytest

from embnoise._cli import main
from embnoise.testing import case, check_layer
from embnoise.testing.expected import with_expected_failures
from tests.testing.test_kit import right
from tests.testing.test_plugin import LAYERS, pytest_in

TESTS = """
from layers import make_layer
from embnoise.testing import case, parametrize_with_checks

@parametrize_with_checks([case("Blind", make_layer, driver="numpy")])
def test_noise(check):
    check()
"""
KNOWN = """
# padding
EN09  padding gets noise, see our issue 12

Blind:EN19_length_of_ragged_rows so its length counts
make_layer:EN19 so its length counts
Other:EN08[float16]  of another case
"""


@pytest.fixture
def folder(tmp_path, monkeypatch):
    (tmp_path / "layers.py").write_text(LAYERS)
    (tmp_path / "test_it.py").write_text(TESTS)
    (tmp_path / "known.txt").write_text(KNOWN)
    monkeypatch.chdir(tmp_path)
    monkeypatch.syspath_prepend(tmp_path)
    monkeypatch.delitem(__import__("sys").modules, "layers", raising=False)
    return tmp_path


def check(*options):
    return main(["check", "layers:make_layer", "--driver", "numpy", "--profile", "quick",
                 "--expected-failures", "known.txt", *options])  # fmt: skip


def test_expected_failures_of_a_file_on_the_command_line(folder, capsys):
    assert check() == 0
    output = capsys.readouterr().out
    assert "expected failure  padding gets noise, see our issue 12 (EN09" in output


@pytest.mark.parametrize(
    ("line", "code", "says"),
    [
        ("EN02 it was wrong once", 1, "Remove EN02 from the expected failures"),
        ("EN36 pairs", 1, "is not claimed (antithetic=False), but was expected to fail"),
        ("EN17 the table", 2, "EN17 is stale: the check does not apply to make_layer"),
        (
            "EN08[bfloat16] coarse",
            2,
            "the dtype of EN08[bfloat16] must be one of ['float32', 'float16'",
        ),
        ("EN99 nothing", 2, "known.txt, line 9: expected_failures has an unknown code 'EN99'"),
        ("EN08", 2, "expected a code and a reason"),
        ("EN09 again", 2, "EN09 is expected to fail twice"),
    ],
)
def test_a_stale_or_wrong_entry_is_an_error(line, code, says, folder, capsys):
    (folder / "known.txt").write_text(f"{KNOWN}\n{line}\n")
    assert check() == code
    captured = capsys.readouterr()
    assert says in captured.out + captured.err


def test_expected_failures_of_a_file_in_pytest(folder):
    options = ("-q", "--embnoise-profile", "quick", "--embnoise-expected-failures", "known.txt")
    code, output = pytest_in(folder, *options)
    assert code == 0, output
    assert "4 xfailed" in output
    (folder / "known.txt").write_text(f"{KNOWN}\nEN02 it was wrong once\n")
    code, output = pytest_in(folder, *options, "-k", "EN02")
    assert code == 1
    assert "Remove EN02 from the expected failures" in output
    (folder / "known.txt").write_text("EN99 nothing\n")
    code, output = pytest_in(folder, *options, "-k", "EN02")
    assert code == 4
    assert "--embnoise-expected-failures: known.txt, line 1" in output


def test_a_misspelled_case_is_told(folder, capsys):
    lines = "make_layr:EN09 padding\nBlynd:EN09 padding\nOther:EN09 padding\n"
    (folder / "known.txt").write_text(f"{lines}EN09 padding\nEN19 length\n")
    assert check() == 0
    assert capsys.readouterr().err.splitlines()[0] == (
        "embnoise check: known.txt, line 1 is of no case in this run: 'make_layr' (did you mean "
        "'make_layer'?)"
    )
    (folder / "known.txt").write_text(lines)
    options = ("--embnoise-profile", "quick", "--embnoise-expected-failures", "known.txt")
    output = pytest_in(folder, *options, "-k", "EN02")[1]
    said = "embnoise: known.txt, line 2 is of no case in this run: 'Blynd' (did you mean 'Blind'?)"
    assert said in output
    assert output.count("is of no case in this run") == 1


def test_a_key_may_be_the_title_that_reports_have():
    known = {"EN09_padding_untouched": "padding", "EN08_support_filled[float16]": "small"}
    made = case("mine", right, driver="numpy", expected_failures=known)
    assert made.expected_failures == {"EN09": "padding", "EN08[float16]": "small"}
    with pytest.raises(ValueError, match="EN09 twice, the second time as 'EN09'"):
        case("mine", right, driver="numpy", expected_failures={**known, "EN09": "again"})


def test_those_of_the_case_stay(tmp_path):
    path = tmp_path / "known.txt"
    path.write_text("mine:EN08 more\n")
    made = case("mine", right, driver="numpy", expected_failures={"EN09": "padding"})
    both = with_expected_failures(made, path)
    assert both.expected_failures == {"EN09": "padding", "EN08": "more"}
    assert not check_layer(both, profile="quick", raises=False).ok  # it passes both
