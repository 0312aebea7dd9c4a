"""The command ``embnoise``: check a layer, and learn what the checks are.

Exit codes: 0, what was asked holds; 1, a check failed; 2, it was asked in a wrong way.
"""

from __future__ import annotations

import argparse
import difflib
import importlib
import json
import os
import re
import secrets
import sys
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

from embnoise import __version__

__all__ = ["main"]

_LENGTHS = {"tokens": "tokens", "padded": "padded", "none": None}
_SEEDED = {"true": True, "global": "global", "false": False}


class _UsageError(Exception):
    """What to tell whoever typed the command."""


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the command; returns the exit code.

    Args:
        arguments: as typed after ``embnoise``; those of the process by default.

    Example:
        >>> main(["explain", "EN36"])
        EN36 pairs_cancel
        The rows 2i and 2i + 1 of a batch have opposite noise (SymNoise, arXiv 2312.01523).
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

    check = commands.add_parser("check", help="check a layer, and report what does not hold")
    check.set_defaults(run=_check_layer)
    _add_target(check)
    check.add_argument(
        "--profile", default="default", choices=["quick", "default", "nightly"],
        help="how much to look at (default: default)",
    )  # fmt: skip
    check.add_argument(
        "--seed", default="0", metavar="N",
        help="the kit's seed: an integer, or 'random' for one that is drawn and printed",
    )  # fmt: skip
    check.add_argument("--json", action="store_true", help="print the report as JSON")

    checks = commands.add_parser("checks", help="list the checks, with what each one promises")
    checks.set_defaults(run=_list_checks)
    checks.add_argument("--json", action="store_true", help="print the list as JSON")

    explain = commands.add_parser("explain", help="explain a check, and what makes a layer fail it")
    explain.set_defaults(run=_explain)
    explain.add_argument("code", help="such as EN08")
    explain.add_argument("--json", action="store_true", help="print it as JSON")

    write = commands.add_parser("write", help="write a test file for a layer, to run with pytest")
    write.set_defaults(run=_write)
    _add_target(write)
    write.add_argument(
        "--output", type=Path, metavar="FILE", help="where (default: test_<name>.py, here)"
    )
    return parser


def _add_target(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "target", help="module:make_layer, or module:case for a case with claims of its own"
    )
    parser.add_argument(
        "--driver",
        help="numpy, torch, jax, keras, or another adapter's "
        "name; by default what the layer looks like",
    )
    parser.add_argument(
        "--inputs", choices=["embeddings", "ids"], help="what the layer takes (default: embeddings)"
    )
    parser.add_argument("--call", metavar="module:function", help="how to call the layer")
    claims = parser.add_argument_group("claims", "what the layer promises")
    claims.add_argument("--distribution", choices=["uniform", "gaussian", "rademacher", "none"])
    claims.add_argument("--scale", choices=["neftune", "per_token", "absolute", "relative"])
    claims.add_argument("--length", choices=list(_LENGTHS))
    claims.add_argument("--seeded", choices=list(_SEEDED))
    claims.add_argument("--antithetic", action="store_true", default=None)
    claims.add_argument("--not-compilable", dest="compilable", action="store_false", default=None)
    claims.add_argument("--saved-names", action="append", metavar="NAME")


def _check_layer(options: argparse.Namespace) -> int:
    from embnoise.testing import Check, check_layer  # noqa: PLC0415, so that --help is quick

    case = _case(options)
    seed = secrets.randbits(32) if options.seed == "random" else _integer(options.seed)
    if options.seed == "random":
        print(f"seed {seed}", file=sys.stderr)

    def progress(check: Check) -> None:
        print(f"\r\033[K{check.id} ...", end="", file=sys.stderr, flush=True)

    shown: dict[str, Callable[[Check], None]] = {}
    if sys.stderr.isatty():
        shown["progress"] = progress
    report = check_layer(case, profile=options.profile, seed=seed, raises=False, **shown)
    if shown:
        print("\r\033[K", end="", file=sys.stderr, flush=True)
    colour = sys.stdout.isatty() and "NO_COLOR" not in os.environ
    print(report.to_json() if options.json else report.table(color=colour))
    return 0 if report.ok else 1


