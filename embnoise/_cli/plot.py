"""``embnoise plot``: what configurations mean, as a picture or as text."""

from __future__ import annotations

import argparse
from collections.abc import Mapping
from importlib import import_module
from pathlib import Path
from typing import Any

from embnoise._cli.usage import UsageError, check_file, check_place
from embnoise._curves import Curves, curves
from embnoise._noise import Noise
from embnoise._noise_file import read_noise

__all__ = ["add_commands", "check_picture", "save_picture"]

_FORMATS = (".png", ".svg")


def add_commands(commands: Any) -> None:
    """Add the command to the parser's."""
    plot = commands.add_parser(
        "plot", help="draw alpha over a run, the size of noise over lengths, and its distribution"
    )
    plot.set_defaults(run=_plot)
    plot.add_argument(
        "noise", nargs="+", type=Path, metavar="FILE", help="a JSON file: see Noise.to_dict()"
    )
    plot.add_argument(
        "--steps",
        type=int,
        default=1000,
        metavar="N",
        help="the length of the run in steps (default: 1000)",
    )
    plot.add_argument(
        "--dim", type=int, default=4096, metavar="D", help="the embedding size (default: 4096)"
    )
    plot.add_argument(
        "--output", type=Path, metavar="FILE",
        help="a .png or .svg file to write, with matplotlib (default: text on the terminal)",
    )  # fmt: skip


def _plot(options: argparse.Namespace) -> int:
    for name in ("steps", "dim"):
        if getattr(options, name) < 1:
            raise UsageError(f"--{name} must be at least 1, got {getattr(options, name)}")
    noises = _named(options.noise)
    drawn = {
        name: curves(noise, total_steps=options.steps, dim=options.dim)
        for name, noise in noises.items()
    }
    if options.output is None:
        from embnoise._cli.plot_text import text  # noqa: PLC0415, beside the one below

        print(text(noises, drawn, options.dim))
    else:
        _save(drawn, options.dim, options.output)
        print(f"wrote {options.output}")
    return 0


def _named(paths: list[Path]) -> dict[str, Noise]:
    """The noise of each file, by the file's name, or by its path if several have that name."""
    stems = [path.stem for path in paths]
    names = stems if len(set(stems)) == len(stems) else [str(path) for path in paths]
    for number, name in enumerate(names):
        check_file("FILE", paths[number])
        if name in names[:number]:
            raise UsageError(f"each FILE must be named once, got {name} twice")
    return {name: read_noise(path) for name, path in zip(names, paths, strict=True)}


def _save(drawn: Mapping[str, Curves], dim: int, output: Path) -> None:
    check_picture("--output", output)
    from embnoise._cli.plot_figure import figure  # noqa: PLC0415, an optional dependency

    save_picture(figure(drawn, dim), output)


def check_picture(option: str, path: Path) -> None:
    """Raise unless a picture can be drawn for a file.

    Raises:
        UsageError: The file's name ends in something else, there is no such folder, or matplotlib
            is not installed.
    """
    if path.suffix not in _FORMATS:
        raise UsageError(f"{option} must end in .png or .svg, got {path}")
    check_place(option, path)
    try:
        import_module("matplotlib.figure")
    except ModuleNotFoundError as error:
        raise UsageError(f'{option} needs {error.name}: pip install "embnoise[plot]"') from None


def save_picture(picture: Any, path: Path) -> None:
    """Write a figure of matplotlib to a file."""
    picture.savefig(path, dpi=150)
