"""Noise in the Hugging Face ``Trainer``, and in TRL's trainers, which are subclasses of it."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any

from torch import Tensor, nn
from transformers import TrainerCallback, TrainerControl, TrainerState, TrainingArguments

from embnoise.backend import Noise, check_bool, check_noise
from embnoise_torch.attach import attach
from embnoise_torch.handle import Handle

__all__ = ["NoiseCallback"]


class NoiseCallback(TrainerCallback):
    """Attaches noise for the duration of ``trainer.train()`` and keeps its step the trainer's.

    The run fills in what the noise leaves open: a schedule with ``steps=None`` ends with the
    trainer's last step, and a noise without a seed takes the trainer's ``seed``. A run that is
    resumed from a checkpoint continues with the noise of its step. Logs and
    ``trainer.state.log_history`` get ``noise_alpha``.

    Args:
        noise: What noise to add.
        layer: As for ``attach``.
        tokens: As for ``attach``.
        where: As for ``attach``.
        placeholders: As for ``attach``.

    Raises:
        TypeError: ``noise`` is not a ``Noise``, or ``placeholders`` not a bool.

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
        layer: str | nn.Module | Sequence[str | nn.Module] | None = None,
        tokens: Callable[..., Mapping[str, Any]] | None = None,
        where: str | Callable[..., Tensor] = "all",
        placeholders: bool = False,
    ) -> None:
        self.noise = check_noise(noise)
        self.layer = layer
        self.tokens = tokens
        self.where = where
        self.placeholders = check_bool("placeholders", placeholders)
        self.handle: Handle | None = None
        """The handle of ``attach`` while the trainer trains; ``None`` before and after."""

    def on_train_begin(
        self,
        args: TrainingArguments,
        state: TrainerState,
        control: TrainerControl,
        **kwargs: Any,
    ) -> None:
        """Attach, after removing what a run that ended in an error left behind."""
        if args.neftune_noise_alpha is not None:
            raise ValueError(
                "neftune_noise_alpha must be None beside a NoiseCallback, or noise is added twice; "
                f"got {args.neftune_noise_alpha!r}"
            )
        self._detach()
        self.handle = attach(
            kwargs["model"],
            self.noise.bind(state.max_steps, seed=args.seed),
            layer=self.layer,
            optimizer="manual",
            tokens=self.tokens,
            where=self.where,
            placeholders=self.placeholders,
        )
        self.handle.step = state.global_step

    def on_step_begin(
        self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **kwargs: Any
    ) -> None:
        """Set the noise's step to the trainer's."""
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
