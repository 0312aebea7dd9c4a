"""Run a training script of TRL with noise.

This is the command ``embnoise trl``: TRL's own command line, with noise.

TRL starts its script through ``accelerate launch``, in one process or in many. Each of them runs
this module in place of the script: it adds the callback, and runs the script.
"""

from __future__ import annotations

import argparse
import runpy
import sys
from collections.abc import Sequence

from trl.cli import main as trl_main
from trl.cli.commands import get_commands
from trl.cli.commands.training import TrainingCommand

from embnoise.backend import read_noise
from embnoise_torch import _compat
from embnoise_torch.transformers import NoiseCallback

__all__ = ["command"]


def command(arguments: Sequence[str]) -> int:
    """Run a training script of TRL with noise; returns the exit code.

    Args:
        arguments: ``["sft", "--noise", "noise.json", ...]``. The file is a saved ``Noise``.
            ``--noise_where`` and ``--noise_layer`` are arguments of ``NoiseCallback``; all others
            are TRL's.

    Raises:
        OSError: The file cannot be read.
        ValueError: No such script, no file, or a file that does not describe a noise.

    Example:
        >>> from embnoise_torch.trl import command
        >>> command(["sft", "--model_name_or_path", "Qwen/Qwen3-0.6B"])
        Traceback (most recent call last):
            ...
        ValueError: --noise must name a JSON file that describes the noise, got none
    """
    parser = _parser()
    options, rest = parser.parse_known_args(arguments)
    scripts = [each.name for each in get_commands() if isinstance(each, TrainingCommand)]
    script = rest[0] if rest else "nothing"
    if script in ("-h", "--help"):
        print(f"{parser.format_help()}\nSCRIPT is one of {', '.join(scripts)}.")
        return 0
    if script not in scripts:
        raise ValueError(f"the first argument must be one of {', '.join(scripts)}, got {script}")
    if {"-h", "--help"} & set(rest):
        print(parser.format_help())
    elif options.noise is None:
        raise ValueError("--noise must name a JSON file that describes the noise, got none")
    else:
        read_noise(options.noise)  # what is wrong with it is said once, not by every process
    given = [(f"--{name}", value) for name, value in vars(options).items() if value is not None]
    with _compat.trl_runs(__name__, [text for pair in given for text in pair]):
        return trl_main(rest)


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="embnoise trl", usage="embnoise trl SCRIPT --noise FILE [arguments of TRL]",
        add_help=False, allow_abbrev=False,
    )  # fmt: skip
    parser.add_argument("--noise", metavar="FILE", help="a JSON file: see Noise.to_dict()")
    parser.add_argument(
        "--noise_where", choices=["all", "prompt", "completion"],
        help="which tokens get noise (default: all)",
    )  # fmt: skip
    parser.add_argument(
        "--noise_layer", metavar="NAME", help="the embedding, if it is not found by itself"
    )
    return parser


def _run_script(arguments: Sequence[str]) -> None:
    """Run the script in this process, which ``accelerate launch`` has started."""
    options, (script, *rest) = _parser().parse_known_args(arguments)
    callback = NoiseCallback(
        read_noise(options.noise), layer=options.noise_layer, where=options.noise_where or "all"
    )
    _compat.default_callbacks().append(callback)
    sys.argv[1:] = rest
    runpy.run_module(f"trl.scripts.{script}", run_name="__main__", alter_sys=True)


if __name__ == "__main__":
    _run_script(sys.argv[1:])
