"""A small Hugging Face Trainer, and callbacks that watch it."""

from __future__ import annotations

from typing import Any

import transformers

from tests.torch.models import batch

ROWS = [{"input_ids": ids, "labels": ids} for ids in batch(rows=12)]


def trainer(folder, model, *callbacks, rows=ROWS, kind=transformers.Trainer, made=None, **options):
    """A Trainer of three steps of two rows each.

    Args:
        folder: Where it writes.
        model: What it trains.
        *callbacks: Its callbacks.
        rows: Its data.
        kind: Its class.
        made: Further arguments of its constructor.
        **options: Training arguments.
    """
    arguments: dict[str, Any] = {
        "per_device_train_batch_size": 2, "report_to": [], "max_steps": 3, "disable_tqdm": True,
        "logging_steps": 1, "save_strategy": "no", "use_cpu": True,
        "dataloader_pin_memory": False, "lr_scheduler_type": "constant", **options,
    }  # fmt: skip
    return kind(
        model,
        transformers.TrainingArguments(output_dir=str(folder), **arguments),
        train_dataset=rows,
        callbacks=list(callbacks),
        **(made or {}),
    )


class At(transformers.TrainerCallback):
    """Calls a function at the end of every step, with the step's number."""

    def __init__(self, function):
        self.function = function

    def on_step_end(self, args, state, control, **kwargs):
        self.function(state.global_step)


class StopAfter(transformers.TrainerCallback):
    """Saves a checkpoint after a step, and stops."""

    def __init__(self, step):
        self.step = step

    def on_step_end(self, args, state, control, **kwargs):
        if state.global_step == self.step:
            control.should_save = control.should_training_stop = True


def counts(handle):
    return handle.step, handle.alpha, handle.lookups
