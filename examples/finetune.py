"""Fine-tune a language model twice, plain and with embedding noise, and compare.

    python examples/finetune.py            # a small Llama on docstrings, some minutes on two cores
    python examples/finetune.py --quick    # the same in half a minute, too short to learn much
    python examples/finetune.py --model path/to/a/model --data alpaca.json --alpha 5

Both arms start from the same weights and see the same batches; only the noise differs.
"""

from __future__ import annotations

import argparse
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from tqdm import tqdm
from transformers import (
    AutoModelForCausalLM,
    AutoTokenizer,
    DataCollatorForSeq2Seq,
    PrinterCallback,
    Trainer,
    TrainerCallback,
    TrainingArguments,
)
from transformers.utils import logging

import report
import small_llama
from embnoise import Noise, Schedule, cosine, exponential, linear, polynomial, sigmoid
from embnoise_torch import attach
from embnoise_torch.transformers import NoiseCallback
from pairs import Pair, docstring_pairs, read_pairs, split

PROMPT_TOKENS, ANSWER_TOKENS = 256, 128  # the most of either that a model gets to see
RECITED_PAIRS, RECITED_TOKENS = 64, 32  # how much the verbatim rate looks at
IGNORED = -100  # the label of a token that the loss leaves out

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
    size = QUICK if args.quick else DEFAULT
    logging.disable_progress_bar()  # type: ignore[no-untyped-call]  # of loading and saving
    try:
        alpha = SCHEDULES[args.schedule](args.alpha)
        noise = Noise(alpha, distribution=args.distribution, seed=args.seed)
        pairs = read_pairs(args.data) if args.data else docstring_pairs()
        train, held_out = split(pairs, size.train, size.held_out, args.seed)
    except ValueError as error:
        parser.error(str(error))
    print(f"{len(pairs):,} pairs: {len(train)} to train on, {len(held_out)} held out", flush=True)
    start = args.model or small_llama.pretrained(pairs, size.pretraining_steps, args.cache)
    arms = [
        finetune(name, arm_noise, start, train, held_out, size.epochs, args)
        for name, arm_noise in [("plain", None), ("with noise", noise)]
    ]
    print("", report.table(arms), "", *report.save(arms, vars(args)), sep="\n")
    return arms


def finetune(
    name: str,
    noise: Noise | None,
    start: Path,
    train: list[Pair],
    held_out: list[Pair],
    epochs: int,
    args: argparse.Namespace,
) -> report.Arm:
    """Train the model of the folder ``start`` and measure it, without noise."""
    auto: Any = AutoModelForCausalLM
    model = auto.from_pretrained(start, local_files_only=True, dtype=torch.float32)
    tokenizer: Any = AutoTokenizer.from_pretrained(start, local_files_only=True)
    if tokenizer.pad_token is None:
        tokenizer.pad_token = tokenizer.eos_token
    examples = [encode(pair, tokenizer) for pair in train]
    trainer: Any = Trainer(
        model,
        TrainingArguments(
            output_dir=str(args.output),
            num_train_epochs=epochs,
            max_steps=args.steps or -1,
            per_device_train_batch_size=16,
            per_device_eval_batch_size=64,
            learning_rate=5e-5 if args.model else 1e-3,
            lr_scheduler_type="cosine",
            warmup_steps=0.1,
            eval_strategy="epoch",
            save_strategy="no",
            logging_steps=5,
            logging_first_step=True,
            report_to=[],
            disable_tqdm=True,  # ProgressBar is shorter
            dataloader_pin_memory=False,
            seed=args.seed,
        ),
        DataCollatorForSeq2Seq(tokenizer),
        train_dataset=examples,
        eval_dataset=[encode(pair, tokenizer) for pair in held_out],
        callbacks=[ProgressBar(name)],
    )
    trainer.remove_callback(PrinterCallback)
    seconds = train_with(trainer, noise)
    logs = trainer.state.log_history
    held_out_losses = [(log["step"], log["eval_loss"]) for log in logs if "eval_loss" in log]
    return report.Arm(
        name,
        train_loss=trainer.evaluate(examples)["eval_loss"],
        held_out_loss=held_out_losses[-1][1],
        best_held_out_loss=min(loss for _, loss in held_out_losses),
        verbatim_rate=verbatim_rate(model, tokenizer, examples[:RECITED_PAIRS]),
        seconds=seconds,
        train_losses=[(log["step"], log["loss"]) for log in logs if "loss" in log],
        held_out_losses=held_out_losses,
    )


