"""Noise in the Hugging Face ``Trainer`` (and in TRL's trainers, which are subclasses of it)."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from torch import Tensor, nn
from transformers import TrainerCallback, TrainerControl, TrainerState, TrainingArguments

from embnoise.backend import Noise, format_value
from embnoise_torch.attach import Handle, attach
from embnoise_torch.call import Call

__all__ = ["NoiseCallback"]


class NoiseCallback(TrainerCallback):
    """Attaches noise for the time of ``trainer.train()`` and keeps its step the trainer's.

    A schedule that lasts for the rest of the run is bound to the trainer's number of steps. A run
    resumed from a checkpoint goes on with the noise of its step. Logs and
    ``trainer.state.log_history`` get ``noise_alpha``.

    Args:
        noise: what noise to add.
        layer: as in ``attach``.
        where: as in ``attach``.

    Example:
        >>> from embnoise import linear, neftune
        >>> from embnoise_torch.transformers import NoiseCallback
        >>> callback = NoiseCallback(neftune(alpha=linear(5.0, 0.0)))  # Trainer(callbacks=[...])
        >>> callback.handle is None
        True
    """

    def __init__(
        self,
        noise: Noise,
        *,
        layer: str | nn.Module | None = None,
        where: str | Callable[[Call], Tensor] = "all",
    ) -> None:
        if not isinstance(noise, Noise):
            raise TypeError(f"noise must be a Noise, got {format_value(noise)}")
        self.noise = noise
        self.layer = layer
        self.where = where
        self.handle: Handle | None = None
        """The attachment while the trainer trains; ``None`` before and after."""

    def on_train_begin(
        self,
        args: TrainingArguments,
        state: TrainerState,
        control: TrainerControl,
        **kwargs: Any,
    ) -> None:
        """Attach; what an earlier run left when an error ended it goes first."""
        if args.neftune_noise_alpha is not None:
            raise ValueError(
                "neftune_noise_alpha must be None beside a NoiseCallback, or noise is added twice; "
                f"got {args.neftune_noise_alpha!r}"
            )
        self._detach()
        noise = self.noise.bind(state.max_steps)
        model = kwargs["model"]
        self.handle = attach(model, noise, layer=self.layer, optimizer="manual", where=self.where)
        self.handle.step = state.global_step

    def on_step_begin(
        self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **kwargs: Any
    ) -> None:
        """The trainer's step is the noise's."""
        if self.handle is not None:
            self.handle.step = state.global_step

    def on_log(
        self,
        args: TrainingArguments,
        state: TrainerState,
        control: TrainerControl,
        logs: dict[str, Any] | None = None,
        **kwargs: Any,
    ) -> None:
        """Add the amplitude to the logs."""
        if self.handle is not None and logs is not None:
            logs["noise_alpha"] = self.handle.alpha
            if state.log_history:  # the trainer has filed a copy already
                state.log_history[-1]["noise_alpha"] = self.handle.alpha

    def on_train_end(
        self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **kwargs: Any
    ) -> None:
        """Leave the model as it was."""
        self._detach()

    def _detach(self) -> None:
        if self.handle is not None:
            self.handle.remove()
            self.handle = None
