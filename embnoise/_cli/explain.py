"""``embnoise checks`` and ``explain``: what the checks test."""

from __future__ import annotations

import argparse
import difflib
import inspect
import json
import re
from typing import Any

from embnoise._cli.usage import UsageError
from embnoise.testing.checks import ALL
from embnoise.testing.model_checks import MODEL_CHECKS

__all__ = ["add_commands"]


def add_commands(commands: Any) -> None:
    """Add the two commands to the parser's."""
    checks = commands.add_parser("checks", help="list the checks and what each one tests")
    checks.set_defaults(run=_list_checks)
    checks.add_argument("--json", action="store_true", help="print the list as JSON")

    explain = commands.add_parser("explain", help="explain a check and what makes a layer fail it")
    explain.set_defaults(run=_explain)
    explain.add_argument("code", help="such as EN08")
    explain.add_argument("--json", action="store_true", help="print the explanation as JSON")


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
    if re.fullmatch(r"(AD|DR)\d+", code):
        raise UsageError(
            f"{code} is a check of adapters: the report of `embnoise check-adapter` describes it"
        )
    found = [check for check in ALL if options.code in (check.name, check.title)]
    found += [check for check in ALL if re.fullmatch(f"EN0*{int(check.code[2:])}", code)]
    if not found:
        near = [check.title for check in ALL if options.code.lower() in check.name]
        near += difflib.get_close_matches(code, [check.code for check in ALL], n=1, cutoff=0.6)
        hint = f" (did you mean {' or '.join(near[:3])}?)" if near else ""
        raise UsageError(
            f"there is no check {options.code!r}{hint}; `embnoise checks` lists all checks"
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
