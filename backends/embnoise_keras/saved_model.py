"""Models of Keras and keras-hub from disk, for ``embnoise check``."""

from __future__ import annotations

import contextlib
import json
import zlib
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import keras
import numpy as np
from keras import ops
from numpy.typing import NDArray

from embnoise.backend import Handle, Inspection, Noise
from embnoise.testing.saved_model import (
    MOST_IDS,
    Lookup,
    SavedModel,
    TokenBatch,
    first_line,
    read_config,
    unloadable_tokenizer,
)
from embnoise_keras import inspection
from embnoise_keras._compat import all_layers
from embnoise_keras.attach import attach
from embnoise_keras.find import layers_of

__all__ = ["KIND", "KerasModel", "load", "owns"]

KIND = "a .keras file or the folder of a keras-hub preset"
_ENDINGS = ("token_ids", "padding_mask", "attention_mask", "segment_ids")
"""The inputs that the kit knows how to fill, by the ends of their names."""


def owns(path: Path) -> bool:
    """Whether a path is a ``.keras`` file or a preset, whose configuration names a class."""
    if path.is_file():
        return path.suffix == ".keras"
    return "registered_name" in read_config(path)


def load(path: Path, layer: str | None) -> KerasModel:
    """The model of a file or a preset, without its optimizer.

    Raises:
        ImportError: It is a preset, and keras-hub is not installed.
        ValueError: It cannot be loaded, has no embedding or several, or has inputs that are not
            known.
    """
    try:
        model = _load(path)
    except (OSError, RuntimeError, KeyError, TypeError, ValueError) as error:
        raise ValueError(f"{str(path)!r} cannot be loaded: {first_line(error)}") from None
    return KerasModel(model, layer, path)


def _load(path: Path) -> Any:
    if path.is_file():
        return keras.saving.load_model(path, compile=False)
    try:
        import keras_hub  # noqa: PLC0415, the adapter works without it
    except ModuleNotFoundError as error:
        raise ImportError(
            f"{str(path)!r} is a preset, and {error.name} is not installed: pip install keras-hub"
        ) from None
    return keras_hub.models.Backbone.from_preset(str(path))


