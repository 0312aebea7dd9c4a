"""What every backend fine-tunes on and measures."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from pairs import Pair

PROMPT_TOKENS, ANSWER_TOKENS = 256, 128  # the most of either that a model gets to see
RECITED_PAIRS, RECITED_TOKENS = 64, 32  # how much the verbatim rate looks at
IGNORED = -100  # the label of a token that the loss leaves out
BATCH, EVALUATION_BATCH = 16, 64
WARM_UP = 0.1  # the part of a run in which the learning rate rises; it then falls as a cosine
GRADIENT_NORM = 1.0  # gradients are clipped to it


@dataclass(frozen=True)
class Task:
    """What both arms learn, and for how long."""

    train: list[Pair]
    held_out: list[Pair]
    epochs: int
    steps: int | None  # in place of the epochs
    learning_rate: float
    seed: int
    output: Path

    @property
    def epoch_steps(self) -> int:
        """Optimizer steps per epoch, the last of which may see fewer than ``BATCH`` pairs."""
        return -(-len(self.train) // BATCH)

    @property
    def total_steps(self) -> int:
        """Optimizer steps of the run."""
        return self.steps or self.epochs * self.epoch_steps

    @property
    def warm_up_steps(self) -> int:
        """Optimizer steps in which the learning rate rises."""
        return int(WARM_UP * self.total_steps)


@dataclass(frozen=True)
class Example:
    """The tokens of a pair; the loss is on the answer alone."""

    prompt: list[int]
    answer: list[int]


def encode(prompt: list[int], answer: list[int], end: int) -> Example:
    """The tokens of a pair, cut to what a model gets to see."""
    return Example(prompt[-PROMPT_TOKENS:], [*answer, end][:ANSWER_TOKENS])


def verbatim_rate(examples: Sequence[Example], replies: Sequence[list[int]]) -> float:
    """The share of prompts that get their training answer, word for word."""
    recited = 0
    for one, reply in zip(examples, replies, strict=True):
        expected = one.answer[:RECITED_TOKENS]
        recited += reply[: len(expected)] == expected
    return recited / len(examples)
