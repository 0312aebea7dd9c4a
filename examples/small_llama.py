"""The small decoder as a Llama of Hugging Face Transformers, with its tokenizer."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch
from tokenizers import Tokenizer
from tqdm import trange
from transformers import LlamaConfig, LlamaForCausalLM, PreTrainedTokenizerFast

import small_decoder
from pairs import Pair
from small_decoder import BATCH, END, END_ID, LEARNING_RATE, LENGTH, PAD, PAD_ID, SEED, SHAPE


def pretrained(pairs: list[Pair], steps: int, cache: Path) -> Path:
    """The folder of a pretrained model, as ``from_pretrained`` takes it."""

    def make(tokenizer: Tokenizer, folder: Path) -> None:
        wrapper: Any = PreTrainedTokenizerFast
        wrapped = wrapper(tokenizer_object=tokenizer, pad_token=PAD, eos_token=END)
        prose = torch.tensor(wrapped(small_decoder.prose()).input_ids)
        pretrain(prose, steps).save_pretrained(folder)
        wrapped.save_pretrained(folder)

    return small_decoder.cached(cache, config().to_dict(), pairs, steps, make)


def config() -> LlamaConfig:
    """The shape of the small decoder, as a Llama."""
    return LlamaConfig(
        vocab_size=SHAPE.vocabulary,
        hidden_size=SHAPE.width,
        intermediate_size=SHAPE.hidden,
        num_hidden_layers=SHAPE.layers,
        num_attention_heads=SHAPE.heads,
        max_position_embeddings=SHAPE.positions,
        tie_word_embeddings=True,
        pad_token_id=PAD_ID,
        bos_token_id=None,
        eos_token_id=END_ID,
    )


def pretrain(tokens: torch.Tensor, steps: int) -> Any:
    """A Llama that has seen so many batches of excerpts."""
    torch.manual_seed(SEED)
    model: Any = LlamaForCausalLM(config())
    optimizer = torch.optim.AdamW(model.parameters(), LEARNING_RATE)
    schedule = torch.optim.lr_scheduler.OneCycleLR(optimizer, LEARNING_RATE, steps)
    bar = trange(steps, desc="Pretraining", unit="step")
    for _ in bar:
        starts = torch.randint(len(tokens) - LENGTH, [BATCH, 1])
        batch = tokens[starts + torch.arange(LENGTH)]
        loss = model(input_ids=batch, labels=batch).loss
        loss.backward()
        torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        optimizer.step()
        schedule.step()
        optimizer.zero_grad()
        bar.set_postfix(loss=f"{loss.item():.2f}", refresh=False)
    return model
