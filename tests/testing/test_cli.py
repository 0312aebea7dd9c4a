"""The command ``embnoise``."""

import json
import os
import pty
import subprocess
import sys
from importlib import import_module
from importlib.metadata import entry_points

import pytest

import embnoise
from embnoise._cli import main
from embnoise.testing.checks import ALL
from embnoise.testing.claims import NOTES
from embnoise.testing.find_driver import guessed_driver
from tests.frameworks import FRAMEWORKS, params

LAYERS = """
import embnoise
from embnoise.testing import Claims, case

def make_layer(*, dim, alpha, seed):
    noise = embnoise.neftune(alpha, seed=seed)
    def layer(x, *, training, step):
        return embnoise.add_noise(x, noise, training=training, step=step)
    return layer

def call(layer, x, *, training, step):
    return layer(x, training=training, step=step)

number = 3

def tell_nothing(*, dim, alpha, seed):
    return print

class Layers:
    make = staticmethod(make_layer)

mine = case("mine", make_layer, driver="numpy", claims=Claims(length="padded"))
"""


@pytest.fixture(autouse=True)
def _here(tmp_path, monkeypatch):
    package = tmp_path / "made_for_cli"
    package.mkdir()
    (package / "__init__.py").touch()
    (package / "layers.py").write_text(LAYERS)
    (package / "broken.py").write_text("def")
    (package / "needy.py").write_text("import a_missing_package")
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sys, "path", list(sys.path))
    yield
    for name in [name for name in sys.modules if name.startswith("made_for_cli")]:
        del sys.modules[name]


TARGET = "made_for_cli.layers:make_layer"


def test_output_that_nobody_reads_is_no_error():
    read, write = os.pipe()
    os.close(read)
    with os.fdopen(write, "wb") as closed:
        ran = subprocess.run(
            [sys.executable, "-m", "embnoise", "checks"], stdout=closed, stderr=subprocess.PIPE,
            text=True, check=False,
        )  # fmt: skip
    assert (ran.returncode, ran.stderr) == (141, "")


CHECK = ("check", TARGET, "--driver", "numpy", "--profile", "quick")


def test_it_is_installed():
    (script,) = entry_points(group="console_scripts", name="embnoise")
    assert script.load() is main
    ran = subprocess.run(
        [sys.executable, "-m", "embnoise", "--version"], capture_output=True, text=True, check=True
    )
    assert ran.stdout == f"embnoise {embnoise.__version__}\n"


def test_check_says_what_does_not_hold(capsys):
    assert main(CHECK) == 1
    seen = capsys.readouterr()
    assert "EN09 padding_untouched[float32]: padding gets noise" in seen.out
    assert f"from {TARGET.replace(':', ' import ')}" in seen.out
    assert "\033[" not in seen.out
    assert not seen.err


@pytest.mark.parametrize(
    "command",
    [
        (*CHECK, "--length", "padded"),
        ("check", "made_for_cli.layers:mine", "--profile", "quick", "--seed", "3"),
        ("check", "made_for_cli.layers:Layers.make", *CHECK[2:], "--length", "padded",
         "--call", "made_for_cli.layers:call"),
    ],
)  # fmt: skip
def test_check_says_what_holds(command, capsys):
    assert main(command) == 0
    assert " holds: " in capsys.readouterr().out


@pytest.mark.parametrize("framework", params(*FRAMEWORKS))
def test_the_driver_is_guessed(framework):
    if framework == "numpy":
        assert main(["check", TARGET, "--profile", "quick", "--length", "padded"]) == 0
        return
    for layer in import_module(f"tests.testing.{framework}_layers").CORRECT:
        assert guessed_driver(layer.make(dim=8, alpha=1.0, seed=0)) == framework, layer.name


def test_claims_come_from_the_options(capsys):
    main([*CHECK, "--distribution", "none", "--scale", "absolute", "--length", "none", "--seeded",
          "global", "--not-compilable", "--antithetic", "--saved-names", "count",
          "--distinct-ranks"])  # fmt: skip
    assert (
        "Claims(distribution=None, scale='absolute', length=None, seeded='global', "
        "antithetic=True, compilable=False, saved_names=('count',), distinct_ranks=True)"
    ) in capsys.readouterr().out


def test_every_claim_that_can_be_typed_has_an_option(capsys):
    with pytest.raises(SystemExit):
        main(["check", "--help"])
    text = " ".join(capsys.readouterr().out.split())
    for name, note in NOTES.items():
        assert (note.replace("`", "").rstrip(".") in text) == (name != "schedule"), name


