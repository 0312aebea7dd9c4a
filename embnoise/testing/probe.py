"""Checks of an adapter or a driver: each is a function of a ``Probe``."""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from embnoise.testing.drivers import DriverBase
from embnoise.testing.failures import (
    ClaimViolatedError,
    NotClaimedError,
    UntestableError,
    raised_by_layer,
)
from embnoise.testing.random_state import keeping_random_state
from embnoise.testing.report import Findings, Result

__all__ = ["AdapterReport", "Probe", "run_probe"]


class Probe:
    """What a check of an adapter works with.

    Args:
        driver: The adapter's driver.
        add_noise: Its function.
        profile: How much to test.
        seed: The kit's seed.
    """

    def __init__(
        self, driver: DriverBase, add_noise: Callable[..., Any], profile: str, seed: int
    ) -> None:
        self.driver = driver
        self.add_noise = add_noise
        self.profile = profile
        self.seed = seed
        self.assertions = 0

    def expect(self, holds: bool, seen: str, likely: str) -> None:
        """Count an assertion, and raise if it does not hold."""
        self.assertions += 1
        if not holds:
            raise ClaimViolatedError(seen, likely)


def run_probe(
    probe: Probe, code: str, name: str, body: Callable[[Probe], None], dtype: str = "float32"
) -> Result:
    """Run a check of an adapter, and return its result whatever it is."""
    started, probe.assertions = time.perf_counter(), 0
    status, message = "passed", ""
    with keeping_random_state(probe.driver):
        try:
            body(probe)
        except NotClaimedError as why:
            status, message = "not_claimed", str(why)
        except (ClaimViolatedError, UntestableError) as found:
            status, message = found.status, str(found)
        except Exception as error:  # from the adapter or its driver
            status, message = "error", str(raised_by_layer("the adapter or its driver", error))
    if status in ("failed", "error"):
        message = f"{code} {name}[{dtype}]: {message}"
    return Result(
        code, name, dtype, status, message, probe.assertions, time.perf_counter() - started
    )


@dataclass(frozen=True)
class AdapterReport(Findings):
    """What the checks of an adapter or a driver found.

    Attributes:
        adapter: The adapter's name.
        profile: How much was tested.
        seed: The kit's seed.
        results: One for each check and dtype.
    """

    adapter: str
    profile: str
    seed: int
    results: tuple[Result, ...]

    @property
    def title(self) -> str:
        """The adapter's name."""
        return self.adapter

    def header(self) -> list[str]:
        """The adapter."""
        return [f"adapter {self.adapter} (profile {self.profile}, seed {self.seed})"]

    def about(self) -> dict[str, Any]:
        """The adapter."""
        return {"adapter": self.adapter, "profile": self.profile, "seed": self.seed}
