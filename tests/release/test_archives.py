"""What is released: the files of wheel and sdist, the metadata, and the version, which agree."""

import datetime
import re
import shutil
import subprocess
import sys
import tarfile
from email import message_from_bytes
from pathlib import Path

import pytest

import embnoise
from tests.release import changelog
from tests.release.archives import contents

pytest.importorskip("hatchling")

ROOT = Path(__file__).parents[2]
PACKAGES = {"embnoise", "embnoise_torch", "embnoise_jax", "embnoise_keras", "pytest_embnoise"}
SOURCES = {
    *ROOT.glob("embnoise/**/*"),
    *(path for name in PACKAGES for path in ROOT.glob(f"backends/{name}/**/*")),
}


def build(source, folder):
    command = [sys.executable, "-m", "hatchling", "build", "-d", str(folder)]
    subprocess.run(command, cwd=source, check=True, capture_output=True)
    return next(folder.glob("*.tar.gz")), next(folder.glob("*.whl"))


@pytest.fixture(scope="module")
def archives(tmp_path_factory):
    return build(ROOT, tmp_path_factory.mktemp("dist"))


@pytest.fixture(scope="module")
def wheel(archives):
    return contents(archives[1])


@pytest.fixture(scope="module")
def sdist(archives):
    return contents(archives[0])


@pytest.fixture(scope="module")
def metadata(wheel):
    return message_from_bytes(wheel[f"embnoise-{embnoise.__version__}.dist-info/METADATA"])


def test_the_wheel_holds_the_packages_and_nothing_else(wheel):
    info = f"embnoise-{embnoise.__version__}.dist-info"
    assert {name.split("/")[0] for name in wheel} == {*PACKAGES, info}
    installed = {name for name in wheel if not name.startswith(info)}
    backends = ROOT / "backends"
    assert installed == {
        str(path.relative_to(backends if backends in path.parents else ROOT))
        for path in SOURCES
        if path.is_file() and path.suffix in {".py", ".json", ".typed"}
    }
    assert {f"{name}/py.typed" for name in PACKAGES} <= installed
    assert not [
        name for name in installed if re.search(r"(^|/)(tests?_?|conftest|evidence)\b", name)
    ]


def test_the_sdist_makes_the_same_wheel(archives, wheel, tmp_path):
    with tarfile.open(archives[0]) as archive:
        archive.extractall(tmp_path, filter="data")
    (source,) = tmp_path.iterdir()
    again = contents(build(source, tmp_path / "dist")[1])
    assert set(again) == set(wheel)
    assert [name for name in wheel if again[name] != wheel[name]] == []


def test_the_sdist_holds_all_but_the_files_of_ci(sdist):
    git = shutil.which("git")
    if git is None or not (ROOT / ".git").exists():
        pytest.skip("not a git checkout")
    tracked = subprocess.run(
        [git, "ls-files"], cwd=ROOT, capture_output=True, text=True, check=True
    )  # fmt: skip
    ours = {name for name in tracked.stdout.split() if (ROOT / name).exists()}
    assert {name for name in ours - set(sdist) if not name.startswith(".")} == set()


def test_the_license(metadata, wheel):
    assert metadata["License-Expression"] == "Apache-2.0"
    assert metadata.get_all("License-File") == ["LICENSE"]
    license_ = wheel[f"embnoise-{embnoise.__version__}.dist-info/licenses/LICENSE"]
    assert license_ == (ROOT / "LICENSE").read_bytes()
    assert b"Apache License" in license_
    assert "\nlicense: Apache-2.0\n" in (ROOT / "CITATION.cff").read_text()


def test_the_page_of_the_index_links_to_the_version(metadata):
    assert metadata["Description-Content-Type"] == "text/markdown"
    links = re.findall(r"\]\(([^)]+)\)", metadata.get_payload())
    assert [link for link in links if not link.startswith("https://")] == []
    tag = f"v{embnoise.__version__}"
    repository = "https://github.com/embnoise/embnoise"
    assert f"{repository}/blob/{tag}/docs/configuration.md#rules-of-your-own" in links
    assert f"{repository}/raw/{tag}/docs/finetune.png" in links


def test_the_version_has_one_place_and_others_agree(metadata):
    version = changelog.version()
    assert version == embnoise.__version__ == metadata["Version"]
    assert re.fullmatch(r"\d+\.\d+\.\d+", version)
    citation = (ROOT / "CITATION.cff").read_text()
    assert re.findall("^version: (.*)$", citation, re.MULTILINE) == [version]
    (released,) = re.findall("^date-released: (.*)$", citation, re.MULTILINE)
    datetime.date.fromisoformat(released)
    assert f"{version} - {released}" in changelog.sections()


def test_the_notes_of_a_release_are_its_section(tmp_path, monkeypatch):
    assert "Unreleased" in changelog.sections()
    assert len(changelog.notes(f"v{embnoise.__version__}")) > 100
    with pytest.raises(ValueError, match=r"the tag is v9\.9\.9, but embnoise.__version__ is "):
        changelog.notes("v9.9.9")
    (tmp_path / "embnoise").mkdir()
    (tmp_path / "embnoise" / "__init__.py").write_text('__version__ = "1.2.3"\n')
    (tmp_path / "CHANGELOG.md").write_text("## Unreleased\n\n## 1.2.30 - 2027-01-01\n\n- one\n")
    monkeypatch.setattr(changelog, "ROOT", tmp_path)
    with pytest.raises(ValueError, match=r"CHANGELOG.md has 0 headings '## 1\.2\.3 - "):
        changelog.notes("v1.2.3")
