"""Models of transformers from disk, for ``embnoise check``."""

from __future__ import annotations

import contextlib
import inspect
import zlib
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

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
from embnoise_torch import inspection
from embnoise_torch.attach import attach

__all__ = ["KIND", "TransformersModel", "load", "owns"]

KIND = "a folder that save_pretrained of transformers wrote"


def owns(path: Path) -> bool:
    """Whether a path is a model's folder: its ``config.json`` names a model type."""
    return "model_type" in read_config(path)


def load(path: Path, layer: str | None) -> TransformersModel:
    """The model of a folder.

    Raises:
        ImportError: transformers is not installed.
        ValueError: It cannot be loaded, or has no embedding or several.
    """
    try:
        import transformers  # noqa: PLC0415, the adapter works without it
    except ModuleNotFoundError:
        raise ImportError(
            f"{str(path)!r} is a model of transformers, which is not installed: "
            'pip install "embnoise[transformers]"'
        ) from None
    try:
        with _silenced(transformers.utils.logging):
            model = _load(transformers, path)
    except (OSError, RuntimeError, ImportError, KeyError) as error:
        raise ValueError(f"{str(path)!r} cannot be loaded: {first_line(error)}") from None
    return TransformersModel(model, layer, path)


@contextlib.contextmanager
def _silenced(logging: Any) -> Iterator[None]:
    """Without the bars of transformers, and its reports of heads that are not in a file."""
    level, bars = logging.get_verbosity(), logging.is_progress_bar_enabled()
    logging.set_verbosity_error()
    logging.disable_progress_bar()
    try:
        yield
    finally:
        logging.set_verbosity(level)
        if bars:
            logging.enable_progress_bar()


def _load(transformers: Any, path: Path) -> Any:
    local = {"local_files_only": True, "trust_remote_code": False}
    try:
        config = transformers.AutoConfig.from_pretrained(path, **local)
    except ValueError as error:
        kind = read_config(path)["model_type"]
        if "model type" not in str(error):
            raise
        raise ValueError(
            f"{str(path)!r} is a model of type {kind!r}, which transformers "
            f"{transformers.__version__} does not know"
        ) from None
    _without_dropout(config)
    names = getattr(config, "architectures", None) or ["AutoModel"]
    kind = getattr(transformers, names[0], transformers.AutoModel)
    return kind.from_pretrained(path, config=config, dtype=torch.float32, **local)


def _without_dropout(config: Any) -> None:
    """Set every dropout to 0, so that a difference between two calls is the noise's."""
    for each in _configs(config):
        for name, value in vars(each).items():
            if "drop" in name and isinstance(value, float):
                setattr(each, name, 0.0)


def _configs(config: Any) -> Iterator[Any]:
    """A configuration, and those of the parts of the model in it."""
    yield config
    for part in vars(config).values():
        if hasattr(part, "to_dict"):
            yield from _configs(part)


