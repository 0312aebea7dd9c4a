"""``check_adapter`` and ``check_driver``: the checks of an adapter as a whole."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from functools import partial
from typing import Any

from embnoise._validation import check_bool, check_callable, check_integer, format_value
from embnoise.testing._case import Case
from embnoise.testing.agreement import agrees_with_numpy
from embnoise.testing.cases import case
from embnoise.testing.claims import Claims
from embnoise.testing.driver_probes import (
    GUARDS,
    arrays_are_copies,
    compiles_once,
    dtypes_round_trip,
    gradients_are_right,
    keywords_by_name,
    seed_sets_the_state,
)
from embnoise.testing.drivers import Driver, completed
from embnoise.testing.find_driver import adapter_of, driver_of
from embnoise.testing.known_answers import known_lattice, known_units
from embnoise.testing.known_bad import FAULTS, Fault, right_layer
from embnoise.testing.premises import FIRST
from embnoise.testing.probe import AdapterReport, Probe, run_probe
from embnoise.testing.profiles import profile_of
from embnoise.testing.refusals import wrong_input_refused
from embnoise.testing.report import Result
from embnoise.testing.run import iter_checks

__all__ = ["check_adapter", "check_driver"]

Progress = Callable[[str], None]

_DRIVER_PROBES = (
    ("DR01", arrays_are_copies),
    ("DR02", dtypes_round_trip),
    ("DR03", gradients_are_right),
    ("DR04", seed_sets_the_state),
    ("DR05", keywords_by_name),
    ("DR16", compiles_once),
)
_ADAPTER_PROBES = (
    ("AD01", known_lattice),
    ("AD02", known_units),
    ("AD03", wrong_input_refused),
)
_AGREEMENT = "AD04"


def check_driver(
    driver: str | Driver,
    add_noise: Callable[..., Any],
    *,
    profile: str = "quick",
    seed: int = 0,
    raises: bool = True,
    progress: Progress = lambda what: None,
) -> AdapterReport:
    """Check a driver: its methods, and whether the kit sees faults through it.

    A layer built from ``add_noise`` must pass all checks, and layers with one fault each must fail
    the check for it.

    Args:
        driver: The driver, or the name of an installed adapter.
        add_noise: The adapter's ``add_noise``.
        profile: As for ``iter_checks``. Default: ``"quick"``.
        seed: As for ``iter_checks``.
        raises: Whether to raise if a check failed.
        progress: Called with the name of each check before it runs.

    Returns:
        A report with ``ok``, ``results``, ``table()`` and ``to_json()``.

    Raises:
        ExceptionGroup: Checks failed; it holds one ``CheckFailedError`` for each.
        TypeError: An argument has the wrong type.
        ValueError: The driver or the profile is unknown.

    Example:
        >>> import embnoise
        >>> from embnoise.testing import check_driver
        >>> check_driver("numpy", embnoise.add_noise).ok
        True
    """
    __tracebackhide__ = True
    check_bool("raises", raises)
    check_callable("progress", progress)
    probe = _probe(driver, add_noise, profile, seed)
    results = tuple(_driver_results(probe, progress))
    report = AdapterReport(probe.driver.name, profile, seed, results)
    if raises:
        report.raise_if_wrong()
    return report


def check_adapter(
    name: str,
    *,
    profile: str = "quick",
    seed: int = 0,
    raises: bool = True,
    progress: Progress = lambda what: None,
) -> AdapterReport:
    """Check an installed adapter: its ``add_noise`` and its driver.

    ``add_noise`` must give the known answers of the noise specification, agree with
    ``embnoise.add_noise`` in every dtype that the driver declares, and refuse wrong arguments.
    The driver is checked as by ``check_driver``.

    Args:
        name: The adapter's name in the entry-point group ``embnoise.backends``.
        profile: As for ``iter_checks``. Default: ``"quick"``, in which Hypothesis draws nothing.
        seed: As for ``iter_checks``.
        raises: Whether to raise if a check failed.
        progress: Called with the name of each check before it runs.

    Returns:
        A report with ``ok``, ``results``, ``table()`` and ``to_json()``.

    Raises:
        ExceptionGroup: Checks failed; it holds one ``CheckFailedError`` for each.
        TypeError: The adapter has no driver or no ``add_noise``, or an argument has the wrong type.
        ValueError: The adapter or the profile is unknown.
        ImportError: The adapter's framework is not installed.
    """
    __tracebackhide__ = True
    check_bool("raises", raises)
    check_callable("progress", progress)
    adapter, driver = adapter_of(name), driver_of(name)
    add_noise = getattr(adapter.load(), "add_noise", None)
    if add_noise is None:
        raise TypeError(f"adapter {name!r}: its package has no add_noise")
    probe = _probe(driver, add_noise, profile, seed)
    results = (*_adapter_results(probe, progress), *_driver_results(probe, progress))
    report = AdapterReport(name, profile, seed, results)
    if raises:
        report.raise_if_wrong()
    return report


def _probe(driver: str | Driver, add_noise: Callable[..., Any], profile: str, seed: int) -> Probe:
    if isinstance(driver, str):
        driver = driver_of(driver)
    elif isinstance(driver, type) or not isinstance(driver, Driver):
        raise TypeError(f"driver must be a name or a Driver, got {format_value(driver)}")
    check_callable("add_noise", add_noise)
    profile_of(profile)
    return Probe(completed(driver), add_noise, profile, check_integer("seed", seed))


def _adapter_results(probe: Probe, progress: Progress) -> Iterator[Result]:
    for code, body in _ADAPTER_PROBES:
        progress(f"{code} {body.__name__}")
        yield run_probe(probe, code, body.__name__, body)
    name = agrees_with_numpy.__name__
    for dtype in probe.driver.dtypes:
        progress(f"{_AGREEMENT} {name}[{dtype}]")
        yield run_probe(probe, _AGREEMENT, name, partial(agrees_with_numpy, dtype=dtype), dtype)


def _driver_results(probe: Probe, progress: Progress) -> Iterator[Result]:
    for code, body in _DRIVER_PROBES:
        progress(f"{code} {body.__name__}")
        yield run_probe(probe, code, body.__name__, body)
    right = _case(probe, "add_noise", right_layer(probe.add_noise, probe.driver))
    for check in iter_checks(right, profile=probe.profile, seed=probe.seed):
        progress(check.id)
        result = check.run()
        yield result
        if check.spec.code == FIRST and result.wrong:
            return  # the other checks, and the layers with faults, would report the same
    for fault in FAULTS:
        progress(f"{fault.code} {fault.name}")
        yield _shown(probe, fault)


def _case(probe: Probe, name: str, make_layer: Callable[..., Any]) -> Case:
    return case(name, make_layer, driver=probe.driver, claims=Claims(validates_alpha=True))


def _shown(probe: Probe, fault: Fault) -> Result:
    """Whether the kit sees a fault through the driver."""
    started = time.perf_counter()
    tested = _case(probe, fault.name, fault.make(probe.add_noise, probe.driver))
    checks = iter_checks(tested, profile=probe.profile, seed=probe.seed)
    found = next(check for check in checks if check.spec.code == fault.caught_by).run()
    status, message = "passed", ""
    if found.status == "not_claimed":
        status, message = "not_claimed", found.message
    elif fault.caught_by == "EN22" and not probe.driver.traces_once:
        status, message = "not_claimed", GUARDS
    elif found.status != "failed":
        verb = "passes" if found.status == "passed" else "cannot be tested by"
        status, message = (
            "failed",
            (
                f"{fault.code} {fault.name}[{found.dtype}]: a layer with this fault {verb} "
                f"{found.code} {found.name}. Likely: {fault.driver}."
            ),
        )
    seconds = time.perf_counter() - started
    return Result(fault.code, fault.name, found.dtype, status, message, 1, seconds)
