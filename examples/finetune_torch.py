"""The fine-tuning with PyTorch and the Hugging Face ``Trainer``."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch
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

from embnoise import Noise
from embnoise_torch import attach
from embnoise_torch.transformers import NoiseCallback
from pairs import Pair
from progress import LOGGED, Progress
from report import Arm
from small_llama import pretrained
from task import (
    BATCH,
    EVALUATION_BATCH,
    GRADIENT_NORM,
    IGNORED,
    RECITED_PAIRS,
    RECITED_TOKENS,
    WARM_UP,
    Example,
    Task,
    encode,
    verbatim_rate,
)

__all__ = ["finetune", "pretrained"]

logging.disable_progress_bar()  # type: ignore[no-untyped-call]  # of loading and saving


def finetune(name: str, noise: Noise | None, start: Path, task: Task) -> Arm:
    """Train the model of the folder ``start`` and measure it, without noise."""
    auto: Any = AutoModelForCausalLM
    model = auto.from_pretrained(start, local_files_only=True, dtype=torch.float32)
    tokenizer: Any = AutoTokenizer.from_pretrained(start, local_files_only=True)
    if tokenizer.pad_token is None:
        tokenizer.pad_token = tokenizer.eos_token
    examples = [encoded(pair, tokenizer) for pair in task.train]
    train = [fields(one) for one in examples]
    trainer: Any = Trainer(
        model,
        TrainingArguments(
            output_dir=str(task.output),
            num_train_epochs=task.epochs,
            max_steps=task.steps or -1,
            per_device_train_batch_size=BATCH,
            per_device_eval_batch_size=EVALUATION_BATCH,
            learning_rate=task.learning_rate,
            lr_scheduler_type="cosine",
            warmup_steps=WARM_UP,
            max_grad_norm=GRADIENT_NORM,
            eval_strategy="epoch",
            save_strategy="no",
            logging_steps=LOGGED,
            logging_first_step=True,
            report_to=[],
            disable_tqdm=True,  # ProgressBar is shorter
            dataloader_pin_memory=False,
            seed=task.seed,
        ),
        DataCollatorForSeq2Seq(tokenizer),
        train_dataset=train,
        eval_dataset=[fields(encoded(pair, tokenizer)) for pair in task.held_out],
        callbacks=[ProgressBar(name)],
    )
    trainer.remove_callback(PrinterCallback)
    seconds = train_with(trainer, noise)
    logs = list(trainer.state.log_history)
    recited = examples[:RECITED_PAIRS]
    return Arm.of(
        name,
        train_losses=[(log["step"], log["loss"]) for log in logs if "loss" in log],
        held_out_losses=[(log["step"], log["eval_loss"]) for log in logs if "eval_loss" in log],
        train_loss=trainer.evaluate(train)["eval_loss"],
        verbatim_rate=verbatim_rate(recited, replies(model, tokenizer, recited)),
        seconds=seconds,
    )


def train_with(trainer: Any, noise: Noise | None) -> float:
    """Train with or without noise; returns the seconds it took."""
    if noise is None:
        output = trainer.train()
    elif callable(noise.alpha):
        trainer.add_callback(NoiseCallback(noise))  # tells the schedule how long the run is
        output = trainer.train()
    else:
        with attach(trainer.model, noise):
            output = trainer.train()
    return float(output.metrics["train_runtime"])


def encoded(pair: Pair, tokenizer: Any) -> Example:
    answer = tokenizer(pair.output, add_special_tokens=False).input_ids
    return encode(tokenizer(pair.prompt).input_ids, answer, tokenizer.eos_token_id)


def fields(one: Example) -> dict[str, list[int]]:
    """An example as the model takes it."""
    return {
        "input_ids": one.prompt + one.answer,
        "attention_mask": [1] * len(one.prompt + one.answer),
        "labels": [IGNORED] * len(one.prompt) + one.answer,
    }


def replies(model: Any, tokenizer: Any, examples: list[Example]) -> list[list[int]]:
    """What the model answers to the prompts of the examples, by greedy decoding."""
    prompts = {"input_ids": [one.prompt for one in examples]}
    batch = tokenizer.pad(prompts, padding_side="left", return_tensors="pt")
    tokens = model.eval().generate(
        **batch.to(model.device),
        max_new_tokens=RECITED_TOKENS,
        do_sample=False,
        pad_token_id=tokenizer.pad_token_id,
    )
    new: list[list[int]] = tokens[:, batch.input_ids.shape[1] :].tolist()
    return new


class ProgressBar(TrainerCallback):
    """The bar as a callback of the ``Trainer``."""

    def __init__(self, name: str) -> None:
        self.name = name

    def on_train_begin(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        self.progress = Progress(self.name, state.max_steps)

    def on_step_end(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        self.progress.advance()

    def on_log(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        for key, shown in [("loss", "train"), ("eval_loss", "held-out")]:
            if key in kwargs["logs"]:
                self.progress.show(shown, kwargs["logs"][key])

    def on_train_end(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        self.progress.close()
