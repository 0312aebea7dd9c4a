"""A small Llama and its tokenizer, made on the spot and kept in a cache folder."""

from __future__ import annotations

import hashlib
import json
import os
from pathlib import Path
from pydoc_data.topics import topics
from tempfile import TemporaryDirectory
from typing import Any

import torch
from tokenizers import Tokenizer, decoders, models, pre_tokenizers, trainers
from tqdm import trange
from transformers import LlamaConfig, LlamaForCausalLM, PreTrainedTokenizerFast

from pairs import Pair

VOCABULARY = 2048
PAD, END = "<pad>", "<end>"
BATCH, LENGTH = 8, 128
LEARNING_RATE = 3e-3
SEED = 0  # its own, so that every seed of the fine-tuning starts from the same model


def pretrained(pairs: list[Pair], steps: int, cache: Path) -> Path:
    """The folder of a model pretrained on Python's reference prose, and of its tokenizer.

    The tokenizer is trained on the prose and the pairs, the model on the prose alone. What the
    cache folder has is not made again.
    """
    prose = "\n".join(topics[name] for name in sorted(topics))
    text = [prose, *(pair.prompt + pair.output for pair in pairs)]
    settings = [_config().to_dict(), text, steps, BATCH, LENGTH, LEARNING_RATE, SEED]
    folder = cache / hashlib.sha256(json.dumps(settings).encode()).hexdigest()[:16]
    if folder.is_dir():
        print(f"Pretrained before: {folder}")
        return folder
    tokenizer = _train_tokenizer(text)
    model = _pretrain(torch.tensor(tokenizer(prose).input_ids), steps)
    cache.mkdir(parents=True, exist_ok=True)
    with TemporaryDirectory(dir=cache) as unfinished:
        whole = Path(unfinished) / "model"
        model.save_pretrained(whole)
        tokenizer.save_pretrained(whole)
        os.replace(whole, folder)  # at once: an interrupted run leaves no half of a model
    return folder


def _config() -> LlamaConfig:
    return LlamaConfig(
        vocab_size=VOCABULARY,
        hidden_size=128,
        intermediate_size=352,
        num_hidden_layers=4,
        num_attention_heads=4,
        max_position_embeddings=512,
        tie_word_embeddings=True,
        pad_token_id=0,
        bos_token_id=None,
        eos_token_id=1,
    )


def _train_tokenizer(text: list[str]) -> Any:
    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=VOCABULARY,
        special_tokens=[PAD, END],
        initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
        show_progress=False,
    )
    tokenizer.train_from_iterator(text, trainer)
    wrapper: Any = PreTrainedTokenizerFast
    return wrapper(tokenizer_object=tokenizer, pad_token=PAD, eos_token=END)


def _pretrain(tokens: torch.Tensor, steps: int) -> Any:
    torch.manual_seed(SEED)
    model: Any = LlamaForCausalLM(_config())
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