class TransformersModel(SavedModel):
    """A model of transformers.

    Args:
        model: The model.
        layer: Its embedding, if it has several.
        path: Its folder, where its tokenizer is.
    """

    def __init__(self, model: Any, layer: str | None, path: Path) -> None:
        self._model, self._layer, self._path = model, layer, path
        self.name = type(model).__name__
        self._parameters = list(inspect.signature(model.forward).parameters)
        with self.attach(Noise(1.0)) as handle:
            self._embeddings = list(handle.state_dict())
        self.embedding = ", ".join(self._embeddings)
        rows, dim = model.get_submodule(self._embeddings[0]).weight.shape
        self.shape = (rows, dim)
        config = model.config
        text = config.get_text_config()
        self.padding_id = int(_first(getattr(text, "pad_token_id", None)))
        self.token_ids = _ordinary_ids(config, model.get_submodule(self._embeddings[0]))
        longest = getattr(text, "max_position_embeddings", None)
        self.longest = longest if isinstance(longest, int) and longest > 0 else None
        self.inputs = 2 if config.is_encoder_decoder else 1
        if "attention_mask" not in self._parameters:
            self.no_mask = f"{self.name} takes no attention_mask: padding counts as tokens"
        if "position_ids" not in self._parameters:
            self.no_segments = f"{self.name} takes no position_ids, which mark packed documents"

    def attach(self, noise: Noise) -> Handle:
        """``attach``, with the step in the hands of the kit."""
        return attach(self._model, noise, layer=self._layer, optimizer="manual")

    def call(
        self, batches: list[TokenBatch], *, training: bool, gradients: bool = True
    ) -> tuple[list[Lookup], NDArray[Any]]:
        """The model's forward, with the keywords of transformers."""
        seen: list[Lookup] = []
        self._model.train(training)
        with self._recorded(seen), torch.set_grad_enabled(gradients):
            output = self._model(**self._arguments(batches))
        return seen, _array(_first_tensor(output))

    def inspect(self, noise: Noise, *batches: list[TokenBatch], **options: Any) -> Inspection:
        """The adapter's ``inspect``."""
        calls = map(self._arguments, batches)
        return inspection.inspect(self._model, noise, *calls, layer=self._layer, **options)

    def tokenize(self, texts: list[str]) -> list[list[int]]:
        """The ids that the tokenizer in the model's folder gives."""
        import transformers  # noqa: PLC0415, the model is loaded with it

        try:
            tokenizer = transformers.AutoTokenizer.from_pretrained(
                self._path, local_files_only=True, trust_remote_code=False
            )
        except (OSError, ValueError, ImportError, KeyError) as error:
            raise unloadable_tokenizer(self._path, "transformers", error) from None
        ids: list[list[int]] = tokenizer(texts)["input_ids"]
        return ids

    def _arguments(self, batches: list[TokenBatch]) -> dict[str, Any]:
        batch = batches[0]
        given: dict[str, Any] = {"input_ids": torch.from_numpy(batch.ids)}
        if batch.segments is not None:
            given["position_ids"] = torch.from_numpy(_positions(batch.segments))
        else:
            given["attention_mask"] = torch.from_numpy(batch.mask.astype(np.int64))
        if self.inputs == 2:
            given["decoder_input_ids"] = torch.from_numpy(batches[1].ids)
            given["decoder_attention_mask"] = torch.from_numpy(batches[1].mask.astype(np.int64))
        given["use_cache"] = False
        return {name: value for name, value in given.items() if name in self._parameters}

    @contextlib.contextmanager
    def _recorded(self, seen: list[Lookup]) -> Iterator[None]:
        """Note the lookups of the embeddings in ``seen``."""

        def note(module: nn.Module, args: Any, kwargs: Any, output: Any) -> None:
            ids = args[0] if args else next(iter(kwargs.values()))
            seen.append(Lookup(ids.numpy().copy(), _array(_first_tensor(output))))

        with contextlib.ExitStack() as stack:
            for name in self._embeddings:
                module = self._model.get_submodule(name)
                hook = module.register_forward_hook(note, with_kwargs=True)
                stack.callback(hook.remove)
            yield

    def state(self) -> Mapping[str, Any]:
        """Checksums of the ``state_dict``, and the configuration."""
        sums: dict[str, Any] = {
            name: zlib.crc32(value.reshape(-1).contiguous().view(torch.uint8).numpy().tobytes())
            for name, value in self._model.state_dict().items()
            if isinstance(value, Tensor)
        }
        return {**sums, "config.json": self._model.config.to_json_string()}


def _positions(segments: NDArray[np.int64]) -> NDArray[np.int64]:
    """Positions that start again with each document."""
    positions = np.zeros_like(segments)
    for column in range(1, segments.shape[1]):
        same = segments[:, column] == segments[:, column - 1]
        positions[:, column] = np.where(same, positions[:, column - 1] + 1, 0)
    return positions


def _ordinary_ids(config: Any, embedding: Any) -> NDArray[np.int64]:
    """Ids that mean nothing to the model: neither padding nor the place of an image, say."""
    special: set[int] = set()
    for each in _configs(config):
        for name, value in vars(each).items():
            if name.endswith(("_token_id", "_token_index")):
                special |= {value} if isinstance(value, int) else set(value or ())
    size = min(embedding.weight.shape[0], MOST_IDS)
    return np.array([number for number in range(size) if number not in special])


def _first(value: Any) -> Any:
    """An id, where there may be several or none."""
    if isinstance(value, list | tuple):
        value = value[0]
    return 0 if value is None or value < 0 else value


def _first_tensor(output: Any) -> Tensor:
    if isinstance(output, Tensor):
        return output
    values = output.values() if isinstance(output, Mapping) else output
    return next(value for value in values if isinstance(value, Tensor))


def _array(tensor: Tensor) -> NDArray[Any]:
    return tensor.detach().float().numpy().copy()