def _list_checks(options: argparse.Namespace) -> int:
    from embnoise.testing.checks import ALL  # noqa: PLC0415

    if options.json:
        entries = [{"code": c.code, "name": c.name, "promise": c.promise} for c in ALL]
        print(json.dumps(entries, indent=2))
        return 0
    wide = max(len(check.name) for check in ALL)
    for check in ALL:
        print(f"{check.code}  {check.name.ljust(wide)}  {check.promise}")
    return 0


def _explain(options: argparse.Namespace) -> int:
    from embnoise.testing.checks import ALL  # noqa: PLC0415

    code = options.code.upper()
    found = [check for check in ALL if options.code in (check.name, check.title)]
    found += [check for check in ALL if re.fullmatch(f"EN0*{int(check.code[2:])}", code)]
    if not found:
        near = difflib.get_close_matches(code, [check.code for check in ALL], n=1, cutoff=0)
        raise _UsageError(
            f"there is no check {options.code!r} (did you mean {near[0]}?); `embnoise checks` "
            "lists them all"
        )
    check = found[0]
    if options.json:
        entry = {"code": check.code, "name": check.name, "promise": check.promise,
                 "explanation": check.explanation}  # fmt: skip
        print(json.dumps(entry, indent=2))
    else:
        print(f"{check.code} {check.name}\n{check.explanation}")
    return 0


def _write(options: argparse.Namespace) -> int:
    from embnoise.testing.starter import starter  # noqa: PLC0415

    if _is_case(_load(options.target)):
        raise _UsageError(
            f"{options.target} is a case already: put @parametrize_with_checks([it]) above a test"
        )
    case = _case(options)
    name = options.target.rpartition(":")[2].replace(".", "_")
    path = options.output or Path(f"test_{name}.py")
    if path.exists():
        raise _UsageError(f"{path} is there already: name another file with --output")
    call = options.call
    path.write_text(starter(case, options.target, call), encoding="utf-8")
    print(f"wrote {path}: run it with `python -m pytest {path}`")
    return 0


def _case(options: argparse.Namespace) -> Any:
    """The case that the command line describes."""
    from embnoise.testing import Claims, case  # noqa: PLC0415

    target = _load(options.target)
    given: dict[str, Any] = {
        "distribution": {"none": None}.get(options.distribution, options.distribution),
        "scale": options.scale,
        "length": _LENGTHS.get(options.length),
        "seeded": _SEEDED.get(options.seeded),
        "antithetic": options.antithetic,
        "compilable": options.compilable,
        "saved_names": tuple(options.saved_names or ()),
    }
    given = {name: value for name, value in given.items() if getattr(options, name) is not None}
    if _is_case(target):
        if given or options.driver or options.inputs or options.call:
            raise _UsageError(
                f"{options.target} is a case, which has its driver and its claims: leave out "
                "the options for them"
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
    from embnoise.testing.find_driver import guessed_driver  # noqa: PLC0415

    try:
        name = guessed_driver(make_layer(dim=8, alpha=1.0, seed=0))
    except Exception:
        name = None
    if name is None:
        raise _UsageError(
            "--driver is needed, for the layer does not tell it: numpy, torch, jax, keras or "
            "another adapter's name"
        )
    return name


def _is_case(target: Any) -> bool:
    from embnoise.testing import Case  # noqa: PLC0415

    return isinstance(target, Case)


def _load(target: str) -> Any:
    """What ``module:name`` names; modules are looked for here, as Python does for scripts."""
    module, colon, name_in_it = target.partition(":")
    if not (module and colon and name_in_it):
        raise _UsageError(
            f"what to load must be module:name, such as my_package.layers:make_layer, got "
            f"{target!r}"
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
            near = difflib.get_close_matches(name, dir(found), n=1)
            hint = f" (did you mean {near[0]!r}?)" if near else ""
            raise _UsageError(f"{module} has no {name_in_it!r}{hint}")
        found = getattr(found, name)
    return found


def _integer(text: str) -> int:
    try:
        return int(text)
    except ValueError:
        raise _UsageError(f"--seed must be an integer or 'random', got {text!r}") from None
