"""Tests run for the frameworks that are there, and say what they skip: see tests/frameworks.py."""

from __future__ import annotations

import contextlib
import gc
import os
import re
import tempfile
from collections.abc import Generator

import pytest

from tests import frameworks

# Triton aborts the process if TensorFlow or JAX were loaded before it: each brings an LLVM, and
# only Triton's minds the options that another one has registered.
with contextlib.suppress(ImportError):
    import triton  # noqa: F401

# Hypothesis looks for what refers to a random generator, and does not find it once it is frozen.
with contextlib.suppress(ImportError):
    import hypothesis  # noqa: F401


def pytest_addoption(parser: pytest.Parser) -> None:
    """``--frameworks``."""
    parser.addoption(
        "--frameworks",
        metavar="NAMES",
        help=f"the frameworks to test, of {','.join(frameworks.FRAMEWORKS)}"
        f" (default: ${frameworks.VARIABLE}, or all that are installed)",
    )


def pytest_configure(config: pytest.Config) -> None:
    """Hand on the option and a cache, also to the processes that tests start."""
    if (names := config.getoption("frameworks")) is not None:
        os.environ[frameworks.VARIABLE] = names
    if not hasattr(config, "workerinput"):  # processes of pytest-xdist inherit it
        folder = tempfile.TemporaryDirectory()
        config.add_cleanup(folder.cleanup)
        frameworks.share_compiled_jax(folder.name)
        if config.getoption("numprocesses", None):  # their threads would wait for each other
            os.environ.setdefault("OMP_NUM_THREADS", "1")
    try:
        frameworks.check_selection()
    except ValueError as error:
        raise pytest.UsageError(str(error)) from None


@pytest.hookimpl(wrapper=True)
def pytest_collection(session: pytest.Session) -> Generator[None, object, object]:
    """What is imported stays, and the garbage collector need not look at it again and again.

    Four frameworks are more than a million objects, and a run of the Trainer collects five times.
    """
    gc.disable()
    try:
        return (yield)
    finally:
        gc.enable()
        gc.freeze()
        session.config.add_cleanup(gc.unfreeze)


def pytest_runtest_teardown(item: pytest.Item, nextitem: pytest.Item | None) -> None:
    """What the tests of a module have compiled stays as well."""
    if nextitem is not None and nextitem.path != item.path:
        gc.collect()
        gc.freeze()


def pytest_report_header() -> str:
    """The frameworks that are tested, and why the others are not."""
    reasons = {name: frameworks.why_not(name) for name in frameworks.FRAMEWORKS}
    tested = [name for name, reason in reasons.items() if reason is None]
    return "; ".join([f"frameworks: {', '.join(tested)}", *filter(None, reasons.values())])


@pytest.hookimpl(tryfirst=True)
def pytest_make_collect_report(collector: pytest.Collector) -> pytest.CollectReport | None:
    """A file or a folder whose name has a framework in it is that framework's."""
    parts = collector.nodeid.partition("::")[0].split("/")
    for depth, part in enumerate(parts, start=1):
        for name in frameworks.named_in(part):
            if reason := frameworks.why_not(name):
                where = "/".join(parts[:depth])  # one line of the summary for a folder
                return pytest.CollectReport(
                    collector.nodeid, "skipped", (where, None, f"Skipped: {reason}"), []
                )
    return None


@pytest.hookimpl(wrapper=True)  # before the session counts failures
def pytest_collectreport(
    report: pytest.CollectReport | pytest.TestReport,
) -> Generator[None, None, None]:
    """What fails for want of a library that it may do without is skipped."""
    missing = re.search(r"ModuleNotFoundError: No module named '(\w+)", report.longreprtext)
    name = missing[1] if report.failed and missing else None
    if name in frameworks.LIBRARIES and not frameworks.installed(name):
        path = report.nodeid.partition("::")[0]
        report.outcome = "skipped"
        report.longrepr = (path, None, f"Skipped: {name} is not installed")
    yield


pytest_runtest_logreport = pytest_collectreport
