"""Running the checks of a case."""

from __future__ import annotations

import time
from collections.abc import Callable, Collection, Iterable, Iterator
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

from embnoise._validation import check_bool, check_callable, check_integer, format_value
from embnoise.testing._case import Case
from embnoise.testing.checks import ALL
from embnoise.testing.context import CheckContext
from embnoise.testing.expected import misspelled_cases, with_expected_failures
from embnoise.testing.failures import (
    ERRORS,
    CheckFailedError,
    ClaimViolatedError,
    NotClaimedError,
    NotFiniteError,
    NotTestedError,
    UntestableError,
    raised_by_layer,
)
from embnoise.testing.findings import Findings
from embnoise.testing.premises import FIRST, ONE_SIZE, is_statistic, premises_of, root_of
from embnoise.testing.profiles import PROFILES, Profile, profile_of
from embnoise.testing.random_state import keeping_random_state
from embnoise.testing.registry import CHECKS, Spec
from embnoise.testing.report import Report, Result, reproduction
from embnoise.testing.slices import are_apart

__all__ = ["Check", "check_layer", "iter_checks", "parametrize_with_checks"]


@dataclass(frozen=True, eq=False)
class Check:
    """One check of one case in one dtype. Calling it runs it.

    Attributes:
        case: What to test.
        spec: The check.
        dtype: The dtype of the embeddings.
        profile: How much to test.
        seed: The kit's seed. Another seed changes every random number of the kit.
        findings: What the checks of the case have found so far.
    """

    case: Case
    spec: Spec
    dtype: str
    profile: Profile = PROFILES["default"]
    seed: int = 0
    findings: Findings = field(default_factory=Findings, repr=False)

    @property
    def id(self) -> str:
        """The id in pytest: ``MyNoise-EN05_same_seed_same_noise[float32]``."""
        return f"{self.case.name}-{self.spec.title}[{self.dtype}]"

    def with_options(
        self,
        *,
        profile: str | None = None,
        seed: int | None = None,
        expected_failures: Path | None = None,
    ) -> Check:
        """The same check with another profile or seed, or with a file of expected failures."""
        case = self.case
        return replace(
            self,
            case=with_expected_failures(case, expected_failures) if expected_failures else case,
            profile=self.profile if profile is None else profile_of(profile),
            seed=self.seed if seed is None else check_integer("seed", seed),
        )

    def __call__(self) -> Result:
        """Run the check.

        Returns:
            The result, if the check passed, failed as expected, is not claimed or not tested.

        Raises:
            CheckFailedError: The check failed, passed against expectation, or cannot test the
                layer.
        """
        __tracebackhide__ = True
        result = self.run()
        if result.wrong:
            raise CheckFailedError(result.message) from None
        return result

    def run(self) -> Result:
        """Run the check, and return the result whatever it is.

        If it failed, the checks that it builds on are run as well, unless they have been.
        """
        assertions, builds_on = 0, premises_of(self.spec, self.case)
        started = time.perf_counter()
        try:
            context = CheckContext(
                self.case, self.spec.code, self.dtype, self.profile, self.seed,
                self.findings,
            )  # fmt: skip
            with keeping_random_state(self.case.driver):
                status, message = self._outcome(context)
            assertions = context.assertions
            depends = tuple(sorted(context.depends))
            if status == "passed":
                builds_on = depends
            elif self.spec.code == FIRST:
                builds_on = (FIRST,)  # in float32
            else:
                builds_on += depends + context.premises
            if status == "failed" and is_statistic(self.spec) and self._is_apart():
                builds_on += (ONE_SIZE,)
        except ERRORS as error:  # from a function in the claims, or from the driver
            untestable = (
                error
                if isinstance(error, UntestableError)
                else raised_by_layer("what the check depends on", error)
            )
            status, message = untestable.status, f"{self.spec.title}[{self.dtype}]: {untestable}"
        seconds = time.perf_counter() - started
        if status in ("passed", "failed", "error"):
            with self.findings.in_progress(self._key):
                root = root_of(builds_on, self._premise)
            status, message = (status, message) if root is None else ("not_tested", root)
        status, message = self._compared(status, message)
        result = Result(
            code=self.spec.code,
            name=self.spec.name,
            dtype=self.dtype,
            status=status,
            message=message,
            assertions=assertions,
            seconds=seconds,
        )
        self.findings.results[self._key] = result
        return result

    def result(self) -> Result:
        """The result of the last run, or of this one if there was none."""
        return self.findings.results.get(self._key) or self.run()

    @property
    def _key(self) -> tuple[object, ...]:
        return self.spec.code, self.dtype, self.profile, self.seed

    def _premise(self, spec: Spec) -> Result | None:
        """The result of a check that this one builds on; ``None`` if it does not apply."""
        if self.case.inputs not in spec.inputs:
            return None
        tested = spec is not self.spec and self.dtype in spec.tested(self.case.dtypes, self.profile)
        dtype = self.dtype if tested else "float32"
        premise = replace(self, spec=spec, dtype=dtype)
        return None if premise._key in self.findings.running else premise.result()

    def _is_apart(self) -> bool:
        """Whether some rows, tokens or channels of the noise differ from the rest."""
        spec = CHECKS[ONE_SIZE]
        if spec.claimed(self.case.claims) is not None:
            return False
        tested = self.dtype in spec.tested(self.case.dtypes, self.profile)
        dtype = self.dtype if tested else "float32"
        key, found = (dtype, self.profile, self.seed), self.findings.apart
        if key not in found:
            context = CheckContext(
                self.case, ONE_SIZE, dtype, self.profile, self.seed, self.findings
            )
            with keeping_random_state(self.case.driver):
                found[key] = are_apart(context)
        return found[key]

    def _compared(self, status: str, message: str) -> tuple[str, str]:
        """The outcome, compared with what was expected."""
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
                    f"Remove {key} from the expected failures"
                ),
            )
        elif reason is not None and status == "not_claimed":
            status, message = (
                "unexpected_pass",
                (
                    f"{self.spec.title}[{self.dtype}] is not claimed ({message}), but was expected "
                    f"to fail: {reason}. Remove {key} from the expected failures"
                ),
            )
        return status, message

    def _outcome(self, context: CheckContext) -> tuple[str, str]:
        not_claimed = self.spec.claimed(self.case.claims)
        if not_claimed is not None:
            return "not_claimed", not_claimed
        try:
            self.spec.run(context)
        except (NotClaimedError, NotTestedError) as why:
            return why.status, str(why)
        except (ClaimViolatedError, UntestableError) as found:
            if isinstance(found, NotFiniteError):  # one cause for all of them, in most layers
                context.premises += tuple(self.findings.not_finite)
                self.findings.not_finite.append(self.spec.code)
            return found.status, self._message(context, str(found))
        except ERRORS as error:  # from a function in the claims or a driver, for example
            untestable = raised_by_layer("what the check depends on", error)
            return untestable.status, self._message(context, str(untestable))
        if not context.assertions:
            return "error", self._message(context, "the check made no assertion: it shows nothing")
        return "passed", context.note

    def _message(self, context: CheckContext, found: str) -> str:
        title = f"{self.spec.code} {self.spec.name}[{self.dtype}]"
        return f"{title}: {found}\n{reproduction(self.case, context.transcript.lines)}"


