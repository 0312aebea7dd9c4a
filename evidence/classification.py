"""One run of a small BERT from scratch: which package does a docstring belong to?"""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from pathlib import Path
from typing import Any, NamedTuple

import torch
from torch import Tensor

from evidence.arms import Arm
from evidence.corpus import Corpus, Row, corpus
from evidence.models import bert
from evidence.training import fine_tuned
from small_decoder import PAD_ID

__all__ = ["run_bert"]

CLASSES = 8


class _Sentence(NamedTuple):
    tokens: list[int]
    label: int


def run_bert(arm: Arm, seed: int, folder: Path) -> dict[str, float]:
    """Train and measure.

    Returns:
        ``*_loss`` (cross-entropy, in nats) and ``*_accuracy`` on ``train``, ``validation`` and
        ``test``.
    """
    data = corpus(folder)
    classes = _largest_packages(data)
    pool = _labeled(data.pool, classes)
    order = torch.randperm(len(pool), generator=torch.Generator().manual_seed(seed))
    rows = [pool[index] for index in order[: arm.pairs].tolist()]
    model = bert(CLASSES, seed)
    fine_tuned(model, arm, rows, seed, collate=_collate)
    measured = {}
    for name, some in [
        ("train", rows),
        ("validation", _labeled(data.validation, classes)),
        ("test", _labeled(data.test, classes)),
    ]:
        measured[f"{name}_loss"], measured[f"{name}_accuracy"] = _measured(model, some)
    return measured


def _largest_packages(data: Corpus) -> list[str]:
    counted = Counter(row.package for row in data.pool)
    return [name for name, _ in counted.most_common(CLASSES)]


def _labeled(rows: Sequence[Row], classes: Sequence[str]) -> list[_Sentence]:
    return [
        _Sentence(row.answer, classes.index(row.package)) for row in rows if row.package in classes
    ]


def _collate(rows: Sequence[_Sentence]) -> dict[str, Tensor]:
    ids = torch.nn.utils.rnn.pad_sequence(
        [torch.tensor(row.tokens) for row in rows], batch_first=True, padding_value=PAD_ID
    )
    labels = torch.tensor([row.label for row in rows])
    return {"input_ids": ids, "attention_mask": (ids != PAD_ID).long(), "labels": labels}


@torch.no_grad()
def _measured(model: Any, rows: Sequence[_Sentence]) -> tuple[float, float]:
    model.eval()
    batch = _collate(rows)
    output = model(**batch)
    model.train()
    right = output.logits.argmax(dim=-1) == batch["labels"]
    return output.loss.item(), right.float().mean().item()
