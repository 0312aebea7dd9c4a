"""The models: a small Llama, pretrained once and kept, and a small BERT from scratch."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch
from tokenizers import Tokenizer
from transformers import BertConfig, BertForSequenceClassification, LlamaForCausalLM

import small_decoder
import small_llama
from evidence.corpus import documented_pairs, prose_parts
from small_decoder import PAD_ID, SHAPE

__all__ = ["bert", "llama", "pretrained"]

CACHE = Path(".cache/evidence")


def pretrained(steps: int) -> Path:
    """The folder of a Llama that was pretrained for so many steps, made if it is not there."""

    def make(tokenizer: Tokenizer, folder: Path) -> None:
        tokenizer.save(str(folder / small_decoder.TOKENIZER))
        small_llama.pretrain(prose_parts(tokenizer)[0], steps).save_pretrained(folder)

    settings = {**small_llama.config().to_dict(), "held out": "prose"}
    return small_decoder.cached(CACHE, settings, list(documented_pairs()), steps, make)


def llama(folder: Path, *, dropout: float = 0.0) -> Any:
    """The pretrained Llama, with dropout on attention and on each layer's output."""
    model: Any = LlamaForCausalLM.from_pretrained(
        folder,
        local_files_only=True,
        dtype=torch.float32,
        attention_dropout=dropout,
        attn_implementation="sdpa",
    )
    if dropout:
        for layer in model.model.layers:  # Llama itself has dropout on attention alone
            for part in (layer.self_attn.o_proj, layer.mlp.down_proj):
                part.register_forward_hook(
                    lambda module, args, output: torch.nn.functional.dropout(
                        output, dropout, module.training
                    )
                )
    model.config.use_cache = False
    return model.train()


def bert(classes: int, seed: int) -> Any:
    """A BERT with fresh weights."""
    torch.manual_seed(seed)
    config: Any = BertConfig(
        vocab_size=SHAPE.vocabulary,
        hidden_size=SHAPE.width,
        intermediate_size=4 * SHAPE.width,
        num_hidden_layers=2,
        num_attention_heads=SHAPE.heads,
        max_position_embeddings=SHAPE.positions,
        pad_token_id=PAD_ID,
        hidden_dropout_prob=0.1,
    )
    config.num_labels = classes
    return BertForSequenceClassification(config).train()
