"""The data: question and answer pairs from docstrings, prose to pretrain on, and their splits."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import TypeVar

import torch
from tokenizers import Tokenizer
from torch import Tensor

import pairs
import small_decoder
from pairs import Pair
from task import Example, encode

__all__ = ["Corpus", "Row", "corpus", "documented_pairs", "drawn", "prose_parts"]

T = TypeVar("T")

VALIDATION, TEST = 256, 256
SPLIT_SEED = 0
SCIPY = (
    "cluster", "fft", "integrate", "interpolate", "io", "linalg", "ndimage", "optimize", "signal",
    "sparse", "sparse.linalg", "spatial", "special", "stats", "constants",
)  # fmt: skip
HELD_OUT_PROSE = 0.1
"""The last part of the prose, which is not pretrained on."""


@dataclass(frozen=True)
class Row(Example):
    """A pair in tokens, and where it comes from."""

    package: str
    """The first part of the name that the question asks for."""


@dataclass(frozen=True)
class Corpus:
    """The pairs in tokens: the pool to train on, validation and test."""

    pool: list[Row]
    validation: list[Row]
    test: list[Row]

    def training_rows(self, count: int, seed: int) -> list[Row]:
        """The rows that all arms of a seed train on."""
        return drawn(self.pool, count, seed)


def drawn(pool: Sequence[T], count: int, seed: int) -> list[T]:
    """Some of the pool, in an order that the seed draws."""
    order = torch.randperm(len(pool), generator=torch.Generator().manual_seed(seed))[:count]
    return [pool[index] for index in order.tolist()]


@cache
def documented_pairs() -> tuple[Pair, ...]:
    """Pairs from Python, NumPy and SciPy, in an order of their own."""
    modules = [f"scipy.{name}" for name in SCIPY]
    pairs.SUBMODULES[:] = dict.fromkeys([*pairs.SUBMODULES, *modules])
    train, held_out = pairs.split(pairs.docstring_pairs(), 10**6, VALIDATION + TEST, SPLIT_SEED)
    return (*held_out, *train)


@cache
def corpus(model: Path) -> Corpus:
    """The corpus in the tokens of a model's folder."""
    tokenizer = Tokenizer.from_file(str(model / small_decoder.TOKENIZER))
    rows = []
    for pair in documented_pairs():
        question, answer = (each.ids for each in tokenizer.encode_batch([pair.prompt, pair.output]))
        example = encode(question, answer, small_decoder.END_ID)
        rows.append(Row(example.prompt, example.answer, _package(pair)))
    return Corpus(rows[VALIDATION + TEST :], rows[:VALIDATION], rows[VALIDATION:][:TEST])


def prose_parts(tokenizer: Tokenizer) -> tuple[Tensor, Tensor]:
    """The prose in tokens: what is pretrained on, and what is held out."""
    tokens = torch.tensor(tokenizer.encode(small_decoder.prose()).ids)
    end = int(len(tokens) * (1 - HELD_OUT_PROSE))
    return tokens[:end], tokens[end:]


def _package(pair: Pair) -> str:
    name = pair.instruction.split()[2]
    return ".".join(name.split(".")[: 2 if name.startswith("scipy.") else 1])