def test_a_wrong_claim_names_the_nearest(capsys):
    assert main([*CHECK, "--scale", "neftun"]) == 2
    assert "got 'neftun' (did you mean 'neftune'?)" in capsys.readouterr().err


def test_check_as_json(capsys):
    assert main([*CHECK, "--json"]) == 1
    data = json.loads(capsys.readouterr().out)
    assert data["driver"] == "numpy"
    assert {each["code"] for each in data["results"] if each["status"] == "failed"} == {
        "EN09", "EN19",
    }  # fmt: skip


def test_a_random_seed_is_printed(capsys):
    assert main([*CHECK, "--length", "padded", "--seed", "random"]) == 0
    seen = capsys.readouterr()
    seed = seen.err.removeprefix("seed ").strip()
    assert f"seed {seed})" in seen.out


@pytest.mark.skipif(os.name != "posix", reason="pseudo-terminals")
@pytest.mark.parametrize("no_color", [False, True])
def test_color_and_progress_on_a_terminal_only(no_color):
    ours, theirs = pty.openpty()
    environment = {key: value for key, value in os.environ.items() if key != "NO_COLOR"}
    environment |= {"NO_COLOR": "1"} if no_color else {}
    command = [sys.executable, "-m", "embnoise", *CHECK]
    with subprocess.Popen(command, stdout=theirs, stderr=theirs, env=environment) as process:
        os.close(theirs)
        seen = b""
        try:
            while chunk := os.read(ours, 4096):
                seen += chunk
        except OSError:  # the other side is closed
            pass
        assert process.wait() == 1
    os.close(ours)
    assert b"make_layer-EN05_same_seed_same_noise[float32] ..." in seen
    assert (b"\033[31mfailed" in seen) is not no_color


def test_checks_and_explain(capsys):
    assert main(["checks"]) == 0
    lines = capsys.readouterr().out.splitlines()
    assert [line[:4] for line in lines] == [check.code for check in ALL]
    assert main(["checks", "--json"]) == 0
    listed = json.loads(capsys.readouterr().out)
    for entry, check in zip(listed, ALL, strict=True):
        short = f"en{int(check.code[2:])}"
        for name in (check.code, check.code.lower(), short, check.name, check.title):
            assert main(["explain", name]) == 0
            assert entry["promise"] in capsys.readouterr().out
        assert main(["explain", check.code, "--json"]) == 0
        explained = json.loads(capsys.readouterr().out)
        assert explained["explanation"].startswith(entry["promise"])


@pytest.mark.parametrize("more", [(), ("--call", "made_for_cli.layers:call")])
def test_the_file_that_write_makes_runs_as_it_is(more, capsys, tmp_path):
    assert main(["write", TARGET, "--driver", "numpy", "--length", "padded", *more]) == 0
    assert "python -m pytest test_make_layer.py" in capsys.readouterr().out
    command = [sys.executable, "-m", "pytest", "-q", "-p", "no:cacheprovider", "test_make_layer.py"]
    ran = subprocess.run(
        [*command, "--embnoise-profile=quick"], capture_output=True, text=True, check=False
    )
    assert ran.returncode == 0, ran.stdout
    assert "failed" not in ran.stdout
    before = (tmp_path / "test_make_layer.py").read_text()
    assert main(["write", TARGET, "--driver", "numpy"]) == 2
    assert "test_make_layer.py exists" in capsys.readouterr().err
    assert (tmp_path / "test_make_layer.py").read_text() == before
    pytest.importorskip("ruff")
    lint = [sys.executable, "-m", "ruff", "check", "--isolated", "--ignore=I", "test_make_layer.py"]
    assert subprocess.run(lint, check=False).returncode == 0


