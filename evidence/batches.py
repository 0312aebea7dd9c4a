"""Rows as tensors: padded batches with labels on the answer alone."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any

import torch
from torch import Tensor

from evidence.corpus import Row
from small_decoder import PAD_ID
from task import EVALUATION_BATCH, IGNORED

__all__ = ["collate", "evaluation_batches", "training_batches"]

Batch = dict[str, Tensor]


def collate(rows: Sequence[Row]) -> Batch:
    """``input_ids``, ``attention_mask`` and ``labels``, padded on the right."""
    length = max(len(row.prompt + row.answer) for row in rows)
    ids = torch.full((len(rows), length), PAD_ID)
    mask = torch.zeros_like(ids)
    labels = torch.full_like(ids, IGNORED)
    for place, row in enumerate(rows):
        tokens = torch.tensor(row.prompt + row.answer)
        ids[place, : len(tokens)] = tokens
        mask[place, : len(tokens)] = 1
        labels[place, len(row.prompt) : len(tokens)] = tokens[len(row.prompt) :]
    return {"input_ids": ids, "attention_mask": mask, "labels": labels}


def training_batches(rows: Sequence[Any], epochs: int, size: int, seed: int) -> Iterator[list[Any]]:
    """The rows of every step, in an order that depends on the seed alone."""
    generator = torch.Generator().manual_seed(seed)
    for _ in range(epochs):
        order = torch.randperm(len(rows), generator=generator).tolist()
        for start in range(0, len(rows), size):
            yield [rows[index] for index in order[start : start + size]]


def evaluation_batches(rows: Sequence[Row]) -> Iterator[Batch]:
    """All rows, short ones together."""
    ordered = sorted(rows, key=lambda row: len(row.prompt + row.answer))
    for start in range(0, len(ordered), EVALUATION_BATCH):
        yield collate(ordered[start : start + EVALUATION_BATCH])
