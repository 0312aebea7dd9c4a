"""``SavedModel``: what the kit needs of a model that an adapter has loaded from disk.

An adapter that loads models has a module ``saved_model`` beside its driver, with ``KIND``, a few
words for messages, ``owns(path)`` and ``load(path, layer)``.
"""

from __future__ import annotations

import json
from abc import ABC, abstractmethod
from collections.abc import Mapping
from dataclasses import dataclass
from importlib import import_module
from pathlib import Path
from types import ModuleType
from typing import Any

import numpy as np
from numpy.typing import NDArray

from embnoise._inspect.inspection import inspect_table
from embnoise._inspect.report import Inspection
from embnoise._noise import Noise
from embnoise._state import Handle
from embnoise._validation import format_value
from embnoise.testing.find_driver import adapter_of, adapters
from embnoise.testing.safetensors_file import read_table

__all__ = [
    "MOST_IDS",
    "Lookup",
    "SavedModel",
    "SavedTable",
    "TokenBatch",
    "first_line",
    "load_model",
    "read_config",
    "unloadable_tokenizer",
]

MOST_IDS = 10_000
"""How many ids of a vocabulary a model is called with."""


@dataclass(frozen=True)
class TokenBatch:
    """What a model is called with.

    Attributes:
        ids: Token ids [B, L].
        mask: True for the real tokens [B, L].
        segments: For packed rows, the number of each token's document [B, L], counted from 1.
    """

    ids: NDArray[np.int64]
    mask: NDArray[np.bool_]
    segments: NDArray[np.int64] | None = None


@dataclass(frozen=True)
class Lookup:
    """One call of the embedding inside of a call of the model.

    Attributes:
        ids: What was looked up.
        embeddings: What came out, noise included, as float32 [..., d].
    """

    ids: NDArray[Any]
    embeddings: NDArray[np.float32]


class SavedModel(ABC):
    """A model from disk, in float32 and without dropout where it has a switch for that.

    Attributes:
        name: The class of the model.
        embedding: The name of the embedding that gets noise.
        shape: The shape of its table, (V, d).
        token_ids: Ids of ordinary tokens.
        padding_id: The id to pad with.
        inputs: How many batches a call takes: 2 for an encoder-decoder.
        width: The width of rows, if the model has a fixed one.
        longest: The largest width, if the model has one.
        no_mask: Why the model cannot be told which tokens are real; ``None`` if it can.
        no_segments: Why it cannot be told of documents in packed rows.
        no_gradient_mode: Why it cannot run without gradients.
    """

    name: str
    embedding: str
    shape: tuple[int, int]
    token_ids: NDArray[np.int64]
    padding_id: int = 0
    inputs: int = 1
    width: int | None = None
    longest: int | None = None
    no_mask: str | None = None
    no_segments: str | None = None
    no_gradient_mode: str | None = None

    @abstractmethod
    def attach(self, noise: Noise) -> Handle:
        """Attach noise. The step is set on the handle."""

    @abstractmethod
    def call(
        self, batches: list[TokenBatch], *, training: bool, gradients: bool = True
    ) -> tuple[list[Lookup], NDArray[Any]]:
        """Call the model: the lookups of its embedding, in order, and its output."""

    @abstractmethod
    def inspect(self, noise: Noise, *batches: list[TokenBatch], **options: Any) -> Inspection:
        """The adapter's ``inspect``, with calls of the model with each of the batches.

        Args:
            noise: What noise to add.
            *batches: As for ``call``.
            **options: ``step``, ``lengths`` and ``reference_rms``.
        """

    def tokenize(self, texts: list[str]) -> list[list[int]]:
        """The token ids of texts, by the tokenizer that is saved with the model.

        Raises:
            ValueError: There is none.
        """
        raise _no_tokenizer(self.name)

    @abstractmethod
    def state(self) -> Mapping[str, Any]:
        """What saving the model writes: a checksum for each weight, and its configuration."""


@dataclass(frozen=True)
class SavedTable:
    """An embedding table from disk, without the model around it.

    Attributes:
        name: The name of the table.
        table: Floating-point [V, d].
    """

    name: str
    table: NDArray[Any]

    def __post_init__(self) -> None:
        if self.table.ndim != 2:
            raise ValueError(
                f"--layer must name an embedding table [V, d], and {self.name!r} is "
                f"{format_value(self.table)}"
            )

    @property
    def shape(self) -> tuple[int, int]:
        """V and d."""
        return self.table.shape[0], self.table.shape[1]

    def tokenize(self, texts: list[str]) -> list[list[int]]:
        """Raise: a table comes without a tokenizer.

        Raises:
            ValueError: Always.
        """
        raise _no_tokenizer(self.name)

    def inspect(self, noise: Noise, **options: Any) -> Inspection:
        """``embnoise.inspect_table``, with its options."""
        return inspect_table(self.table, noise, name=self.name, **options)


_WRITE_IDS = 'write the token ids of each line, as in {"input_ids": [1, 2, 3]}'


def _no_tokenizer(name: str) -> ValueError:
    return ValueError(f"{name} has no tokenizer for text; {_WRITE_IDS}")


def unloadable_tokenizer(path: Path, library: str, error: Exception) -> ValueError:
    """The error for a tokenizer that a library cannot load from a model's path."""
    reason = first_line(error)
    return ValueError(
        f"{str(path)!r} has no tokenizer that {library} can load ({reason}); {_WRITE_IDS}"
    )


def first_line(error: Exception) -> str:
    """The first line of a library's message, for an error of ours that has one line."""
    return str(error).strip().split("\n")[0]


def read_config(path: Path) -> dict[str, Any]:
    """The ``config.json`` of a folder; empty if it has none that is an object."""
    try:
        config = json.loads((path / "config.json").read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return {}
    return config if isinstance(config, dict) else {}


def load_model(path: Path, layer: str | None, adapter: str | None) -> SavedModel | SavedTable:
    """Load a model, or a table without one, with the adapter that owns its format.

    Args:
        path: A file or a folder.
        layer: The embedding, if the model has several.
        adapter: The adapter's name. Default: the one that recognizes the path.

    Raises:
        FileNotFoundError: There is nothing at the path.
        ValueError: No adapter recognizes it, or it cannot be loaded.
        ImportError: What its framework needs is not installed.
    """
    if not path.exists():
        raise FileNotFoundError(f"there is no file or folder {str(path)!r}")
    if path.is_file() and path.suffix == ".safetensors":
        return SavedTable(*read_table(path, layer))
    names = [adapter_of(adapter).name] if adapter else _adapters()
    kinds, missing = [], []
    for name in names:
        try:
            module = _loader(name)
        except ModuleNotFoundError as error:
            missing.append(f"{name} needs {error.name}, which is not installed")
            continue
        if module is None:
            continue
        if module.owns(path):
            loaded: SavedModel | SavedTable = module.load(path, layer)
            return loaded
        kinds.append(module.KIND)
    known = ", ".join([*kinds, "or a .safetensors file (for `embnoise inspect`)"])
    reasons = "".join(f"; {reason}" for reason in missing)
    raise ValueError(f"no model found in {str(path)!r}: expected {known}{reasons}")


def _adapters() -> list[str]:
    """PyTorch first, whose adapter is the quicker one to import."""
    return sorted(adapters(), key=lambda name: (name != "torch", name))


def _loader(name: str) -> ModuleType | None:
    """The module of an adapter that loads models; ``None`` if it has none."""
    module = f"{adapter_of(name).value}.saved_model"
    try:
        return import_module(module)
    except ModuleNotFoundError as error:
        if error.name == module:
            return None
        raise
