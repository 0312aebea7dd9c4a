"""The pytest plugin of embnoise: options for the tests of ``parametrize_with_checks``.

pytest imports it in every environment that has embnoise, so it imports nothing: neither embnoise,
nor NumPy, nor a framework.
"""

from __future__ import annotations

import random
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    import pytest


def pytest_addoption(parser: pytest.Parser) -> None:
    """``--embnoise-profile``, ``--embnoise-seed`` and ``--embnoise-expected-failures``."""
    group = parser.getgroup("embnoise", "property tests of noise layers")
    group.addoption(
        "--embnoise-profile",
        choices=["quick", "default", "nightly"],
        help="how much to test (default: default)",
    )
    group.addoption(
        "--embnoise-seed",
        metavar="N",
        type=_seed,
        help="the kit's seed: an integer, or 'random' for one that is drawn and printed",
    )
    group.addoption(
        "--embnoise-expected-failures",
        metavar="FILE",
        type=Path,
        help="a file of checks that are known to fail: lines such as 'EN09 reason'",
    )


def _seed(text: str) -> int:
    # The operating system's randomness: tests may have seeded Python's.
    return random.SystemRandom().getrandbits(32) if text == "random" else int(text)


def pytest_report_header(config: pytest.Config) -> str | None:
    """The profile and the seed, if they are given."""
    given = {"profile": config.getoption("embnoise_profile"),
             "seed": config.getoption("embnoise_seed")}  # fmt: skip
    said = [f"{name} {value}" for name, value in given.items() if value is not None]
    return f"embnoise: {', '.join(said)}" if said else None


def pytest_terminal_summary(terminalreporter: pytest.TerminalReporter) -> None:
    """The seed again, since ``-q`` omits the header."""
    seed = terminalreporter.config.getoption("embnoise_seed")
    if seed is not None and terminalreporter.config.get_verbosity() < 0:
        terminalreporter.write_line(f"embnoise: seed {seed}")


def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> None:
    """Pass the options to the checks."""
    names = ("profile", "seed", "expected_failures")
    options = {name: config.getoption(f"embnoise_{name}") for name in names}
    if all(value is None for value in options.values()):
        return
    for params in _tested(items):
        try:
            params["check"] = params["check"].with_options(**options)
        except (OSError, ValueError) as error:  # of the file
            import pytest  # noqa: PLC0415, it is loaded already

            raise pytest.UsageError(f"--embnoise-expected-failures: {error}") from None


def pytest_report_collectionfinish(config: pytest.Config, items: list[pytest.Item]) -> list[str]:
    """The expected failures of cases that the run does not have, if they look misspelled."""
    path = config.getoption("embnoise_expected_failures")
    checks = [params["check"] for params in _tested(items)]
    if path is None or not checks:
        return []
    try:
        notes = checks[0].misspelled_cases(path, {each.check.case.name for each in checks})
    except (OSError, ValueError):  # a usage error, which ends the run
        return []
    return [f"embnoise: {note}" for note in notes]


def _tested(items: list[pytest.Item]) -> Iterator[dict[str, Any]]:
    """The parameters of the tests of ``parametrize_with_checks``."""
    for item in items:
        params = getattr(getattr(item, "callspec", None), "params", {})
        if type(params.get("check")).__module__ == "embnoise.testing.run":
            yield params
