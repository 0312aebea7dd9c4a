"""One run of the Llama, plain or noisy: everything but the noise depends on the seed alone."""

from __future__ import annotations

import copy
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import torch
from tokenizers import Tokenizer
from torch import Tensor, nn

import small_decoder
from embnoise import Noise, linear
from embnoise_torch import attach
from evidence.arms import Arm
from evidence.batches import collate, training_batches
from evidence.corpus import corpus, prose_parts
from evidence.measures import hessian_trace, loss_of, prose_loss, recitation, sharpness
from evidence.models import llama
from task import GRADIENT_NORM, WARM_UP

__all__ = ["fine_tuned", "noise_of", "run_llama"]

LEARNING_RATE = 1e-3
CHECKS = 6
"""How often a run looks at the validation loss, for early stopping."""


def noise_of(arm: Arm, seed: int) -> Noise | None:
    """The noise of an arm; annealed arms have the sum of alpha^2 of the constant one."""
    if arm.alpha == 0:
        return None
    alpha: Any = arm.alpha
    steps = arm.steps
    if arm.schedule != "constant":
        # The squares of 0/T, 1/T, ... (T-1)/T, or of 1, ... 1/T; see linear().
        falling = [linear(1.0, 0.0, steps)(step) for step in range(steps)]
        rising = [linear(0.0, 1.0, steps)(step) for step in range(steps)]
        squares = sum(value**2 for value in (falling if arm.schedule == "down" else rising))
        peak = arm.alpha * (steps / squares) ** 0.5
        alpha = linear(peak, 0.0, steps) if arm.schedule == "down" else linear(0.0, peak, steps)
    return Noise(
        alpha,
        distribution=arm.distribution,
        match=arm.match,
        length=arm.length,
        seed=seed,
    )


def run_llama(arm: Arm, seed: int, folder: Path) -> dict[str, float]:
    """Fine-tune and measure.

    Returns:
        ``train_loss``, ``validation_loss`` and ``test_loss`` of the last step; ``stopped_*``, the
        same at the check with the lowest validation loss; ``verbatim`` and ``rouge_l`` on training
        prompts; ``prose_loss``; ``trace`` and ``sharpness`` on training rows; ``padding``, the
        mean over rows of the row's width over its tokens.
    """
    data = corpus(folder)
    rows = data.training_rows(arm.pairs, seed)
    model = llama(folder, dropout=arm.dropout)
    best: dict[str, Any] = {"validation_loss": float("inf")}

    def check() -> None:
        loss = loss_of(model, data.validation)
        if loss < best["validation_loss"]:
            best.update(validation_loss=loss, weights=copy.deepcopy(model.state_dict()))

    padding = fine_tuned(model, arm, rows, seed, check=check)
    tokenizer = Tokenizer.from_file(str(folder / small_decoder.TOKENIZER))
    verbatim, rouge_l = recitation(model, rows)
    measured = {
        "train_loss": loss_of(model, rows[:512]),
        "validation_loss": loss_of(model, data.validation),
        "test_loss": loss_of(model, data.test),
        "prose_loss": prose_loss(model, prose_parts(tokenizer)[1]),
        "verbatim": verbatim,
        "rouge_l": rouge_l,
        "trace": hessian_trace(model, rows, seed),
        "sharpness": sharpness(model, rows),
        "padding": padding,
    }
    model.load_state_dict(best["weights"])
    measured["stopped_validation_loss"] = best["validation_loss"]
    measured["stopped_test_loss"] = loss_of(model, data.test)
    return measured


def fine_tuned(
    model: Any,
    arm: Arm,
    rows: Sequence[Any],
    seed: int,
    *,
    collate: Callable[[Sequence[Any]], dict[str, Tensor]] = collate,
    check: Callable[[], None] = lambda: None,
) -> float:
    """Train a model in place; returns the mean over rows of the batch's width over their tokens.

    Args:
        model: Called with what ``collate`` makes of some rows; its result has a ``loss``.
        arm: The settings.
        rows: What to train on.
        seed: Of the order of the rows, of dropout and of the noise.
        collate: From rows to a batch.
        check: Called ``CHECKS`` times over the run.
    """
    steps = arm.steps
    optimizer = torch.optim.AdamW(
        model.parameters(), LEARNING_RATE, weight_decay=arm.weight_decay, fused=True
    )
    warm_up = max(1, int(WARM_UP * steps))
    schedule = torch.optim.lr_scheduler.LambdaLR(
        optimizer,
        lambda step: (
            (step + 1) / warm_up
            if step < warm_up
            else 0.5 * (1 + torch.cos(torch.tensor(step / steps) * torch.pi).item())
        ),
    )
    noise = noise_of(arm, seed)
    handle = None if noise is None else attach(model, noise, optimizer=optimizer)
    torch.manual_seed(seed)  # the masks of dropout
    widths, checks = [], {steps * (number + 1) // CHECKS for number in range(CHECKS)}
    for step, some in enumerate(training_batches(rows, arm.epochs, arm.batch, seed), start=1):
        batch = collate(some)
        mask = batch["attention_mask"]
        widths += [mask.shape[1] / length for length in mask.sum(dim=1).tolist()]
        model(**batch).loss.backward()
        nn.utils.clip_grad_norm_(model.parameters(), GRADIENT_NORM)
        optimizer.step()
        schedule.step()
        optimizer.zero_grad()
        if step in checks:
            check()
    if handle is not None:
        handle.remove()
    return float(sum(widths) / len(widths))
