"""Running the checks of a case: ``iter_checks``, and all that stands on it."""

from __future__ import annotations

import contextlib
import random
import time
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass, replace
from typing import Any

import numpy as np

from embnoise._validation import check_integer, format_value
from embnoise.testing.case import Case
from embnoise.testing.checks import ALL
from embnoise.testing.failures import (
    BrokenError,
    CheckFailedError,
    MisuseError,
    UnclaimedError,
    raised_by_layer,
)
from embnoise.testing.profiles import PROFILES, Profile, profile_of
from embnoise.testing.registry import Spec
from embnoise.testing.report import Report, Result, reproduction
from embnoise.testing.subject import Subject

__all__ = ["Check", "check_layer", "iter_checks", "parametrize_with_checks"]

FIRST = "EN01"
"""The check that all others stand on."""


@dataclass(frozen=True, eq=False)
class Check:
    """One check of one case, in one dtype. Calling it runs it.

    Attributes:
        case: what to test.
        spec: the check.
        dtype: of the embeddings.
        profile: how much to look at.
        seed: another one is another choice of every random number of the kit.
    """

    case: Case
    spec: Spec
    dtype: str
    profile: Profile = PROFILES["default"]
    seed: int = 0

    @property
    def id(self) -> str:
        """As pytest shows it: ``MyNoise-EN05_same_seed_same_noise[float32]``."""
        return f"{self.case.name}-{self.spec.title}[{self.dtype}]"

    def with_options(self, *, profile: str | None = None, seed: int | None = None) -> Check:
        """The same check with another profile or seed."""
        return replace(
            self,
            profile=self.profile if profile is None else profile_of(profile),
            seed=self.seed if seed is None else check_integer("seed", seed),
        )

    def __call__(self) -> Result:
        """Run the check.

        Returns:
            The result, if it passed, failed as expected, or is not claimed.

        Raises:
            CheckFailedError: the promise is broken, holds against expectation, or cannot be tested.
        """
        __tracebackhide__ = True
        result = self.run()
        if result.wrong:
            raise CheckFailedError(result.message) from None
        return result

    def run(self) -> Result:
        """Run the check; what it finds is in the result, whatever it is."""
        started = time.perf_counter()
        subject = Subject(self.case, self.spec.code, self.dtype, self.profile, self.seed)
        with contextlib.ExitStack() as stack:
            stack.callback(random.setstate, random.getstate())
            stack.callback(np.random.set_state, np.random.get_state())  # noqa: NPY002
            if hasattr(self.case.driver, "kept_state"):
                stack.enter_context(self.case.driver.kept_state())
            status, message = self._outcome(subject)
        expected = self.case.expected_failures
        key = f"{self.spec.code}[{self.dtype}]"
        key = key if key in expected else self.spec.code
        reason = expected.get(key)
        if reason is not None and status in ("failed", "error"):
            status, message = "expected_failure", f"{reason} ({message.splitlines()[0]})"
        elif reason is not None and status == "passed":
            status, message = (
                "unexpected_pass",
                (
                    f"{self.spec.title}[{self.dtype}] passes, but was expected to fail: {reason}. "
                    f"Take {key} out of expected_failures"
                ),
            )
        return Result(
            code=self.spec.code,
            name=self.spec.name,
            dtype=self.dtype,
            status=status,
            message=message,
            assertions=subject.assertions,
            seconds=time.perf_counter() - started,
        )

    def _outcome(self, subject: Subject) -> tuple[str, str]:
        unclaimed = self.spec.claimed(self.case.claims)
        if unclaimed is not None:
            return "not_claimed", unclaimed
        try:
            self.spec.run(subject)
        except UnclaimedError as why:
            return "not_claimed", str(why)
        except (BrokenError, MisuseError) as found:
            return found.status, self._message(subject, str(found))
        except Exception as error:  # from a claim's function, say, or a driver
            misuse = raised_by_layer("what the check stands on", error)
            return misuse.status, self._message(subject, str(misuse))
        if not subject.assertions:
            return "error", self._message(subject, "the check made no assertion: it shows nothing")
        return "passed", ""

    def _message(self, subject: Subject, found: str) -> str:
        title = f"{self.spec.code} {self.spec.name}[{self.dtype}]"
        return f"{title}: {found}\n{reproduction(self.case, subject.lines)}"


