"""Noise in Tunix's trainers, whose evaluation does not put the model in evaluation mode."""

from __future__ import annotations

from contextlib import ExitStack
from typing import Any

from tunix.sft.hooks import TrainingHooks

from embnoise.backend import Handle

__all__ = ["NoiseHooks"]


class NoiseHooks(TrainingHooks):  # type: ignore[misc]  # tunix may be missing
    """Keeps evaluation clean, and the noise's step that of a ``PeftTrainer``.

    Attach before the trainer is made, so that it saves and restores where the noise stands, and
    call ``train(..., cache_nnx_graph=False)``: a cached model cannot be paused.

    Args:
        handle: What ``embnoise_jax.nnx.attach`` returned for the trainer's model.

    Example:
        >>> from embnoise import neftune
        >>> from embnoise_jax.nnx import attach
        >>> from embnoise_jax.tunix import NoiseHooks
        >>> from flax import nnx
        >>> model = nnx.Sequential(nnx.Embed(10, 8, rngs=nnx.Rngs(0)), nnx.relu)
        >>> hooks = NoiseHooks(attach(model, neftune(5.0)))
        >>> # trainer = PeftTrainer(model, optimizer, config)
        >>> # trainer.with_training_hooks(hooks)
    """

    def __init__(self, handle: Handle) -> None:
        self.handle = handle
        self._evaluation = ExitStack()
        self._lookups = 0
        """The lookups before an evaluation."""

    def on_train_start(self, train_ctx: Any) -> None:
        """Set the noise's step to the trainer's, which a checkpoint may have set."""
        self._evaluation.close()
        self.handle.step = train_ctx.train_steps

    def on_train_step_start(self, train_ctx: Any) -> None:
        """Evaluation has ended."""
        self._evaluation.close()

    def on_eval_step_start(self, train_ctx: Any) -> None:
        """Pause the noise until the next training step."""
        self._evaluation.close()
        self._evaluation.enter_context(self.handle.paused())
        self._lookups = self.handle.lookups

    def on_eval_step_end(self, train_ctx: Any, eval_loss: float) -> None:
        """Check that evaluation was clean.

        Raises:
            ValueError: It was not, since the trainer evaluates the model as it was when it began.
        """
        if self.handle.lookups != self._lookups:
            raise ValueError(
                "cache_nnx_graph must be False beside noise, or evaluation gets noise; call "
                "train(..., cache_nnx_graph=False)"
            )

    def on_train_step_end(self, train_ctx: Any, train_step: int, train_loss: float) -> None:
        """Nothing: the noise counts its calls."""

    def on_train_end(self, train_ctx: Any) -> None:
        """End the pause of a last evaluation; ``handle.remove()`` removes the noise."""
        self._evaluation.close()
