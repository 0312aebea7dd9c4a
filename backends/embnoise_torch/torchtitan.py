"""Noise in torchtitan, whose trainer is part of its configuration."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor
from torchtitan.config import derive
from torchtitan.trainer import Trainer

from embnoise.backend import read_noise
from embnoise_torch.attach import attach

__all__ = ["NoiseTrainer", "with_noise"]


class NoiseTrainer(Trainer):  # type: ignore[misc]  # torchtitan may be missing
    """torchtitan's trainer with noise, under data parallelism (DDP, FSDP, HSDP).

    The run fills in what the noise leaves open: a schedule with ``steps=None`` ends with
    ``training.steps``, and a noise without a seed takes ``debug.seed``. A run that is resumed from
    a checkpoint continues with the noise of its step. In packed rows, the lengths are those of the
    documents, whose positions start again.

    Raises:
        OSError: The file that ``--noise`` names cannot be read.
        ValueError: It does not describe a noise; or tensor, context or pipeline parallelism, which
            split what the embedding returns.
    """

    @dataclass(kw_only=True, slots=True)
    class Config(Trainer.Config):  # type: ignore[misc]
        """The configuration of torchtitan's trainer, and ``--noise``."""

        noise: str
        """A JSON file that describes the noise."""

    def __init__(self, config: Config) -> None:
        noise = read_noise(config.noise).bind(config.training.steps, seed=config.debug.seed)
        super().__init__(config)
        dims = self.parallel_dims
        if dims.tp_enabled or dims.cp_enabled or dims.pp_enabled:
            raise ValueError(
                "parallelism must be data parallelism alone beside noise, got "
                f"tp={dims.tp}, cp={dims.cp}, pp={dims.pp}"
            )
        (model,) = self.model_parts
        self.noise = attach(model, noise, optimizer="manual", tokens=_documents)

    def train_step(self, data_iterator: Iterator[Any]) -> None:
        """A step of torchtitan's trainer, which counts from 1, with the noise of its step."""
        self.noise.step = self.step - 1
        super().train_step(data_iterator)
        self.noise._end_step()

    def close(self) -> None:
        """Leave the model as it was."""
        self.noise.remove()
        super().close()


def with_noise(config: Trainer.Config, noise: str) -> NoiseTrainer.Config:
    """The configuration of a trainer, with noise; for a function that ``--config`` names.

    Args:
        config: A configuration of torchtitan, such as ``llama3_8b()``.
        noise: A JSON file that describes the noise.

    Returns:
        The same with ``noise``, which ``--noise`` on the command line replaces.
    """
    return derive(config, NoiseTrainer.Config, noise=noise)  # type: ignore[no-any-return]


def _documents(ids: Tensor, positions: Tensor | None = None) -> dict[str, Tensor]:
    """Document numbers from positions that start again; all tokens are real."""
    if positions is None:
        return {}
    starts = positions.expand(ids.shape) == 0
    starts[:, 0] = True
    return {"segment_ids": torch.cumsum(starts, dim=1)}