@pytest.mark.parametrize(
    ("command", "says"),
    [
        (("check", "made_for_cli.layers", "--driver", "numpy"), "must be module:name"),
        (("check", "made_for_clo.layers:x", "--driver", "numpy"), "no module 'made_for_clo'"),
        (("check", f"{TARGET}s", "--driver", "numpy"), "did you mean 'make_layer'"),
        (("check", "made_for_cli.layers:tell_nothing"), "--driver is needed"),
        (("check", "made_for_cli/layers.py:mine"), "did you mean made_for_cli.layers:mine?"),
        (("check", "made_for_cli.broken:mine"), "importing made_for_cli.broken raised SyntaxError"),
        (("check", "made_for_cli.needy:mine"), "needs a_missing_package, which is not installed"),
        (("check", "made_for_cli/layers.py"), "did you mean made_for_cli.layers:make_layer?"),
        (
            (*CHECK, "--call", "foo"),
            "--call must be module:function, such as my_package.layers:call, got 'foo'",
        ),
        (("write", *CHECK[1:4], "--output", "no/such/x.py"), "there is no folder 'no/such'"),
        (("write", *CHECK[1:4], "--output", "made_for_cli"), "and 'made_for_cli' is a folder"),
        ((*CHECK, "--expected-failures", "x"), "--expected-failures: there is no file 'x'"),
        ((*CHECK, "--seeded", "FALSE", "--length", "None"), "length must be 'tokens' or 'padded'"),
        (("explain", "EN08x"), "there is no check 'EN08x'"),
        (("check", TARGET, "--driver", "torhc"), "did you mean 'torch'"),
        (
            ("check", TARGET, "--driver", "own"),
            "--driver must be numpy, torch, jax, keras or the name of an installed adapter, got",
        ),
        ((*CHECK, "--seed", "x"), "--seed must be an integer or 'random', got 'x'"),
        ((*CHECK, "--length", "none"), "length must be 'tokens' or 'padded'"),
        ((*CHECK, "--distribution", "normal"), "got 'normal' (did you mean 'gaussian'?)"),
        ((*CHECK, "--schedule", "linear"), "make a case with Claims(schedule=...)"),
        (("write", TARGET, "--schedule", "linear"), "make a case with Claims(schedule=...)"),
        (("check", "made_for_cli.layers:mine", "--driver", "numpy"), "leave out the options"),
        (("check", "made_for_cli.layers:call", "--driver", "numpy"), "must take the keywords"),
        (
            ("check", "made_for_cli.layers:number"),
            "must be a function make_layer, or a case, got 3",
        ),
        (("explain", "DR16"), "DR16 is a check of adapters"),
        (("explain", "EN99"), "there is no check 'EN99' (did you mean EN"),
        (("write", "made_for_cli.layers:mine"), "is a case: put"),
    ],
)
def test_a_wrong_command_says_so_and_exits_with_2(command, says, capsys):
    assert main(command) == 2
    seen = capsys.readouterr()
    assert says in seen.err
    assert not seen.out


def test_argparse_exits_with_2_as_well():
    with pytest.raises(SystemExit) as left:
        main(["check"])
    assert left.value.code == 2


def test_an_unknown_option_shows_the_usage_of_its_command(capsys):
    with pytest.raises(SystemExit) as left:
        main([*CHECK, "--dim", "3"])
    assert left.value.code == 2
    seen = capsys.readouterr().err
    assert seen.startswith("usage: embnoise check [-h] [--driver DRIVER]")
    assert "embnoise check: error: unrecognized arguments: --dim 3" in seen


def test_a_package_may_add_a_command(tmp_path, monkeypatch, capsys):
    (tmp_path / "made_for_cli" / "command.py").write_text(
        '"""Count things.\n\nSlowly.\n"""\n'
        "def run(arguments):\n    print(arguments)\n    return int(arguments[-1])\n"
    )
    info = tmp_path / "made_for_cli-1.0.dist-info"
    info.mkdir()
    (info / "METADATA").write_text("Metadata-Version: 2.1\nName: made-for-cli\nVersion: 1.0\n")
    (info / "entry_points.txt").write_text(
        "[embnoise.commands]\nmade = made_for_cli.command:run\nlost = made_for_cli.nowhere:run\n"
    )
    monkeypatch.syspath_prepend(tmp_path)
    assert main(["made", "--help", "check", "1"]) == 1
    assert capsys.readouterr().out == "['--help', 'check', '1']\n"
    assert main(["made", "one"]) == 2
    assert capsys.readouterr().err == (
        "embnoise made: invalid literal for int() with base 10: 'one'\n"
    )
    assert main(["lost"]) == 2
    assert "embnoise lost: No module named 'made_for_cli.nowhere'" in capsys.readouterr().err
    with pytest.raises(SystemExit):
        main(["--help"])
    seen = " ".join(capsys.readouterr().out.split())
    assert "made count things lost of made_for_cli.nowhere: see embnoise lost --help" in seen
