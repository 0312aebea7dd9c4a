"""R3F: a clean and a noisy pass, and how far apart their predictions are.

The recipe of "Better Fine-Tuning by Reducing Representational Collapse" (arXiv 2008.03156), as its
authors' code in fairseq has it: the loss is the cross-entropy of the clean pass, plus lambda = 1
times the symmetric KL divergence between the predictions of both passes. The noise on the
embeddings is U(-eps, eps), eps = 1e-5. Both passes have dropout, each with draws of its own, and
both have gradients. One thing differs: fairseq detaches the noisy embeddings from their table;
here the table gets the gradients of both passes.

The data is made here: rows of digits, and whether the first half of a row has the larger sum. A
small encoder learns it from few rows, plain and with R3F, and both are measured on other rows.

    python examples/r3f.py
    python examples/r3f.py --eps 0.1 --steps 400
"""

from __future__ import annotations

import argparse
from collections.abc import Sequence
from contextlib import nullcontext
from typing import Any

import torch
from torch import Tensor
from torch.nn.functional import cross_entropy, kl_div
from transformers import BertConfig, BertForSequenceClassification

from embnoise import Noise
from embnoise_torch import attach

DIGITS, LENGTH, PAD = 10, 16, 0
TRAINING_ROWS, HELD_OUT_ROWS, BATCH = 256, 1024, 32


def symmetric_kl(left: Tensor, right: Tensor) -> Tensor:
    """KL(left || right) + KL(right || left) of logits [B, classes], as the mean of the rows."""
    left, right = left.log_softmax(-1), right.log_softmax(-1)
    forward = kl_div(right, left, log_target=True, reduction="batchmean")
    return forward + kl_div(left, right, log_target=True, reduction="batchmean")


def train(*, weight: float, eps: float, steps: int, seed: int) -> float:
    """Train the encoder; returns its accuracy on rows that it has not seen.

    Args:
        weight: lambda. With 0, there is no noisy pass.
        eps: The half-width of the noise.
        steps: Optimizer steps.
        seed: Of the model and the order of the data.
    """
    torch.manual_seed(seed)
    model = encoder()
    optimizer = torch.optim.AdamW(model.parameters(), 1e-3)
    rows = made_rows(TRAINING_ROWS, seed=1)
    noise = Noise(eps, scale="absolute")
    with attach(model, noise, optimizer=optimizer) if weight else nullcontext() as handle:
        for _ in range(steps):
            batch, labels = chosen(rows, torch.randint(TRAINING_ROWS, [BATCH]))
            loss: Any
            if handle is None:
                loss = cross_entropy(model(**batch).logits, labels)
            else:
                with handle.paused():
                    clean = model(**batch).logits
                noisy = model(**batch).logits
                loss = cross_entropy(clean, labels) + weight * symmetric_kl(noisy, clean)
            loss.backward()
            optimizer.step()
            optimizer.zero_grad()
    batch, labels = made_rows(HELD_OUT_ROWS, seed=2)
    with torch.no_grad():
        return float((model.eval()(**batch).logits.argmax(-1) == labels).float().mean())


def encoder() -> Any:
    """A small BERT with two classes."""
    config = BertConfig(
        vocab_size=DIGITS + 1,
        hidden_size=64,
        intermediate_size=128,
        num_hidden_layers=2,
        num_attention_heads=4,
        max_position_embeddings=LENGTH,
        pad_token_id=PAD,
    )
    return BertForSequenceClassification(config).train()


Rows = tuple[dict[str, Tensor], Tensor]  # what the model is called with, and labels


def made_rows(count: int, *, seed: int) -> Rows:
    """Rows of digits of different lengths, padded, with their labels."""
    random = torch.Generator().manual_seed(seed)
    digits = torch.randint(DIGITS, (count, LENGTH), generator=random)
    lengths = torch.randint(LENGTH // 4, LENGTH // 2 + 1, (count, 1), generator=random) * 2
    column = torch.arange(LENGTH)
    real = column < lengths
    in_first_half = column < lengths // 2
    difference = torch.where(real, torch.where(in_first_half, digits, -digits), 0).sum(1)
    ids = torch.where(real, digits + 1, PAD)
    return {"input_ids": ids, "attention_mask": real.long()}, (difference > 0).long()


def chosen(rows: Rows, numbers: Tensor) -> Rows:
    """Some of the rows."""
    batch, labels = rows
    return {name: each[numbers] for name, each in batch.items()}, labels[numbers]


def main(arguments: Sequence[str] | None = None) -> dict[str, float]:
    """Train with and without R3F; returns and prints the accuracies."""
    parser = argparse.ArgumentParser(description="Train a small encoder, plain and with R3F.")
    parser.add_argument("--eps", type=float, default=1e-5, help="half-width of the noise")
    parser.add_argument("--weight", type=float, default=1.0, help="lambda; default: 1")
    parser.add_argument("--steps", type=int, default=200)
    parser.add_argument("--seed", type=int, default=0)
    args = parser.parse_args(arguments)
    same = {"eps": args.eps, "steps": args.steps, "seed": args.seed}
    accuracies = {
        "plain": train(weight=0.0, **same),
        "R3F": train(weight=args.weight, **same),
    }
    for name, accuracy in accuracies.items():
        print(f"{name:6} {accuracy:.1%} of {HELD_OUT_ROWS} held-out rows")
    return accuracies


if __name__ == "__main__":
    main()
