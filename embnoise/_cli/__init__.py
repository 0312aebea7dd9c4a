"""The command ``embnoise``: check a layer, a model or an adapter, and read what the checks test.

A package may add a command through the entry-point group ``embnoise.commands``: a function that
takes what follows the command's name, a list of strings, and returns the exit code. ``embnoise
--help`` shows the first line of its module's docstring.

Exit codes: 0, everything holds; 1, a check failed; 2, wrong usage.
"""

from __future__ import annotations

import argparse
import ast
import os
import sys
from collections.abc import Mapping, Sequence
from importlib.machinery import PathFinder
from importlib.metadata import EntryPoints, entry_points
from importlib.util import find_spec
from typing import Any

from embnoise import __version__
from embnoise._cli import check, explain, inspect, plot, write
from embnoise._cli.usage import UsageError

__all__ = ["main"]

_BROKEN_PIPE = 141
"""What a shell sees of a program that the signal SIGPIPE ends."""


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the command; returns the exit code.

    Args:
        arguments: What follows ``embnoise`` on the command line. Default: those of the process.

    Example:
        >>> main(["explain", "EN36"])
        EN36 pairs_cancel
        The rows 2i and 2i + 1 of a batch have opposite noise (SymNoise, arXiv 2312.01523).
        <BLANKLINE>
        This also applies to padded and large batches. The last of an odd number of rows has noise.
        Fails for layers that draw for each row, or pair other rows.
        0
    """
    arguments = sys.argv[1:] if arguments is None else list(arguments)
    installed = entry_points(group="embnoise.commands")
    command = arguments[0] if arguments else None
    try:
        if command in installed.names:
            return int(installed[command].load()(arguments[1:]))
        parser, commands = _parsers(installed)
        options, unknown = parser.parse_known_args(arguments)
        if unknown:  # argparse shows the usage of `embnoise`, which has no options
            commands[options.command].error(f"unrecognized arguments: {' '.join(unknown)}")
        code = int(options.run(options))
        sys.stdout.flush()
        return code
    except BrokenPipeError:  # whoever read the output, such as `head`, wants no more of it
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return _BROKEN_PIPE
    except (UsageError, ValueError, TypeError, ImportError, OSError) as error:
        print(f"embnoise {command}: {error}", file=sys.stderr)
        return 2


def _parsers(
    installed: EntryPoints,
) -> tuple[argparse.ArgumentParser, Mapping[str, argparse.ArgumentParser]]:
    """The command's parser, and those of its subcommands by name."""
    parser = argparse.ArgumentParser(
        prog="embnoise", description="Check, measure and plot noise on embeddings."
    )
    parser.add_argument("--version", action="version", version=f"embnoise {__version__}")
    commands = parser.add_subparsers(dest="command", required=True, metavar="command")
    for module in (check, inspect, plot, explain, write):
        module.add_commands(commands)
    for entry in installed:
        text = summary_of(entry.module) or f"of {entry.module}: see embnoise {entry.name} --help"
        commands.add_parser(entry.name, help=text)
    return parser, commands.choices


def summary_of(module: str) -> str:
    """The first line of a module's docstring, in the style of ``--help``; none if it is not found.

    It is read from the source: importing the module may take seconds.
    """
    package, *rest = module.split(".")
    spec = find_spec(package)
    for number in range(len(rest)):
        if spec is None:
            return ""
        name = ".".join([package, *rest[: number + 1]])
        spec = PathFinder.find_spec(name, spec.submodule_search_locations)
    loader: Any = None if spec is None else spec.loader
    source = loader.get_source(module) if hasattr(loader, "get_source") else None
    line = (ast.get_docstring(ast.parse(source or "")) or "").partition("\n")[0].rstrip(".")
    return line[:1].lower() + line[1:]
