"""One run of the Llama in Flax NNX, as ``examples/finetune_jax.py`` does it."""

from __future__ import annotations

from pathlib import Path

import finetune_jax
from embnoise import Noise
from evidence.arms import Arm
from evidence.corpus import TEST, VALIDATION, documented_pairs, drawn
from task import Task

__all__ = ["pretrained", "run_nnx"]

LEARNING_RATE = 1e-3


def pretrained(steps: int, cache: Path) -> Path:
    """The folder of the pretrained model, made if it is not there."""
    return finetune_jax.pretrained(list(documented_pairs()), steps, cache)


def run_nnx(arm: Arm, seed: int, folder: Path) -> dict[str, float]:
    """Fine-tune and measure.

    Returns:
        ``train_loss`` and ``test_loss`` of the last step, ``verbatim``, and ``lowest_test_loss`` of
        the checks on the way, which nothing but the test pairs chose.
    """
    pairs = documented_pairs()
    task = Task(
        train=drawn(pairs[VALIDATION + TEST :], arm.pairs, seed),
        held_out=list(pairs[VALIDATION:][:TEST]),
        epochs=arm.epochs,
        steps=None,
        learning_rate=LEARNING_RATE,
        seed=seed,
        output=Path(),
    )
    noise = Noise(arm.alpha, seed=seed) if arm.alpha else None
    found = finetune_jax.finetune(str(arm), noise, folder, task)
    return {
        "train_loss": found.train_loss,
        "test_loss": found.held_out_loss,
        "lowest_test_loss": found.best_held_out_loss,
        "verbatim": found.verbatim_rate,
    }