class KerasModel(SavedModel):
    """A model of Keras.

    Args:
        model: The model.
        layer: Its embedding, its name or its path, if it has several.
        path: Its file, or the folder of its preset, where its tokenizer is.
    """

    no_segments = "embnoise_keras does not read documents from a model's inputs"
    no_gradient_mode = "Keras has no mode without gradients"

    def __init__(self, model: Any, layer: str | None, path: Path) -> None:
        self._model, self._layer, self._path = model, layer, path
        self.name = type(model).__name__
        self._embedding, *others = layers_of(model, layer)
        if others:
            paths = ", ".join(each.path for each in (self._embedding, *others))
            raise ValueError(
                f"{self.name} looks its tokens up in several embeddings, and one is checked at a "
                f"time; pass --layer, one of {paths}"
            )
        self.embedding = self._embedding.path
        self.shape = (self._embedding.input_dim, self._embedding.output_dim)
        size = min(self._embedding.input_dim, MOST_IDS)
        self.token_ids = np.arange(1, size)
        self._inputs = _inputs_of(model)
        self._by_name = isinstance(getattr(model, "input", None), dict)
        ids = [name for name in self._inputs if name.endswith("token_ids")]
        self.inputs = max(len(ids), 1)
        masked = any(name.endswith("_mask") for name in self._inputs)
        if not (masked or getattr(self._embedding, "mask_zero", False)):
            self.no_mask = (
                f"{self.name} has no input for a mask, and its embedding no mask_zero: padding "
                "counts as tokens"
            )
        shape = next(iter(self._inputs.values())).shape if self._inputs else (None, None)
        self.width = shape[1]
        limits = [each.sequence_length for each in all_layers(model) if _has_positions(each)]
        self.longest = min(limits, default=None)

    def attach(self, noise: Noise) -> Handle:
        """``attach``, which starts anew at step 0."""
        return attach(self._model, noise, layer=self._layer)

    def call(
        self, batches: list[TokenBatch], *, training: bool, gradients: bool = True
    ) -> tuple[list[Lookup], NDArray[Any]]:
        """The model's call."""
        seen: list[Lookup] = []
        with self._recorded(seen):
            output = self._model(self._arguments(batches), training=training)
        return seen, _array(_leaves(output)[0])

    def inspect(self, noise: Noise, *batches: list[TokenBatch], **options: Any) -> Inspection:
        """The adapter's ``inspect``."""
        calls = map(self._arguments, batches)
        return inspection.inspect(self._model, noise, *calls, layer=self._embedding, **options)

    def tokenize(self, texts: list[str]) -> list[list[int]]:
        """The ids that the tokenizer of a preset gives."""
        if self._path.is_file():
            return super().tokenize(texts)  # which raises
        import keras_hub  # noqa: PLC0415, the model is loaded with it

        try:
            tokenizer = keras_hub.tokenizers.Tokenizer.from_preset(str(self._path))
        except (OSError, ValueError, ImportError, KeyError) as error:
            raise unloadable_tokenizer(self._path, "keras-hub", error) from None
        return [np.asarray(tokenizer(text)).tolist() for text in texts]

    def _arguments(self, batches: list[TokenBatch]) -> Any:
        if len(self._inputs) <= 1:
            spec = next(iter(self._inputs.values()), None)
            ids = ops.convert_to_tensor(batches[0].ids, "int32" if spec is None else spec.dtype)
            return {next(iter(self._inputs)): ids} if self._by_name else ids
        given = {
            # Of the inputs' own dtype, so that Keras hands them on as they are.
            name: ops.convert_to_tensor(_value(name, batches), spec.dtype)
            for name, spec in self._inputs.items()
        }
        return given if self._by_name else list(given.values())

    @contextlib.contextmanager
    def _recorded(self, seen: list[Lookup]) -> Iterator[None]:
        """Note the lookups of the embedding in ``seen``."""
        own = vars(self._embedding).get("call")
        call = self._embedding.call

        def noting(ids: Any, *args: Any, **kwargs: Any) -> Any:
            output = call(ids, *args, **kwargs)
            if not (args or kwargs.get("reverse")):
                seen.append(Lookup(np.array(ops.convert_to_numpy(ids)), _array(output)))
            return output

        self._embedding.call = noting
        try:
            yield
        finally:
            if own is None:
                del self._embedding.call
            else:
                self._embedding.call = own

    def state(self) -> Mapping[str, Any]:
        """Checksums of the weights, and the configuration."""
        sums: dict[str, Any] = {
            weight.path: zlib.crc32(np.ascontiguousarray(_array(weight.value)).tobytes())
            for weight in self._model.weights
        }
        return {**sums, "config.json": json.dumps(keras.saving.serialize_keras_object(self._model))}


def _has_positions(layer: Any) -> bool:
    """Whether a layer is the position table of keras-hub, which has a largest position."""
    return type(layer).__name__ == "PositionEmbedding"


def _inputs_of(model: Any) -> dict[str, Any]:
    """The inputs of a model by name; none for a subclassed one, which takes the ids.

    Raises:
        ValueError: It has several, and one of them is not known.
    """
    found = getattr(model, "inputs", None) or []
    inputs = getattr(model, "input", None) if found else None
    named = dict(inputs) if isinstance(inputs, dict) else {each.name: each for each in found}
    unknown = [name for name in named if not name.endswith(_ENDINGS)]
    if len(named) > 1 and unknown:
        raise ValueError(
            f"the model has an input {unknown[0]!r}, and the kit only knows how to fill those "
            f"whose names end in {', '.join(_ENDINGS)}"
        )
    return named


def _value(name: str, batches: list[TokenBatch]) -> NDArray[Any]:
    batch = batches[-1] if name.startswith("decoder") else batches[0]
    if name.endswith("token_ids"):
        return batch.ids
    if name.endswith("_mask"):
        return batch.mask.astype(np.int32)
    return np.zeros_like(batch.ids)  # the segments of BERT, which are all the first one


def _leaves(output: Any) -> list[Any]:
    leaves: list[Any] = keras.tree.flatten(output)
    return leaves


def _array(tensor: Any) -> NDArray[Any]:
    return np.array(ops.convert_to_numpy(ops.cast(tensor, "float32")))
