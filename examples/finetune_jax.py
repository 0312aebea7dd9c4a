"""The fine-tuning with JAX: Flax NNX and Optax."""

from __future__ import annotations

from contextlib import nullcontext
from pathlib import Path
from time import perf_counter
from typing import Any

import jax.numpy as jnp
import numpy as np
import optax
from flax import nnx
from jax import Array

from batches import Rows, batches, real_tokens, replies, tokenized, training_batches
from embnoise import Noise
from embnoise_jax.nnx import attach
from progress import Log
from report import Arm
from small_decoder_nnx import Decoder, adamw, load, pretrained, total_loss, train_step
from task import EVALUATION_BATCH, Task, verbatim_rate

__all__ = ["finetune", "pretrained"]


def finetune(name: str, noise: Noise | None, start: Path, task: Task) -> Arm:
    """Train the model of the folder ``start`` and measure it, without noise."""
    model: Any = load(start)
    data = tokenized(task, start)
    log = Log(name, task.total_steps)
    began = perf_counter()
    with (
        nullcontext()
        if noise is None
        else attach(model, noise.bind(task.total_steps), tokens=real_tokens)
    ):
        train(model, data.train, data.held_out, task, log)
    seconds = perf_counter() - began
    log.close()
    model.eval()
    answers = replies(lambda ids: np.asarray(next_tokens(model, ids)), data.recited)
    return Arm.of(
        name,
        train_losses=log.train_losses,
        held_out_losses=log.held_out_losses,
        train_loss=mean_loss(model, data.train),
        verbatim_rate=verbatim_rate(data.recited, answers),
        seconds=seconds,
    )


def train(model: Any, rows: Rows, held_out: Rows, task: Task, log: Log) -> None:
    """The run of an arm, with the held-out loss after every epoch."""
    rate = optax.warmup_cosine_decay_schedule(
        0.0, task.learning_rate, task.warm_up_steps, task.total_steps
    )
    optimizer = adamw(model, rate, weight_decay=0.0)
    for step, (ids, labels) in enumerate(training_batches(rows, task), start=1):
        model.train()
        log.train(float(train_step(model, optimizer, ids, labels)))
        if step % task.epoch_steps == 0 or step == task.total_steps:
            model.eval()
            log.held_out(mean_loss(model, held_out))


def mean_loss(model: Decoder, rows: Rows) -> float:
    """The mean loss of all answer tokens, without noise."""
    sums = [total_loss(model, *batch) for batch in batches(rows, EVALUATION_BATCH)]
    total, tokens = np.sum(sums, axis=0)
    return float(total / tokens)


@nnx.jit
def next_tokens(model: Decoder, ids: Any) -> Array:
    return jnp.argmax(model(ids), axis=-1)
