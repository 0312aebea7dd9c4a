"""The fine-tuning with Keras, on the framework that ``KERAS_BACKEND`` names."""

from __future__ import annotations

from contextlib import nullcontext
from pathlib import Path
from time import perf_counter
from typing import Any

import keras
import numpy as np

from batches import real_tokens, replies, tokenized, training_batches
from embnoise import Noise
from embnoise_keras import attach
from progress import Log
from report import Arm
from small_decoder_keras import EachLoss, compile_for_training, load, pretrained, warm_up_and_cosine
from task import EVALUATION_BATCH, Task, verbatim_rate

__all__ = ["finetune", "pretrained"]


def finetune(name: str, noise: Noise | None, start: Path, task: Task) -> Arm:
    """Train the model of the folder ``start`` and measure it, without noise."""
    model, data = load(start), tokenized(task, start)
    rate = warm_up_and_cosine(task.learning_rate, task.warm_up_steps, task.total_steps)
    compile_for_training(model, rate, weight_decay=0.0)
    log = Log(name, task.total_steps)
    began = perf_counter()
    with (
        nullcontext()
        if noise is None
        else attach(model, noise.bind(task.total_steps), tokens=real_tokens)
    ):
        model.fit(
            training_batches(data.train, task),
            steps_per_epoch=task.epoch_steps,
            epochs=-(-task.total_steps // task.epoch_steps),
            validation_data=data.held_out,
            validation_batch_size=EVALUATION_BATCH,
            callbacks=[EachLoss(log.train), Epochs(log, task.total_steps)],
            shuffle=False,  # the batches are shuffled
            verbose=0,
        )
    seconds = perf_counter() - began
    log.close()
    answers = replies(
        lambda ids: np.asarray(model.predict_on_batch(ids)).argmax(axis=-1), data.recited
    )
    return Arm.of(
        name,
        train_losses=log.train_losses,
        held_out_losses=log.held_out_losses,
        train_loss=model.evaluate(*data.train, batch_size=EVALUATION_BATCH, verbose=0),
        verbatim_rate=verbatim_rate(data.recited, answers),
        seconds=seconds,
    )


class Epochs(keras.callbacks.Callback):  # type: ignore[misc]
    """Logs the held-out losses, and ends the last epoch where the run ends."""

    def __init__(self, log: Log, steps: int) -> None:
        super().__init__()
        self.log, self.steps = log, steps

    def on_train_batch_end(self, batch: int, logs: Any = None) -> None:
        self.model.stop_training = self.log.step >= self.steps

    def on_epoch_end(self, epoch: int, logs: Any = None) -> None:
        self.log.held_out(float(logs["val_loss"]))
