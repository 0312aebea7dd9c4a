"""The workflow that publishes: what it may do, and that it publishes what was checked."""

from pathlib import Path

import pytest

yaml = pytest.importorskip("yaml")

ROOT = Path(__file__).parents[2]
PATH = ROOT / ".github" / "workflows" / "release.yml"

pytestmark = pytest.mark.skipif(not PATH.exists(), reason="an sdist has no workflows")


def test_each_job_has_one_permission_and_no_secret():
    workflow = yaml.safe_load(PATH.read_text())
    assert workflow["permissions"] == {}
    assert {name: job["permissions"] for name, job in workflow["jobs"].items()} == {
        "build": {"contents": "read"},
        "pypi": {"id-token": "write"},
        "github": {"contents": "write"},
    }
    assert "secrets." not in PATH.read_text()


def test_what_was_checked_is_published():
    workflow = yaml.safe_load(PATH.read_text())
    assert workflow[True] == {"push": {"tags": ["v*"]}}  # YAML's "on"
    jobs = workflow["jobs"]
    assert (jobs["pypi"]["needs"], jobs["github"]["needs"]) == ("build", "pypi")
    assert "make release-check PYTHON=python" in [
        step.get("run") for step in jobs["build"]["steps"]
    ]
    assert "release-check:" in (ROOT / "Makefile").read_text()
