"""The pytest plugin of embnoise: options for the tests of ``parametrize_with_checks``.

pytest imports it in every environment that has embnoise, so it imports nothing: neither embnoise,
nor NumPy, nor a framework.
"""

from __future__ import annotations

import random
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    import pytest


def pytest_addoption(parser: pytest.Parser) -> None:
    """``--embnoise-profile`` and ``--embnoise-seed``."""
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
    profile, seed = config.getoption("embnoise_profile"), config.getoption("embnoise_seed")
    if profile is None and seed is None:
        return
    for item in items:
        params = getattr(getattr(item, "callspec", None), "params", {})
        check = params.get("check")
        if check is not None and type(check).__module__ == "embnoise.testing.run":
            params["check"] = check.with_options(profile=profile, seed=seed)
