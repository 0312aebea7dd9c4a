"""What is measured of a trained Llama, always without noise."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor

from evidence.batches import collate, evaluation_batches
from evidence.corpus import Row
from small_decoder import LENGTH, PAD_ID
from task import EVALUATION_BATCH, IGNORED, RECITED_PAIRS, RECITED_TOKENS, verbatim_rate

__all__ = ["hessian_trace", "loss_of", "prose_loss", "recitation", "sharpness"]

PROBES = 4
FLATNESS_ROWS = 32
RADIUS = 0.05  # of sharpness: the customary one of SAM (arXiv 2010.01412)


@torch.no_grad()
def loss_of(model: Any, rows: Sequence[Row]) -> float:
    """Cross-entropy per token of the answers, in nats."""
    model.eval()
    total, count = 0.0, 0
    for batch in evaluation_batches(rows):
        tokens = int((batch["labels"] != IGNORED).sum())
        total += tokens * model(**batch).loss.item()
        count += tokens
    model.train()
    return total / count


@torch.no_grad()
def prose_loss(model: Any, tokens: Tensor) -> float:
    """Cross-entropy per token of text like that of pretraining, in nats."""
    model.eval()
    rows = tokens[: len(tokens) // LENGTH * LENGTH].reshape(-1, LENGTH)
    parts = torch.split(rows, EVALUATION_BATCH)
    total = sum(len(part) * model(input_ids=part, labels=part).loss.item() for part in parts)
    model.train()
    return float(total / len(rows))


@torch.no_grad()
def recitation(model: Any, rows: Sequence[Row]) -> tuple[float, float]:
    """How much of the answers to training prompts is recited: word for word, and by ROUGE-L.

    Returns:
        The share of prompts whose greedy answer begins with the training answer, and the mean
        F1 of the longest common subsequence (ROUGE-L, Lin 2004) over tokens.
    """
    some = rows[:RECITED_PAIRS]
    width = max(len(row.prompt) for row in some)
    ids = torch.full((len(some), width), PAD_ID)
    for place, row in enumerate(some):
        ids[place, width - len(row.prompt) :] = torch.tensor(row.prompt)
    model.eval()
    replies = model.generate(
        input_ids=ids,
        attention_mask=(ids != PAD_ID).long(),
        max_new_tokens=RECITED_TOKENS,
        do_sample=False,
        use_cache=True,
        pad_token_id=PAD_ID,
    )[:, width:].tolist()
    model.train()
    overlap = 0.0
    for row, reply in zip(some, replies, strict=True):
        answer = row.answer[:RECITED_TOKENS]
        overlap += _rouge_l(answer, reply[: len(answer)])
    return verbatim_rate(some, replies), overlap / len(some)


def _rouge_l(expected: list[int], found: list[int]) -> float:
    row = [0] * (len(found) + 1)
    for token in expected:
        before = 0
        for place, other in enumerate(found):
            above = row[place + 1]
            row[place + 1] = before + 1 if token == other else max(above, row[place])
            before = above
    return 2 * row[-1] / (len(expected) + len(found))


def hessian_trace(model: Any, rows: Sequence[Row], seed: int) -> float:
    """The trace of the loss's Hessian in the input embeddings, per row (Hutchinson's estimator)."""
    model.eval()
    model.set_attn_implementation("eager")  # the fused one has no second derivative
    batch = collate(rows[:FLATNESS_ROWS])
    ids = batch.pop("input_ids")
    embeddings = model.get_input_embeddings()(ids).detach().requires_grad_()
    loss = model(inputs_embeds=embeddings, **batch).loss * len(ids)
    (gradient,) = torch.autograd.grad(loss, embeddings, create_graph=True)
    generator = torch.Generator().manual_seed(seed)
    total = 0.0
    for _ in range(PROBES):
        probe = torch.randint(0, 2, embeddings.shape, generator=generator) * 2.0 - 1
        (product,) = torch.autograd.grad(gradient, embeddings, probe, retain_graph=True)
        total += (probe * product).sum().item()
    model.set_attn_implementation("sdpa")
    model.train()
    return total / PROBES / len(ids)


def sharpness(model: Any, rows: Sequence[Row]) -> float:
    """By how much the loss rises one radius along its gradient in the weights, in nats."""
    model.eval()
    batch = collate(rows[:FLATNESS_ROWS])
    before: Tensor = model(**batch).loss
    weights = list(model.parameters())
    gradients = torch.autograd.grad(before, weights)
    norm = torch.stack([gradient.norm() for gradient in gradients]).norm()
    with torch.no_grad():
        for sign in (1, -1):
            for weight, gradient in zip(weights, gradients, strict=True):
                weight.add_(gradient, alpha=sign * RADIUS / norm.item())
            if sign == 1:
                after: Tensor = model(**batch).loss
    model.train()
    return (after - before).item()
