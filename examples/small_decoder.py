"""What the small decoders of every framework have in common: their shape and their text.

They have the architecture of Llama. They are made on the spot, pretrained on Python's reference
prose with a tokenizer of their own, and kept in a cache folder.
"""

from __future__ import annotations

import hashlib
import json
import os
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from pydoc_data.topics import topics
from tempfile import TemporaryDirectory
from typing import Any

import numpy as np
from numpy.typing import NDArray
from tokenizers import Tokenizer, decoders, models, pre_tokenizers, trainers

from pairs import Pair


@dataclass(frozen=True)
class Shape:
    """The sizes of a decoder."""

    vocabulary: int = 2048
    width: int = 128
    hidden: int = 352  # of the gated feed-forward layers
    layers: int = 4
    heads: int = 4
    positions: int = 512  # the most that a row may have


SHAPE = Shape()
INITIAL_DEVIATION, EPSILON = 0.02, 1e-6  # of all weights but the norms', and in the norms
PAD, END = "<pad>", "<end>"
PAD_ID, END_ID = 0, 1
TOKENIZER = "tokenizer.json"  # its file in the model's folder
BATCH, LENGTH = 8, 128
LEARNING_RATE = 3e-3
WARM_UP = 0.3  # the part of pretraining in which the learning rate rises
WEIGHT_DECAY = 0.01
SEED = 0  # its own, so that every seed of the fine-tuning starts from the same model


def prose() -> str:
    """Python's language reference, as ``help()`` shows it."""
    return "\n".join(topics[name] for name in sorted(topics))


def cached(
    cache: Path,
    architecture: dict[str, Any],
    pairs: list[Pair],
    steps: int,
    make: Callable[[Tokenizer, Path], None],
) -> Path:
    """The folder that ``make`` fills with a model pretrained for so many steps.

    The tokenizer is trained on the prose and the pairs, the model on the prose alone. What the
    cache folder has is not made again.
    """
    text = [prose(), *(pair.prompt + pair.output for pair in pairs)]
    settings = [architecture, text, steps, BATCH, LENGTH, LEARNING_RATE, SEED]
    folder = cache / hashlib.sha256(json.dumps(settings).encode()).hexdigest()[:16]
    if folder.is_dir():
        print(f"Pretrained before: {folder}")
        return folder
    cache.mkdir(parents=True, exist_ok=True)
    with TemporaryDirectory(dir=cache) as unfinished:
        whole = Path(unfinished) / "model"
        whole.mkdir()
        make(_train_tokenizer(text), whole)
        os.replace(whole, folder)  # at once: an interrupted run leaves no half of a model
    return folder


def _train_tokenizer(text: list[str]) -> Tokenizer:
    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=SHAPE.vocabulary,
        special_tokens=[PAD, END],
        initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
        show_progress=False,
    )
    tokenizer.train_from_iterator(text, trainer)
    return tokenizer


def excerpts(tokenizer: Tokenizer, steps: int) -> Iterator[tuple[NDArray[Any], NDArray[Any]]]:
    """Batches of the prose: token ids, and for each of them the one that follows."""
    tokens = np.array(tokenizer.encode(prose()).ids, np.int32)
    random = np.random.default_rng(SEED)
    for _ in range(steps):
        starts = random.integers(len(tokens) - LENGTH, size=[BATCH, 1])
        batch = tokens[starts + np.arange(LENGTH + 1)]
        yield batch[:, :-1], batch[:, 1:]


def rotary_frequencies(shape: Shape) -> NDArray[Any]:
    """The angle of one position for every channel of a head (arXiv 2104.09864).

    Both halves of a head have the same angles, as in Llama.
    """
    half = shape.width // shape.heads // 2
    return np.tile(10_000.0 ** (-np.arange(half, dtype=np.float32) / half), 2)
