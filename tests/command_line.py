"""``docs/command-line.md``: every subcommand and option of ``embnoise``, from its parsers.

    python -m tests.command_line

writes the page.
"""

from __future__ import annotations

import argparse
import re
from collections.abc import Iterator
from importlib.metadata import EntryPoints
from pathlib import Path

from embnoise import _cli

PAGE = Path(__file__).parent.parent / "docs" / "command-line.md"
INTRODUCTION = """\
# Command line

<!-- this page: python -m tests.command_line -->

```sh
pip install embnoise  # and the framework of the layer or the model, as in embnoise[torch]
embnoise --help       # or python -m embnoise --help
```

The exit code is 0 if everything holds, 1 if a check failed, and 2 for wrong usage, which is
reported in one line. These pages show the commands in use:
[Testing your own layer](testing.md#command-line), [Saved models](saved-models.md),
[Inspecting a model](inspect.md), [Configuration](configuration.md#look-at-a-configuration). The
options of the pytest plugin are in [pytest](testing.md#pytest)."""
TRL = """\
Any other argument is passed to TRL: see
[TRL's command line](trainers.md#trls-command-line)."""


def page() -> str:
    """The page as it should be; the command of PyTorch's adapter needs TRL."""
    from embnoise_torch import trl  # noqa: PLC0415

    parser, parsers = _cli._parsers(EntryPoints(()))
    (commands,) = (each for each in parser._actions if isinstance(each, argparse._SubParsersAction))
    about = {each.dest: each.help or "" for each in commands._choices_actions}
    parts = [INTRODUCTION]
    for name, own in parsers.items():
        parts += [f"## embnoise {name}", sentence(about[name])]
        for part in tables(own):
            if part not in parts or not part.startswith("| Argument"):
                parts.append(part)
            else:  # the claims of `check` and of `write`
                parts[-1] = f"{parts[-1].removesuffix('.')}, as [above](#embnoise-check)."
    parts += ["## embnoise trl", sentence(_cli.summary_of(trl.__name__))]
    parts += [f"```sh\n{trl._parser().usage}\n```", *tables(trl._parser()), TRL]
    return "\n\n".join(parts) + "\n"


def tables(parser: argparse.ArgumentParser) -> Iterator[str]:
    """The arguments of a command; each group of options with a title has a table of its own."""
    usual = ("positional arguments", "options")
    plain = [group for group in parser._action_groups if group.title in usual]
    titled = [group for group in parser._action_groups if group.title not in usual]
    yield from table([action for group in plain for action in group._group_actions])
    for group in titled:
        yield f"{sentence(f'{group.title}: {group.description}')}"
        yield from table(group._group_actions)


def table(actions: list[argparse.Action]) -> Iterator[str]:
    """A row for each argument that ``--help`` lists."""
    rows = [
        f"| `{named(action)}` | {meaning(action)} |"
        for action in actions
        if action.help != argparse.SUPPRESS and not isinstance(action, argparse._HelpAction)
    ]
    if rows:
        yield "\n".join(["| Argument | Meaning |", "| --- | --- |", *rows])


def named(action: argparse.Action) -> str:
    """An argument as it is typed: its name, and what stands for its value."""
    values = ""
    if action.nargs != 0:
        values = str(action.metavar or action.dest.upper())
        if action.choices is not None:
            values = "{" + ",".join(map(str, action.choices)) + "}"
    name = action.option_strings[0] if action.option_strings else (action.metavar or action.dest)
    if not action.option_strings:
        return f"{name} ..." if action.nargs == "+" else str(name)
    return f"{name} {values}".strip()


def meaning(action: argparse.Action) -> str:
    """The help of an argument, as Markdown in a table."""
    again = "; may be given several times" if isinstance(action, argparse._AppendAction) else ""
    return re.sub(r"([*<|])", r"\\\1", f"{action.help}{again}")


def sentence(text: str) -> str:
    """A help text as a sentence."""
    return f"{text[0].upper()}{text[1:].rstrip('.')}."


if __name__ == "__main__":
    PAGE.write_text(page())
