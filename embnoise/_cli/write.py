"""``embnoise write``: a pytest file for a layer."""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import Any

from embnoise._cli.target import add_target, case_of, load
from embnoise._cli.usage import UsageError, check_place
from embnoise.testing import Case
from embnoise.testing.starter import starter

__all__ = ["add_commands"]


def add_commands(commands: Any) -> None:
    """Add the command to the parser's."""
    write = commands.add_parser("write", help="write a pytest file for a layer")
    write.set_defaults(run=_write)
    add_target(write)
    write.add_argument(
        "--output", type=Path, metavar="FILE", help="where to write (default: test_<name>.py here)"
    )


def _write(options: argparse.Namespace) -> int:
    if options.output is not None:
        check_place("--output", options.output)
    if isinstance(load(options.target), Case):
        raise UsageError(
            f"{options.target} is a case: put @parametrize_with_checks([it]) above a test"
        )
    tested = case_of(options)
    name = options.target.rpartition(":")[2].replace(".", "_")
    path = options.output or Path(f"test_{name}.py")
    if path.exists():
        raise UsageError(f"{path} exists: choose another file with --output")
    path.write_text(starter(tested, options.target, options.call), encoding="utf-8")
    print(f"wrote {path}: run it with `python -m pytest {path}`")
    return 0
