"""``embnoise check`` and ``check-adapter``: run checks and report what does not hold."""

from __future__ import annotations

import argparse
import os
import secrets
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager, nullcontext, redirect_stdout
from pathlib import Path
from typing import Any

from embnoise._cli.target import add_target, case_of
from embnoise._cli.usage import UsageError, check_file
from embnoise._noise import Noise
from embnoise._validation import check_choice
from embnoise.testing import check_adapter, check_layer, check_model
from embnoise.testing.claims import NOTES
from embnoise.testing.expected import misspelled_cases, with_expected_failures
from embnoise.testing.find_driver import adapters
from embnoise.testing.profiles import PROFILES
from embnoise.testing.report import Findings

__all__ = ["add_commands"]


def add_commands(commands: Any) -> None:
    """Add the two commands to the parser's."""
    check = commands.add_parser(
        "check", help="check a layer, or noise on a saved model, and report what does not hold"
    )
    check.set_defaults(run=_run, report=_check)
    add_target(check, "; or the file or folder of a saved model")
    _add_run(check, profile="default")
    check.add_argument(
        "--expected-failures", type=Path, metavar="FILE",
        help="a file of checks that are known to fail: lines such as 'EN09 reason'",
    )  # fmt: skip
    models = check.add_argument_group(
        "saved models", "the noise is that of --distribution, --scale, --length and --seed"
    )
    models.add_argument("--alpha", type=float, metavar="A", help="its amplitude (default: 5)")
    models.add_argument("--layer", metavar="NAME", help="its embedding, if there are several")

    adapter = commands.add_parser(
        "check-adapter", help="check an installed adapter: its add_noise and its driver"
    )
    adapter.set_defaults(run=_run, report=_check_adapter)
    adapter.add_argument("adapter", help="its name, such as torch or jax")
    _add_run(adapter, profile="quick")


def _add_run(parser: argparse.ArgumentParser, profile: str) -> None:
    parser.add_argument(
        "--profile", choices=list(PROFILES),
        help=f"how much to test (default: {profile})",
    )  # fmt: skip
    parser.add_argument(
        "--seed", default="0", metavar="N",
        help="the kit's seed: an integer, or 'random' for one that is drawn and printed",
    )  # fmt: skip
    parser.add_argument("--json", action="store_true", help="print the report as JSON")
    parser.set_defaults(usual_profile=profile)


def _run(options: argparse.Namespace) -> int:
    # What a layer prints must not be mixed with JSON.
    with redirect_stdout(sys.stderr) if options.json else nullcontext():
        report: Findings = options.report(options)
    color = sys.stdout.isatty() and "NO_COLOR" not in os.environ
    print(report.to_json() if options.json else report.table(color=color))
    return 0 if report.ok else 1


def _check(options: argparse.Namespace) -> Findings:
    if _is_path(options.target):
        return _check_model(options)
    for name in ("alpha", "layer"):
        if getattr(options, name) is not None:
            raise UsageError(
                f"--{name} is for saved models, and {options.target!r} is not a file or folder"
            )
    return _check_layer(options)


def _is_path(target: str) -> bool:
    """Whether a target is meant as that of a saved model, even if there is none."""
    if target.endswith(".py"):
        return False
    named = target.endswith(".keras") or ("/" in target and ":" not in target)
    return named or os.path.exists(target)


def _check_model(options: argparse.Namespace) -> Findings:
    of_noise = ("distribution", "scale", "length")
    given: dict[str, Any] = {
        name: value for name in of_noise if (value := getattr(options, name)) is not None
    }
    for name in (*NOTES, "inputs", "padding_id", "call", "expected_failures", "profile"):
        if name not in of_noise and getattr(options, name, None) is not None:
            raise UsageError(
                f"--{name.replace('_', '-')} is for layers, and {options.target!r} is a saved model"
            )
    if given.get("length", "").isdecimal():
        given["length"] = int(given["length"])
    if options.driver is not None:
        check_choice("--driver", options.driver, sorted(adapters()))
    alpha = 5.0 if options.alpha is None else options.alpha
    noise = Noise(alpha, seed=_seed(options), **given)
    with _progress() as progress:
        return check_model(
            options.target,
            noise,
            layer=options.layer,
            adapter=options.driver,
            raises=False,
            progress=progress,
        )


def _check_layer(options: argparse.Namespace) -> Findings:
    if options.expected_failures is not None:
        check_file("--expected-failures", options.expected_failures)
    tested, seed = case_of(options), _seed(options)
    if options.expected_failures is not None:
        tested = with_expected_failures(tested, options.expected_failures)
        for note in misspelled_cases(options.expected_failures, [tested.name]):
            print(f"embnoise check: {note}", file=sys.stderr)
    with _progress() as progress:
        return check_layer(
            tested,
            profile=options.profile or options.usual_profile,
            seed=seed,
            raises=False,
            progress=lambda check: progress(check.id),
        )


def _check_adapter(options: argparse.Namespace) -> Findings:
    seed = _seed(options)
    with _progress() as progress:
        return check_adapter(
            options.adapter,
            profile=options.profile or options.usual_profile,
            seed=seed,
            raises=False,
            progress=progress,
        )


def _seed(options: argparse.Namespace) -> int:
    if options.seed != "random":
        return _integer(options.seed)
    seed = secrets.randbits(32)
    print(f"seed {seed}", file=sys.stderr)
    return seed


@contextmanager
def _progress() -> Iterator[Callable[[str], None]]:
    """A function that shows the name of the check that runs, on a terminal."""

    def shown(name: str) -> None:
        print(f"\r\033[K{name} ...", end="", file=sys.stderr, flush=True)

    if not sys.stderr.isatty():
        yield lambda name: None
        return
    yield shown
    print("\r\033[K", end="", file=sys.stderr, flush=True)


def _integer(text: str) -> int:
    try:
        return int(text)
    except ValueError:
        raise UsageError(f"--seed must be an integer or 'random', got {text!r}") from None