def iter_checks(case: Case, *, profile: str = "default", seed: int = 0) -> Iterator[Check]:
    """The checks of a case: all that are for its kind of inputs, in each dtype that they test.

    Args:
        case: what ``case`` returned.
        profile: ``"quick"`` (statistics over 2**14 values), ``"default"`` (2**16), or
            ``"nightly"`` (2**20).
        seed: another one is another choice of every random number of the kit.

    Raises:
        TypeError: an argument of the wrong type.
        ValueError: an unknown profile.

    Example:
        >>> from embnoise.testing import case, iter_checks
        >>> mine = case("mine", lambda *, dim, alpha, seed: None, driver="numpy")
        >>> next(iter_checks(mine)).id
        'mine-EN01_can_be_called[float32]'
    """
    if not isinstance(case, Case):
        raise TypeError(f"case must be what case(...) returned, got {format_value(case)}")
    looked_at = profile_of(profile)
    seed = check_integer("seed", seed)
    dtypes = getattr(case.driver, "dtypes", {}).get(case.inputs, ("float32",))
    for spec in ALL:
        if case.inputs in spec.inputs:
            for dtype in dtypes if spec.dtypes == "all" else ("float32",):
                yield Check(case, spec, dtype, looked_at, seed)


def check_layer(
    case: Case,
    *,
    profile: str = "default",
    seed: int = 0,
    raises: bool = True,
    progress: Callable[[Check], None] = lambda check: None,
) -> Report:
    """Run every check of a case.

    Args:
        case: what ``case`` returned.
        profile: as for ``iter_checks``.
        seed: as for ``iter_checks``.
        raises: whether to raise if anything failed.
        progress: called with each check before it runs.

    Returns:
        A report: ``ok``, ``results``, ``table()`` and ``to_json()``.

    Raises:
        ExceptionGroup: anything failed; one ``CheckFailedError`` for each.
        TypeError: an argument of the wrong type.
        ValueError: an unknown profile.
    """
    __tracebackhide__ = True
    results: list[Result] = []
    for check in iter_checks(case, profile=profile, seed=seed):
        progress(check)
        results.append(check.run())
        if check.spec.code == FIRST and results[-1].wrong:
            break  # the others would say the same
    report = Report(case, profile, seed, tuple(results))
    if raises and not report.ok:
        raise ExceptionGroup(
            f"{case.name}: {report.summary()}",
            [CheckFailedError(result.message) for result in report.results if result.wrong],
        )
    return report


def parametrize_with_checks(cases: Iterable[Case]) -> Any:
    """A decorator that turns a test into one test for each check of each case.

    Its argument ``check`` is to be called. What is not claimed is skipped, what is expected to
    fail is an xfail, each with its reason. pytest's ``--embnoise-profile`` and
    ``--embnoise-seed`` choose how much is looked at.

    Args:
        cases: what ``case`` returned, as many as you like, under different names.

    Raises:
        TypeError: not an iterable of cases.
        ValueError: two cases of one name.
    """
    import pytest  # noqa: PLC0415, the kit works without it

    if isinstance(cases, Case):
        raise TypeError("cases must be a list of cases, got one case: put it in a list")
    cases = list(cases)
    checks = [check for case in cases for check in iter_checks(case)]
    names = [case.name for case in cases]
    if len(set(names)) < len(names):
        raise ValueError(f"cases must have names of their own, got {names}")

    def run(check: Check) -> None:
        __tracebackhide__ = True
        result = check()
        if result.status == "not_claimed":
            pytest.skip(f"not claimed: {result.message}")
        if result.status == "expected_failure":
            pytest.xfail(result.message)

    return pytest.mark.parametrize(
        "check", [pytest.param(_Tested(check, run), id=check.id) for check in checks]
    )


@dataclass(frozen=True, eq=False)
class _Tested:
    """A check that tells pytest what it found."""

    check: Check
    run: Callable[[Check], None]

    def __call__(self) -> None:
        __tracebackhide__ = True
        self.run(self.check)

    def with_options(self, *, profile: str | None = None, seed: int | None = None) -> _Tested:
        return replace(self, check=self.check.with_options(profile=profile, seed=seed))
