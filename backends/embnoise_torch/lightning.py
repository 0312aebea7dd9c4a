"""Noise in Lightning's ``Trainer``. Its Fabric needs nothing: ``attach`` knows its wrappers."""

from __future__ import annotations

import math
import os
from collections.abc import Callable, Mapping, Sequence
from typing import Any, Literal

from torch import Tensor, nn

from embnoise.backend import Noise, as_noise
from embnoise_torch import runs
from embnoise_torch.attach import attach, check_arguments
from embnoise_torch.handle import Handle

try:
    from lightning.pytorch import Callback, LightningModule, Trainer
    from lightning.pytorch.callbacks import GradientAccumulationScheduler
except ModuleNotFoundError:  # the same under its other name
    from pytorch_lightning import Callback, LightningModule, Trainer  # type: ignore[assignment]
    from pytorch_lightning.callbacks import (  # type: ignore[assignment]
        GradientAccumulationScheduler,
    )

__all__ = ["NoiseCallback"]


class NoiseCallback(Callback):
    """Attaches noise for the duration of ``trainer.fit()``, with the trainer's step.

    The run fills in what the noise leaves open: a schedule with ``steps=None`` ends with the
    trainer's last step, and a noise without a seed takes that of ``seed_everything``. Checkpoints
    contain the state of the noise, so a run that is resumed in the middle of an epoch, or of
    gradient accumulation, continues with the same noise. Validation is clean. ``noise_alpha`` is
    logged.

    With manual optimization, the steps of the module's optimizer count. How many there will be is
    not known, so a schedule needs ``steps=``. Several optimizers are refused, since it is not known
    whose steps count: attach noise yourself, in ``LightningModule.on_fit_start``.

    Args:
        noise: What noise to add, or its ``to_dict()``.
        layer: As for ``attach``.
        at: As for ``attach``.
        tokens: As for ``attach``.
        where: As for ``attach``.
        placeholders: As for ``attach``.

    Raises:
        TypeError: An argument of the wrong type.
        ValueError: An argument that is wrong whatever the model is.

    Example:
        >>> from embnoise import linear, neftune
        >>> from embnoise_torch.lightning import NoiseCallback
        >>> callback = NoiseCallback(neftune(alpha=linear(5.0, 0.0)))  # Trainer(callbacks=[...])
        >>> callback.handle is None
        True
    """

    def __init__(
        self,
        noise: Noise | Mapping[str, Any],
        *,
        layer: str | nn.Module | Sequence[str | nn.Module] | None = None,
        at: Literal["output", "input"] = "output",
        tokens: Callable[..., Mapping[str, Any]] | None = None,
        where: str | Callable[..., Tensor] = "all",
        placeholders: bool = False,
    ) -> None:
        self.noise = as_noise(noise)
        check_arguments(
            layer=layer,
            at=at,
            tokens=tokens,
            where=where,
            placeholders=placeholders,
        )
        self.layer = layer
        self.at = at
        self.tokens = tokens
        self.where = where
        self.placeholders = placeholders
        self.handle: Handle | None = None
        """The handle of ``attach`` while the trainer fits; ``None`` before and after."""
        self._loaded: Mapping[str, Any] = {}
        self._left: dict[str, Any] = {}
        """The state at the end of a run, which checkpoints may still be written of."""

    @property
    def state_key(self) -> str:
        """Tells the callbacks of one trainer apart, whose streams differ."""
        return self._generate_state_key(stream=self.noise.stream)

    def state_dict(self) -> dict[str, Any]:
        """Where the noise stands, and the seed of the run; empty before the first one."""
        if self.handle is None:
            return self._left
        return {"seed": self.handle.noise.seed, "handle": self.handle.state_dict()}

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Continue from what ``state_dict`` returned, once the noise is attached."""
        self._loaded = state_dict

    def setup(self, trainer: Trainer, pl_module: LightningModule, stage: str) -> None:
        """Forget the state of a checkpoint that was loaded to validate, test or predict."""
        self._loaded = {}

    def on_train_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Attach, after removing what a run that ended in an error left behind.

        Raises:
            ValueError: Several optimizers, or a schedule with ``steps=None`` in a run whose number
                of steps is not known.
        """
        self._detach()
        if len(trainer.optimizers) > 1:
            raise ValueError(
                f"trainer must have one optimizer, whose steps count, got {len(trainer.optimizers)}"
                "; in place of the callback, call attach(..., optimizer=self.optimizers()[0]) in "
                "LightningModule.on_fit_start"
            )
        runs.remove_stale(pl_module, [trainer])
        loaded, self._loaded = self._loaded, {}
        mesh = pl_module.device_mesh
        handle = attach(
            pl_module,
            self.noise.bind(_total_steps(trainer, pl_module), seed=loaded.get("seed", _seed())),
            layer=self.layer,
            at=self.at,
            optimizer="manual",
            tokens=self.tokens,
            where=self.where,
            placeholders=self.placeholders,
            mesh=None if mesh is None else mesh["data_parallel"],
        )
        self.handle = runs.begin(handle, trainer)
        if loaded:
            handle.load_state_dict(loaded["handle"])
        handle.step = trainer.global_step

    def on_train_batch_start(
        self, trainer: Trainer, pl_module: LightningModule, batch: Any, batch_idx: int
    ) -> None:
        """Set the noise's step to the trainer's, and log the amplitude."""
        if self.handle is not None:
            self.handle.step = trainer.global_step
            self.handle._begin_batch(batch)  # training_step may call any part of the model
            if not trainer.barebones:
                pl_module.log("noise_alpha", self.handle.alpha, batch_size=1)

    def on_train_batch_end(
        self, trainer: Trainer, pl_module: LightningModule, outputs: Any, batch: Any, batch_idx: int
    ) -> None:
        """Warn of a batch without noise."""
        if self.handle is not None:
            self.handle._end_batch()
            self.handle._end_step()

    def on_before_optimizer_step(
        self, trainer: Trainer, pl_module: LightningModule, optimizer: Any
    ) -> None:
        """With manual optimization, what follows in this batch is of the next step."""
        if self.handle is not None and not pl_module.automatic_optimization:
            self.handle.step = trainer.global_step + 1

    def on_train_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Leave the model as it was."""
        self._detach()

    def on_exception(
        self, trainer: Trainer, pl_module: LightningModule, exception: BaseException
    ) -> None:
        """Leave the model as it was."""
        self._detach()

    def _detach(self) -> None:
        if self.handle is not None:
            self._left = self.state_dict()
            self.handle._end_batch()
            runs.end(self.handle)
            self.handle = None


def _callbacks(trainer: Trainer) -> list[Callback]:
    return trainer.callbacks  # type: ignore[no-any-return, attr-defined]  # set by another class


def _seed() -> int | None:
    """The seed of ``seed_everything``, which hands it to all processes in this variable."""
    seed = os.environ.get("PL_GLOBAL_SEED")
    return None if seed is None else int(seed)


def _total_steps(trainer: Trainer, pl_module: LightningModule) -> int | None:
    """How many steps the optimizer makes in a run; ``None`` if that is not known."""
    if not pl_module.automatic_optimization:
        return None
    # The trainer's estimate does not look at this callback.
    if any(isinstance(each, GradientAccumulationScheduler) for each in _callbacks(trainer)):
        return None
    total = trainer.estimated_stepping_batches
    return int(total) if 0 < total < math.inf else None