def train_with(trainer: Any, noise: Noise | None) -> float:
    """Train with or without noise; returns the seconds it took."""
    if noise is None:
        output = trainer.train()
    elif noise.scheduled:
        trainer.add_callback(NoiseCallback(noise))  # tells the schedule how long the run is
        output = trainer.train()
    else:
        with attach(trainer.model, noise):
            output = trainer.train()
    return float(output.metrics["train_runtime"])


def encode(pair: Pair, tokenizer: Any) -> dict[str, list[int]]:
    """The tokens of a pair, with a loss on the answer alone."""
    prompt = tokenizer(pair.prompt).input_ids[-PROMPT_TOKENS:]
    answer = tokenizer(pair.output, add_special_tokens=False).input_ids
    answer = [*answer, tokenizer.eos_token_id][:ANSWER_TOKENS]
    return {
        "input_ids": prompt + answer,
        "attention_mask": [1] * len(prompt + answer),
        "labels": [IGNORED] * len(prompt) + answer,
    }


def verbatim_rate(model: Any, tokenizer: Any, examples: list[dict[str, list[int]]]) -> float:
    """The share of training prompts that get their training answer, word for word."""
    answers = [[label for label in one["labels"] if label != IGNORED] for one in examples]
    prompts = [
        one["input_ids"][: -len(answer)] for one, answer in zip(examples, answers, strict=True)
    ]
    batch = tokenizer.pad({"input_ids": prompts}, padding_side="left", return_tensors="pt")
    replies = model.eval().generate(
        **batch.to(model.device),
        max_new_tokens=RECITED_TOKENS,
        do_sample=False,
        pad_token_id=tokenizer.pad_token_id,
    )
    new = replies[:, batch.input_ids.shape[1] :].tolist()
    recited = 0
    for answer, reply in zip(answers, new, strict=True):
        expected = answer[:RECITED_TOKENS]
        recited += reply[: len(expected)] == expected
    return recited / len(answers)


class ProgressBar(TrainerCallback):
    """One bar for the training of an arm, with its losses."""

    def __init__(self, name: str) -> None:
        self.name = name
        self.losses: dict[str, str] = {}

    def on_train_begin(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        self.bar = tqdm(total=state.max_steps, desc=f"Fine-tuning, {self.name}", unit="step")

    def on_step_end(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        self.bar.update()

    def on_log(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        for key, shown in [("loss", "train"), ("eval_loss", "held-out")]:
            if key in kwargs["logs"]:
                self.losses[shown] = f"{kwargs['logs'][key]:.2f}"
        self.bar.set_postfix(self.losses, refresh=False)

    def on_train_end(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        self.bar.close()


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        description="Fine-tune a language model twice, plain and with embedding noise, and compare."
    )
    add = parser.add_argument
    add("--data", type=_file, help="pairs in Alpaca's form (.json, .jsonl); default: docstrings")
    add("--model", type=_folder, help="a local pretrained model; default: a small one made here")
    add("--alpha", type=float, default=3.0, help="default: 3, which suits the small model")
    add("--distribution", choices=["uniform", "gaussian", "rademacher"], default="uniform")
    add("--schedule", choices=SCHEDULES, default="constant", help="how alpha falls in the run")
    add("--seed", type=int, default=0, help="of the split, the order of the data and the noise")
    add(
        "--steps",
        type=_positive_integer,
        help="optimizer steps per arm; default: 12 epochs (quick: 6)",
    )
    add("--quick", action="store_true", help="fewer pairs and steps: half a minute in all")
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
