"""Padded batches for compiled frameworks: every batch has the same shape.

The rows hold token ids, padded on the right, and labels: of each token the one that follows, or
``IGNORED``.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from tokenizers import Tokenizer

from pairs import Pair
from small_decoder import END_ID, PAD_ID, TOKENIZER
from task import BATCH, IGNORED, RECITED_PAIRS, RECITED_TOKENS, Example, Task, encode

Rows = tuple[NDArray[Any], NDArray[Any]]  # ids and labels, [N, L] each


@dataclass(frozen=True)
class Data:
    """A task in tokens."""

    train: Rows
    held_out: Rows
    recited: list[Example]


def tokenized(task: Task, folder: Path) -> Data:
    """The task in tokens of the model of ``folder``."""
    tokenizer = Tokenizer.from_file(str(folder / TOKENIZER))

    def encoded(pairs: list[Pair]) -> list[Example]:
        tokens = [tokenizer.encode_batch([pair.prompt, pair.output]) for pair in pairs]
        return [encode(prompt.ids, answer.ids, END_ID) for prompt, answer in tokens]

    train, held_out = encoded(task.train), encoded(task.held_out)
    length = max(len(one.prompt + one.answer) for one in train + held_out)
    return Data(rows(train, length), rows(held_out, length), train[:RECITED_PAIRS])


def rows(examples: list[Example], length: int) -> Rows:
    """One row of ``length`` tokens per example."""
    ids = np.full([len(examples), length], PAD_ID, np.int32)
    labels = np.full([len(examples), length], IGNORED, np.int32)
    for row, one in enumerate(examples):
        tokens = one.prompt + one.answer
        ids[row, : len(tokens)] = tokens
        labels[row, len(one.prompt) - 1 : len(tokens) - 1] = one.answer
    return ids, labels


def training_batches(train: Rows, task: Task) -> Iterator[Rows]:
    """The batches of a run, shuffled by the task's seed."""
    random = np.random.default_rng(task.seed)
    for step in range(task.total_steps):
        if step % task.epoch_steps == 0:
            order = random.permutation(len(train[0]))
            epoch = batches((train[0][order], train[1][order]), BATCH)
        yield next(epoch)


def batches(whole: Rows, size: int) -> Iterator[Rows]:
    """Rows in their order, ``size`` at a time; rows without a token fill up the last batch."""
    for start in range(0, len(whole[0]), size):
        ids, labels = (each[start : start + size] for each in whole)
        missing = [(0, size - len(ids)), (0, 0)]
        yield (
            np.pad(ids, missing, constant_values=PAD_ID),
            np.pad(labels, missing, constant_values=IGNORED),
        )


def real_tokens(ids: Any) -> dict[str, Any]:
    """What the noise must know of token ids: which are no padding."""
    return {"mask": ids != PAD_ID}


def replies(
    next_tokens: Callable[[NDArray[Any]], NDArray[Any]], examples: list[Example]
) -> list[list[int]]:
    """What a model answers to the prompts of the examples, by greedy decoding.

    Args:
        next_tokens: from ids, [N, L], to the likeliest token after each of them, [N, L].
        examples: the examples.
    """
    prompts = [Example(one.prompt, []) for one in examples]
    ends = np.array([len(one.prompt) for one in prompts])
    ids, _ = rows(prompts, int(ends.max()) + RECITED_TOKENS)
    each = np.arange(len(ids))
    for _ in range(RECITED_TOKENS):
        ids[each, ends] = next_tokens(ids)[each, ends - 1]
        ends = ends + 1
    return [row[end - RECITED_TOKENS : end].tolist() for row, end in zip(ids, ends, strict=True)]
