"""SymNoise: every sample twice in the batch, with the noise once added and once subtracted.

The recipe of "SymNoise: Advancing Language Model Fine-tuning with Symmetric Noise" (arXiv
2312.01523): each element of the noise e is alpha / sqrt(L * d) or minus that, at random, and the
model learns from x + e and from x - e. The batch is therefore twice as large.

In embnoise, samples 2i and 2i + 1 get opposite noise, so each row is repeated in its place, after
the data loader and before the model. Nothing else is needed: gradient accumulation goes on counting
samples where the last micro-batch ended, and in a data-parallel run both rows of a pair stay on
their rank.

    python examples/symnoise.py
    torchrun --nproc-per-node 2 examples/symnoise.py
"""

from __future__ import annotations

import argparse
import os
from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor, distributed
from torch.nn.parallel import DistributedDataParallel
from torch.utils.data import DataLoader, DistributedSampler, TensorDataset
from transformers import LlamaConfig, LlamaForCausalLM

from embnoise import symnoise
from embnoise_torch import attach

VOCABULARY, LENGTH, ROWS = 40, 12, 256
BATCH, MICRO_BATCHES = 16, 2  # rows of one rank in a micro-batch, before they are repeated


def paired(*arrays: Tensor) -> list[Tensor]:
    """The arrays of a batch with every row twice: rows 2i and 2i + 1 are the same sample."""
    return [each.repeat_interleave(2, dim=0) for each in arrays]


def train(*, alpha: float, epochs: int, seed: int) -> list[float]:
    """Train a small decoder; returns the loss of every optimizer step."""
    torch.manual_seed(seed)
    model: Any = decoder()
    parallel = distributed.is_initialized()
    wrapped = DistributedDataParallel(model) if parallel else model
    optimizer = torch.optim.AdamW(model.parameters(), 3e-3)
    data = TensorDataset(*made_rows())
    sampler: Any = DistributedSampler(data, seed=seed) if parallel else None
    loader = DataLoader(data, BATCH, shuffle=not parallel, sampler=sampler)
    losses: list[float] = []
    with attach(wrapped, symnoise(alpha, seed=seed), optimizer=optimizer):
        for epoch in range(epochs):
            if parallel:
                sampler.set_epoch(epoch)
            for number, batch in enumerate(loader, start=1):
                ids, mask = paired(*batch)
                labels = ids.masked_fill(mask == 0, -100)
                loss = wrapped(input_ids=ids, attention_mask=mask, labels=labels).loss
                (loss / MICRO_BATCHES).backward()
                if number % MICRO_BATCHES == 0:
                    optimizer.step()
                    optimizer.zero_grad()
                    losses.append(float(loss.detach()))
    return losses


def decoder() -> Any:
    """A small Llama."""
    return LlamaForCausalLM(
        LlamaConfig(
            vocab_size=VOCABULARY,
            hidden_size=32,
            intermediate_size=64,
            num_hidden_layers=2,
            num_attention_heads=4,
            max_position_embeddings=LENGTH,
            pad_token_id=0,
            bos_token_id=None,
            eos_token_id=None,
        )
    ).train()


def made_rows() -> tuple[Tensor, Tensor]:
    """Rows that count on in steps of 1 to 3, padded to one length, and their masks."""
    random = torch.Generator().manual_seed(0)
    start = torch.randint(VOCABULARY - 1, (ROWS, 1), generator=random)
    stride = torch.randint(1, 4, (ROWS, 1), generator=random)
    lengths = torch.randint(LENGTH // 2, LENGTH + 1, (ROWS, 1), generator=random)
    column = torch.arange(LENGTH)
    ids = (start + stride * column) % (VOCABULARY - 1) + 1
    mask = (column < lengths).long()
    return ids * mask, mask


def main(arguments: Sequence[str] | None = None) -> list[float]:
    """Train with SymNoise; returns the losses, and prints the first and the last."""
    parser = argparse.ArgumentParser(description="Train a small decoder with SymNoise.")
    parser.add_argument("--alpha", type=float, default=5.0)
    parser.add_argument("--epochs", type=int, default=8)
    parser.add_argument("--seed", type=int, default=0)
    args = parser.parse_args(arguments)
    launched = "RANK" in os.environ
    if launched:
        distributed.init_process_group("gloo")
    losses = train(alpha=args.alpha, epochs=args.epochs, seed=args.seed)
    if not launched or distributed.get_rank() == 0:
        print(f"loss {losses[0]:.2f} -> {losses[-1]:.2f} in {len(losses)} steps")
    if launched:
        distributed.destroy_process_group()
    return losses


if __name__ == "__main__":
    main()
