"""The command ``embnoise``: check a layer, a model or an adapter, and read what the checks test.

Exit codes: 0, everything holds; 1, a check failed; 2, wrong usage.
"""

from __future__ import annotations

import argparse
import difflib
import importlib
import inspect
import json
import os
import re
import secrets
import sys
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from embnoise import __version__
from embnoise._noise import Noise
from embnoise._validation import did_you_mean
from embnoise.testing import Case, Claims, case, check_adapter, check_layer, check_model
from embnoise.testing.checks import ALL
from embnoise.testing.claims import FLAGS, NOTES
from embnoise.testing.expected import with_expected_failures
from embnoise.testing.find_driver import guessed_driver
from embnoise.testing.model_checks import MODEL_CHECKS
from embnoise.testing.profiles import PROFILES
from embnoise.testing.report import Findings
from embnoise.testing.starter import starter

__all__ = ["main"]

_WORDS = {"none": None, "true": True, "false": False}


class _UsageError(Exception):
    """A message for the user of the command."""


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the command; returns the exit code.

    Args:
        arguments: What follows ``embnoise`` on the command line. Default: those of the process.

    Example:
        >>> main(["explain", "EN36"])
        EN36 pairs_cancel
        The rows 2i and 2i + 1 of a batch have opposite noise (SymNoise, arXiv 2312.01523).
        <BLANKLINE>
        Fails for layers that draw for each row, or pair other rows.
        0
    """
    options = _parser().parse_args(arguments)
    try:
        code: int = options.run(options)
    except (_UsageError, ValueError, TypeError, ImportError, OSError) as error:
        print(f"embnoise {options.command}: {error}", file=sys.stderr)
        return 2
    return code


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="embnoise", description="Property tests for layers that add noise to embeddings."
    )
    parser.add_argument("--version", action="version", version=f"embnoise {__version__}")
    commands = parser.add_subparsers(dest="command", required=True, metavar="command")

    check = commands.add_parser(
        "check", help="check a layer, or noise on a saved model, and report what does not hold"
    )
    check.set_defaults(run=_check)
    _add_target(check, "; or the file or folder of a saved model")
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
    adapter.set_defaults(run=_check_adapter)
    adapter.add_argument("adapter", help="its name, such as torch or jax")
    _add_run(adapter, profile="quick")

    checks = commands.add_parser("checks", help="list the checks and what each one tests")
    checks.set_defaults(run=_list_checks)
    checks.add_argument("--json", action="store_true", help="print the list as JSON")

    explain = commands.add_parser("explain", help="explain a check and what makes a layer fail it")
    explain.set_defaults(run=_explain)
    explain.add_argument("code", help="such as EN08")
    explain.add_argument("--json", action="store_true", help="print the explanation as JSON")

    write = commands.add_parser("write", help="write a pytest file for a layer")
    write.set_defaults(run=_write)
    _add_target(write)
    write.add_argument(
        "--output", type=Path, metavar="FILE", help="where to write (default: test_<name>.py here)"
    )
    return parser


def _add_target(parser: argparse.ArgumentParser, more: str = "") -> None:
    parser.add_argument(
        "target", help=f"module:make_layer, or module:case for a case that has claims{more}"
    )
    parser.add_argument(
        "--driver",
        help="numpy, torch, jax, keras, or the name of another adapter (default: guessed)",
    )
    parser.add_argument(
        "--inputs", choices=["embeddings", "ids"], help="what the layer takes (default: embeddings)"
    )
    parser.add_argument("--call", metavar="module:function", help="how to call the layer")
    claims = parser.add_argument_group("claims", "what the layer claims")
    for name, default in vars(Claims()).items():
        if name not in NOTES or name == "schedule":  # a function cannot be typed
            continue
        option, note = name.replace("_", "-"), NOTES[name].replace("`", "").rstrip(".")
        if name in FLAGS:
            prefix, note = ("not-", f"not claimed: {note}") if default else ("", note)
            claims.add_argument(
                f"--{prefix}{option}", dest=name, action="store_const", const=not default, help=note
            )
        elif isinstance(default, tuple):
            claims.add_argument(f"--{option}", action="append", metavar="NAME", help=note)
        else:
            claims.add_argument(f"--{option}", help=f"{note} (default: {str(default).lower()})")


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


def _check(options: argparse.Namespace) -> int:
    if _is_path(options.target):
        return _check_model(options)
    for name in ("alpha", "layer"):
        if getattr(options, name) is not None:
            raise _UsageError(
                f"--{name} is for saved models, and {options.target!r} is no file or folder"
            )
    return _check_layer(options)


def _is_path(target: str) -> bool:
    """Whether a target is meant as a file or folder, even if there is none."""
    named = target.endswith(".keras") or ("/" in target and ":" not in target)
    return named or os.path.exists(target)


def _check_model(options: argparse.Namespace) -> int:
    of_noise = ("distribution", "scale", "length")
    given = {name: value for name in of_noise if (value := getattr(options, name)) is not None}
    for name in (*NOTES, "inputs", "call", "expected_failures", "profile"):
        if name not in of_noise and getattr(options, name, None) is not None:
            raise _UsageError(
                f"--{name.replace('_', '-')} is for layers, and {options.target!r} is a saved model"
            )
    alpha = 5.0 if options.alpha is None else options.alpha
    noise = Noise(alpha, seed=_seed(options), **given)
    with _progress() as progress:
        report = check_model(
            options.target,
            noise,
            layer=options.layer,
            adapter=options.driver,
            raises=False,
            progress=progress,
        )
    return _print(report, as_json=options.json)


def _check_layer(options: argparse.Namespace) -> int:
    tested, seed = _case(options), _seed(options)
    if options.expected_failures is not None:
        tested = with_expected_failures(tested, options.expected_failures)
    with _progress() as progress:
        report = check_layer(
            tested,
            profile=options.profile or options.usual_profile,
            seed=seed,
            raises=False,
            progress=lambda check: progress(check.id),
        )
    return _print(report, as_json=options.json)


def _check_adapter(options: argparse.Namespace) -> int:
    seed = _seed(options)
    with _progress() as progress:
        report = check_adapter(
            options.adapter,
            profile=options.profile or options.usual_profile,
            seed=seed,
            raises=False,
            progress=progress,
        )
    return _print(report, as_json=options.json)


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


def _print(report: Findings, *, as_json: bool) -> int:
    color = sys.stdout.isatty() and "NO_COLOR" not in os.environ
    print(report.to_json() if as_json else report.table(color=color))
    return 0 if report.ok else 1


def _list_checks(options: argparse.Namespace) -> int:
    if options.json:
        entries = [{"code": c.code, "name": c.name, "promise": c.promise} for c in ALL]
        print(json.dumps(entries, indent=2))
        return 0
    wide = max(len(check.name) for check in ALL)
    for check in ALL:
        print(f"{check.code}  {check.name.ljust(wide)}  {check.promise}")
    return 0


def _explain(options: argparse.Namespace) -> int:
    code = options.code.upper()
    if code in MODEL_CHECKS:
        return _explain_model_check(code, as_json=options.json)
    found = [check for check in ALL if options.code in (check.name, check.title)]
    found += [check for check in ALL if re.fullmatch(f"EN0*{int(check.code[2:])}", code)]
    if not found:
        near = difflib.get_close_matches(code, [check.code for check in ALL], n=1, cutoff=0)
        raise _UsageError(
            f"there is no check {options.code!r} (did you mean {near[0]}?); `embnoise checks` "
            "lists all checks"
        )
    check = found[0]
    if options.json:
        entry = {"code": check.code, "name": check.name, "promise": check.promise,
                 "explanation": check.explanation}  # fmt: skip
        print(json.dumps(entry, indent=2))
    else:
        print(f"{check.code} {check.name}\n{check.explanation}")
    return 0


def _explain_model_check(code: str, *, as_json: bool) -> int:
    check = MODEL_CHECKS[code]
    text = inspect.getdoc(check) or ""
    entry = {"code": code, "name": check.__name__, "promise": text, "explanation": text}
    print(json.dumps(entry, indent=2) if as_json else f"{code} {check.__name__}\n{text}")
    return 0


def _write(options: argparse.Namespace) -> int:
    if isinstance(_load(options.target), Case):
        raise _UsageError(
            f"{options.target} is a case: put @parametrize_with_checks([it]) above a test"
        )
    tested = _case(options)
    name = options.target.rpartition(":")[2].replace(".", "_")
    path = options.output or Path(f"test_{name}.py")
    if path.exists():
        raise _UsageError(f"{path} exists: choose another file with --output")
    path.write_text(starter(tested, options.target, options.call), encoding="utf-8")
    print(f"wrote {path}: run it with `python -m pytest {path}`")
    return 0


def _case(options: argparse.Namespace) -> Case:
    """The case that the command line describes."""
    target = _load(options.target)
    given: dict[str, Any] = {
        name: _WORDS.get(value, value) if isinstance(value, str) else value
        for name, value in vars(options).items()
        if name in NOTES and value is not None
    }
    if isinstance(target, Case):
        if given or options.driver or options.inputs or options.call:
            raise _UsageError(
                f"{options.target} is a case, which has its own driver and claims: leave out the "
                "options for them"
            )
        return target
    return case(
        options.target.rpartition(":")[2],
        target,
        driver=options.driver or _driver_for(target),
        inputs=options.inputs or "embeddings",
        call=_load(options.call) if options.call else None,
        claims=Claims(**given),
    )


def _driver_for(make_layer: Any) -> str:
    """The driver's name, guessed from a layer."""
    try:
        name = guessed_driver(make_layer(dim=8, alpha=1.0, seed=0))
    except Exception:
        name = None
    if name is None:
        raise _UsageError(
            "--driver is needed, since the layer does not show its framework: numpy, torch, jax, "
            "keras or the name of another adapter"
        )
    return name