def iter_checks(case: Case, *, profile: str = "default", seed: int = 0) -> Iterator[Check]:
    """The checks of a case: all that apply to its kind of inputs, in each dtype that they test.

    Args:
        case: What ``case`` returned.
        profile: ``"quick"`` (statistics over 2^14 values, most of them in float32 only),
            ``"default"`` (2^16), or ``"nightly"`` (2^20).
        seed: The kit's seed. Another seed changes every random number of the kit.

    Raises:
        TypeError: An argument has the wrong type.
        ValueError: The profile is unknown.

    Example:
        >>> from embnoise.testing import case, iter_checks
        >>> mine = case("mine", lambda *, dim, alpha, seed: None, driver="numpy")
        >>> next(iter_checks(mine)).id
        'mine-EN01_can_be_called[float32]'
    """
    if not isinstance(case, Case):
        raise TypeError(f"case must be what case(...) returned, got {format_value(case)}")
    chosen = profile_of(profile)
    seed = check_integer("seed", seed)
    findings = Findings()
    for spec in ALL:
        if case.inputs in spec.inputs:
            for dtype in spec.tested(case.dtypes, chosen):
                yield Check(case, spec, dtype, chosen, seed, findings)


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
        case: What ``case`` returned.
        profile: As for ``iter_checks``.
        seed: As for ``iter_checks``.
        raises: Whether to raise if a check failed.
        progress: Called with each check before it runs.

    Returns:
        A report with ``ok``, ``results``, ``table()`` and ``to_json()``.

    Raises:
        ExceptionGroup: Checks failed; it holds one ``CheckFailedError`` for each.
        TypeError: An argument has the wrong type.
        ValueError: The profile is unknown.
    """
    __tracebackhide__ = True
    check_bool("raises", raises)
    check_callable("progress", progress)
    results: list[Result] = []
    for check in iter_checks(case, profile=profile, seed=seed):
        progress(check)
        results.append(check.result())
        if len(results) == 1 and results[0].wrong and not results[0].assertions:
            break  # nothing can be called, and the other checks would report the same
    report = Report(case, profile, seed, tuple(results))
    if raises:
        report.raise_if_wrong()
    return report


def parametrize_with_checks(cases: Iterable[Case]) -> Any:
    """A decorator that turns a test into one test for each check of each case.

    The test calls its argument ``check``. What is not claimed or not tested is skipped and what is
    expected to fail is an xfail, each with its reason. pytest's ``--embnoise-profile`` and
    ``--embnoise-seed`` choose the profile and the seed.

    Args:
        cases: What ``case`` returned, any number of them, with different names.

    Raises:
        TypeError: Not an iterable of cases.
        ValueError: No case, or two with the same name.
    """
    import pytest  # noqa: PLC0415, the kit works without it

    if isinstance(cases, Case):
        raise TypeError("cases must be a list of cases, got one case: put it in a list")
    if not isinstance(cases, Iterable):
        raise TypeError(f"cases must be a list of cases, got {format_value(cases)}")
    cases = list(cases)
    if not cases:  # pytest would skip the test in silence
        raise ValueError("cases must be at least one case, got none")
    checks = [check for case in cases for check in iter_checks(case)]
    names = [case.name for case in cases]
    if len(set(names)) < len(names):
        raise ValueError(f"cases must have different names, got {names}")

    def run(check: Check) -> None:
        __tracebackhide__ = True
        result = check()
        if result.status in ("not_claimed", "not_tested"):
            pytest.skip(f"{result.status.replace('_', ' ')}: {result.message}")
        if result.status == "expected_failure":
            pytest.xfail(result.message)

    return pytest.mark.parametrize(
        "check", [pytest.param(_TestedCheck(check, run), id=check.id) for check in checks]
    )


@dataclass(frozen=True, eq=False)
class _TestedCheck:
    """A check that reports its result to pytest."""

    check: Check
    run: Callable[[Check], None]

    def __call__(self) -> None:
        __tracebackhide__ = True
        self.run(self.check)

    def with_options(self, **options: Any) -> _TestedCheck:
        return replace(self, check=self.check.with_options(**options))

    def misspelled_cases(self, path: Path, names: Collection[str]) -> list[str]:
        return misspelled_cases(path, names)
