"""``embnoise inspect``: how large noise is beside a saved model's embeddings."""

from __future__ import annotations

import argparse
import json
import warnings
from pathlib import Path
from typing import Any

import numpy as np

from embnoise._cli.plot import check_picture, save_picture
from embnoise._cli.token_rows import read_rows
from embnoise._cli.usage import UsageError, check_file
from embnoise._inspect.inspection import LENGTHS, noise_at
from embnoise._inspect.measurement import length_quartiles
from embnoise._inspect.report import Inspection
from embnoise._noise import Noise, neftune
from embnoise._noise_file import read_noise
from embnoise._schedules import Schedule
from embnoise._validation import check_choice
from embnoise.testing.find_driver import adapters
from embnoise.testing.row_batches import drawn_rows, row_batches
from embnoise.testing.saved_model import SavedModel, SavedTable, load_model

__all__ = ["add_commands"]


def add_commands(commands: Any) -> None:
    """Add the command to the parser's."""
    inspect = commands.add_parser(
        "inspect", help="compare noise with a saved model's embeddings, and measure it"
    )
    inspect.set_defaults(run=_inspect)
    inspect.add_argument(
        "model", type=Path, metavar="MODEL",
        help="the folder of a transformers model, a .keras file, the folder of a keras-hub preset; "
        "or, without a model to call, a .safetensors file or an Orbax checkpoint of NNX",
    )  # fmt: skip
    inspect.add_argument(
        "--data", type=Path, metavar="FILE",
        help='JSON lines: {"input_ids": [...]}, or {"text": "..."} for the model\'s tokenizer',
    )  # fmt: skip
    inspect.add_argument(
        "--alpha", type=float, metavar="A", help="the amplitude of NEFTune's noise (default: 5)"
    )
    inspect.add_argument(
        "--noise", type=Path, metavar="FILE", help="another noise, a JSON file: see Noise.to_dict()"
    )
    inspect.add_argument(
        "--step",
        type=int,
        default=0,
        metavar="N",
        help="the step whose alpha is taken (default: 0)",
    )
    inspect.add_argument(
        "--steps", type=int, metavar="N",
        help="the length of the run in steps, for a schedule that lasts as long",
    )  # fmt: skip
    inspect.add_argument("--layer", metavar="NAME", help="the embedding, if there are several")
    inspect.add_argument(
        "--multiplier", type=float, metavar="M",
        help="what the embedding multiplies its rows by, where there is no model to measure it in "
        "(default: 1)",
    )  # fmt: skip
    inspect.add_argument(
        "--driver", metavar="ADAPTER", help="the adapter that loads the model (default: found)"
    )
    inspect.add_argument(
        "--reference-rms", type=float, metavar="R",
        help="the RMS of LLaMA-2-7B's embedding table: shows the alpha that gives the noise ratio "
        "of the paper",
    )  # fmt: skip
    inspect.add_argument("--json", action="store_true", help="print the report as JSON")
    inspect.add_argument(
        "--plot", type=Path, metavar="FILE", help="a .png or .svg file to write, with matplotlib"
    )


def _inspect(options: argparse.Namespace) -> int:
    noise = _noise(options)
    noise_at(noise, options.step)  # before a model is loaded
    if options.driver is not None:
        check_choice("--driver", options.driver, sorted(adapters()))
    if options.data is not None:
        check_file("--data", options.data)
    if options.plot is not None:
        check_picture("--plot", options.plot)
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", "embnoise: ")  # what is measured shows it
        saved = load_model(options.model, options.layer, options.driver)
        report = _report(saved, noise, options)
    if options.json:
        print(json.dumps({"path": str(options.model), **report.to_dict()}, indent=2))
    else:
        print(f"{options.model}: {saved.name}\n{report.table()}")
    if options.plot is not None:
        from embnoise._cli.inspect_figure import figure  # noqa: PLC0415, an optional dependency

        save_picture(figure(report), options.plot)
    return 0


def _noise(options: argparse.Namespace) -> Noise:
    if options.steps is not None and options.steps < 1:
        raise UsageError(f"--steps must be at least 1, got {options.steps}")
    if options.steps is not None and options.step >= options.steps:
        raise UsageError(f"--step must be below --steps {options.steps}, got {options.step}")
    if options.noise is None:
        return neftune(5.0 if options.alpha is None else options.alpha)
    if options.alpha is not None:
        raise UsageError("--alpha must be left out with --noise, whose file has its own alpha")
    check_file("--noise", options.noise)
    noise = read_noise(options.noise)
    if options.steps is not None:
        return noise.bind(options.steps)
    if isinstance(noise.alpha, Schedule) and not noise.alpha.bound:
        raise UsageError(
            f"--steps, the length of the run, is needed: {options.noise} has a schedule that lasts "
            "as long"
        )
    return noise


def _report(
    saved: SavedModel | SavedTable, noise: Noise, options: argparse.Namespace
) -> Inspection:
    given = {"step": options.step, "reference_rms": options.reference_rms}
    rows = None
    if options.data is not None:
        rows = read_rows(options.data, saved.shape[0], saved.tokenize)
        tokens_in = np.array([len(row) for row in rows])
        lengths = length_quartiles(np.repeat(tokens_in, tokens_in))
    else:
        lengths = LENGTHS
    if isinstance(saved, SavedTable):
        multiplier = 1.0 if options.multiplier is None else options.multiplier
        return saved.inspect(noise, lengths=lengths, multiplier=multiplier, **given)
    if options.multiplier is not None:
        raise UsageError(
            f"--multiplier must be left out: that of {saved.name} is measured in its calls"
        )
    batches = row_batches(saved, drawn_rows(saved) if rows is None else rows)
    return saved.inspect(noise, *batches, lengths=lengths, **given)