def _load(target: str) -> Any:
    """What ``module:name`` names; modules are found in this folder too, as for a script."""
    module, colon, name_in_it = target.partition(":")
    if not (module and colon and name_in_it):
        raise _UsageError(
            f"the target must be module:name, such as my_package.layers:make_layer, got {target!r}"
        )
    if os.getcwd() not in sys.path:
        sys.path.insert(0, os.getcwd())
    try:
        found: Any = importlib.import_module(module)
    except ModuleNotFoundError as error:
        if error.name and (error.name == module or module.startswith(f"{error.name}.")):
            meant = module.removesuffix(".py").replace("/", ".")
            hint = f" (did you mean {meant}:{name_in_it}?)" if meant != module else ""
            raise _UsageError(
                f"there is no module {error.name!r} here or installed{hint}"
            ) from None
        raise _UsageError(f"{module} needs {error.name}, which is not installed") from None
    except Exception as error:
        raise _UsageError(f"importing {module} raised {type(error).__name__}: {error}") from None
    for name in name_in_it.split("."):
        if not hasattr(found, name):
            raise _UsageError(f"{module} has no {name_in_it!r}{did_you_mean(name, dir(found))}")
        found = getattr(found, name)
    return found


def _integer(text: str) -> int:
    try:
        return int(text)
    except ValueError:
        raise _UsageError(f"--seed must be an integer or 'random', got {text!r}") from None
