"""Build a release and try it out: ``python -m tests.release [FOLDER]``, or `make release-check`.

The sdist and the wheel are left in FOLDER (default: dist). Each step raises at what is wrong. The
wheel is installed in virtual environments of its own, and used from a folder without the sources:
its tests are those of the sdist.
"""

from __future__ import annotations

import os
import re
import shutil
import subprocess
import sys
import tarfile
import tempfile
import venv
from pathlib import Path

from tests.release.archives import contents
from tests.release.changelog import notes, version

ROOT = Path(__file__).parents[2]
PIP = ("-m", "pip", "install", "--quiet", "--constraint", str(ROOT / "constraints.txt"))
# Without the checkout's paths, and with no framework missing.
ENVIRONMENT = {name: value for name, value in os.environ.items() if name != "PYTHONPATH"} | {
    "EMBNOISE_FRAMEWORKS": "numpy,torch,jax,keras"
}
TESTS = [
    *("tests/test_docs.py", "tests/test_package.py", "tests/test_core_imports.py"),
    *("tests/testing/test_cli.py", "tests/testing/test_plugin.py"),
]


def run(*command: str | Path, cwd: Path) -> None:
    """A command in a folder; it must succeed."""
    print("$", *command, flush=True)
    subprocess.run(list(map(str, command)), cwd=cwd, env=ENVIRONMENT, check=True)


def environment(folder: Path, *packages: str) -> Path:
    """The ``bin`` of a new virtual environment that has these packages."""
    venv.create(folder, with_pip=True)
    bin_ = folder / "bin"
    run(bin_ / "python", *PIP, *packages, cwd=folder)
    return bin_


def build(tools: Path, dist: Path, folder: Path) -> tuple[Path, Path]:
    """The sdist and the wheel, which holds what one made from the checkout holds."""
    shutil.rmtree(dist, ignore_errors=True)
    run(tools / "python", "-m", "build", "--outdir", dist, ROOT, cwd=folder)
    run(tools / "python", "-m", "build", "--wheel", "--outdir", folder / "direct", ROOT, cwd=folder)
    (sdist,), (wheel,) = dist.glob("*.tar.gz"), dist.glob("*.whl")
    (direct,) = (folder / "direct").glob("*.whl")
    if contents(wheel) != contents(direct):
        raise SystemExit(f"{wheel.name} from the sdist differs from that of the checkout")
    run(tools / "twine", "check", "--strict", sdist, wheel, cwd=folder)
    return sdist, wheel


def use_alone(wheel: Path, folder: Path) -> None:
    """The command, in an environment that has NumPy and the wheel."""
    bin_ = environment(folder / "alone", str(wheel))
    run(bin_ / "embnoise", "--version", cwd=folder)
    run(bin_ / "embnoise", "--help", cwd=folder)
    run(bin_ / "embnoise", "explain", "EN08", cwd=folder)


def try_installed(bin_: Path, sdist: Path, folder: Path) -> None:
    """The tests of the sdist that are about the package, without its sources."""
    with tarfile.open(sdist) as archive:
        archive.extractall(folder, filter="data")
    tests = folder / sdist.name.removesuffix(".tar.gz")
    for sources in ("embnoise", "backends"):
        shutil.rmtree(tests / sources)
    run(bin_ / "python", "-m", "pytest", "-q", "-p", "no:cacheprovider", *TESTS, cwd=tests)


def check_types(bin_: Path, folder: Path) -> None:
    """Two type checkers on a program that is right, and on one that is wrong line by line."""
    folder.mkdir()
    for name in ("typed.py", "wrong.py"):
        shutil.copy(ROOT / "tests" / "release" / name, folder)
    (folder / "pyrightconfig.json").write_text('{"typeCheckingMode": "strict"}')
    wrong = (folder / "wrong.py").read_text().splitlines()
    marked = {number for number, line in enumerate(wrong, start=1) if "# wrong" in line}
    pyright = [bin_ / "basedpyright", "--pythonpath", bin_ / "python"]
    for checker in ([bin_ / "mypy", "--strict"], pyright):
        run(*checker, "typed.py", cwd=folder)
        ran = subprocess.run(
            [*map(str, checker), "wrong.py"],
            cwd=folder, env=ENVIRONMENT, capture_output=True, text=True, check=False,
        )  # fmt: skip
        reported = {int(line) for line in re.findall(r"wrong\.py:(\d+):.*\berror\b", ran.stdout)}
        if reported != marked:
            raise SystemExit(f"{ran.stdout}errors in lines {reported}, where {marked} are wrong")


def main(dist: Path) -> None:
    """All steps."""
    notes(f"v{version()}")
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        requirements = ("-r", str(ROOT / "tests" / "release" / "requirements.txt"))
        tools = environment(folder / "tools", *requirements)
        sdist, wheel = build(tools, dist, folder)
        use_alone(wheel, folder)
        needs = f"embnoise[all,test] @ {wheel.as_uri()}"
        bin_ = environment(folder / "full", needs, "mypy", *requirements)
        try_installed(bin_, sdist, folder / "sdist")
        check_types(bin_, folder / "types")
    print(f"{sdist.name} and {wheel.name} are ready: {dist}")


if __name__ == "__main__":
    main(Path(*sys.argv[1:2] or ["dist"]).resolve())
