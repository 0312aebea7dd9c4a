"""Fine-tune a language model twice, plain and with embedding noise, and compare.

    python examples/finetune.py            # a small Llama on docstrings, some minutes on two cores
    python examples/finetune.py --quick    # the same in half a minute, too short to learn much
    python examples/finetune.py --backend jax      # the same model in Flax NNX
    python examples/finetune.py --backend keras    # and in Keras
    python examples/finetune.py --model path/to/a/model --data alpaca.json --alpha 5

Both arms start from the same weights and see the same batches; only the noise differs.
"""

from __future__ import annotations

import argparse
from collections.abc import Callable
from dataclasses import dataclass
from importlib import import_module
from pathlib import Path

import report
from embnoise import Noise, Schedule, cosine, exponential, linear, polynomial, sigmoid
from pairs import docstring_pairs, read_pairs, split
from task import Task

SCHEDULES: dict[str, Callable[[float], float | Schedule]] = {
    "constant": lambda alpha: alpha,
    "linear": lambda alpha: linear(alpha, 0.0),
    "cosine": lambda alpha: cosine(alpha, 0.0),
    "polynomial": lambda alpha: polynomial(alpha, 0.0),
    "sigmoid": lambda alpha: sigmoid(alpha, 0.0),
    "exponential": lambda alpha: exponential(alpha, alpha / 100),  # it cannot reach 0
}


@dataclass(frozen=True)
class Size:
    """How much of everything."""

    train: int
    held_out: int
    pretraining_steps: int
    epochs: int


# Little data, because that is where noise does most.
DEFAULT = Size(train=320, held_out=256, pretraining_steps=600, epochs=12)
QUICK = Size(train=64, held_out=64, pretraining_steps=50, epochs=6)


def main(argv: list[str] | None = None) -> list[report.Arm]:
    """Run the comparison; returns the plain and the noisy arm."""
    parser = _parser()
    args = parser.parse_args(argv)
    if args.model and args.backend != "torch":
        parser.error(f"--model takes a PyTorch model: --backend must be torch, got {args.backend}")
    size = QUICK if args.quick else DEFAULT
    try:
        alpha = SCHEDULES[args.schedule](args.alpha)
        noise = Noise(alpha, distribution=args.distribution, seed=args.seed)
        pairs = read_pairs(args.data) if args.data else docstring_pairs()
        train, held_out = split(pairs, size.train, size.held_out, args.seed)
    except ValueError as error:
        parser.error(str(error))
    try:
        backend = import_module(f"finetune_{args.backend}")
    except ModuleNotFoundError as error:
        parser.error(f"--backend {args.backend} needs {error.name}, which is not installed")
    print(f"{len(pairs):,} pairs: {len(train)} to train on, {len(held_out)} held out", flush=True)
    start = args.model or backend.pretrained(pairs, size.pretraining_steps, args.cache)
    task = Task(
        train,
        held_out,
        epochs=size.epochs,
        steps=args.steps,
        learning_rate=5e-5 if args.model else 1e-3,
        seed=args.seed,
        output=args.output,
    )
    arms = [
        backend.finetune(name, arm_noise, start, task)
        for name, arm_noise in [("plain", None), ("with noise", noise)]
    ]
    print("", report.table(arms), "", *report.save(arms, vars(args)), sep="\n")
    return arms


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        description="Fine-tune a language model twice, plain and with embedding noise, and compare."
    )
    add = parser.add_argument
    add("--backend", choices=["torch", "jax", "keras"], default="torch", help="default: torch")
    add("--data", type=_file, help="pairs in Alpaca's form (.json, .jsonl); default: docstrings")
    add(
        "--model",
        type=_folder,
        help="a local pretrained model, for PyTorch alone; default: a small one made here",
    )
    add("--alpha", type=float, default=3.0, help="default: 3, which suits the small model")
    add("--distribution", choices=["uniform", "gaussian", "rademacher"], default="uniform")
    add("--schedule", choices=SCHEDULES, default="constant", help="how alpha falls in the run")
    add("--seed", type=int, default=0, help="of the split, the order of the data and the noise")
    add(
        "--steps",
        type=_positive_integer,
        help="optimizer steps per arm; default: 12 epochs (quick: 6)",
    )
    add("--quick", action="store_true", help="fewer pairs and steps: a minute at most in all")
    add("--cache", type=Path, default=Path(".cache/embnoise"), help="keeps the pretrained model")
    add("--output", type=Path, default=Path(__file__).parent / "output", help="for the results")
    return parser


def _file(text: str) -> Path:
    if not Path(text).is_file():
        raise argparse.ArgumentTypeError(f"{text} is not a file")
    return Path(text)


def _folder(text: str) -> Path:
    if not Path(text).is_dir():
        raise argparse.ArgumentTypeError(f"{text} is not a folder")
    return Path(text)


def _positive_integer(text: str) -> int:
    if int(text) < 1:
        raise argparse.ArgumentTypeError(f"must be at least 1, got {text}")
    return int(text)


if __name__ == "__main__":
    main()
