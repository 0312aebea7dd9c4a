"""Noise in MosaicML's Composer, as an algorithm."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from composer.core import Algorithm, Event, State, TimeUnit
from composer.loggers import Logger

from embnoise.backend import Noise, as_noise
from embnoise_torch import runs
from embnoise_torch.attach import attach
from embnoise_torch.handle import Handle

__all__ = ["NoiseAlgorithm"]


class NoiseAlgorithm(Algorithm):  # type: ignore[misc]  # composer may be missing
    """Attaches noise for the duration of ``Trainer.fit``; a batch of the trainer is a step.

    The run fills in what the noise leaves open: a schedule with ``steps=None`` ends with
    ``max_duration``, if that is in batches or epochs, and a noise without a seed takes the
    trainer's. The micro-batches of a batch draw different noise. A run that is resumed from a
    checkpoint continues with the noise of its batch. If a run ended in an error, the next one of
    the model takes over. ``noise_alpha`` is logged.

    Args:
        noise: What noise to add, or its ``to_dict()``.
        **options: ``layer``, ``tokens``, ``where``, ``placeholders``, ``mesh`` and ``dealing`` of
            ``attach``.

    Raises:
        TypeError: ``noise`` is not a ``Noise``.

    Example:
        >>> from embnoise import linear, neftune
        >>> from embnoise_torch.composer import NoiseAlgorithm
        >>> noise = NoiseAlgorithm(neftune(alpha=linear(5.0, 0.0)))  # Trainer(algorithms=[noise])
        >>> noise.handle is None
        True
    """

    def __init__(self, noise: Noise | Mapping[str, Any], **options: Any) -> None:
        self.noise = as_noise(noise)
        self.options = options
        self.handle: Handle | None = None
        """The handle of ``attach`` while the trainer fits; ``None`` before and after."""

    def match(self, event: Event, state: State) -> bool:
        """Whether the noise has to do with an event."""
        return event in (Event.FIT_START, Event.BATCH_START, Event.BATCH_END, Event.FIT_END)

    def apply(self, event: Event, state: State, logger: Logger) -> None:
        """Attach, set the noise's step to the batch of the trainer, or leave the model as it was.

        Raises:
            ValueError: As for ``attach``; among others, for a schedule with ``steps=None`` in a
                run whose number of batches is not known.
        """
        if event == Event.BATCH_END:
            if self.handle is not None:
                self.handle._end_step()
            return
        if event == Event.BATCH_START:
            if self.handle is not None:
                self.handle.step = state.timestamp.batch.value
                logger.log_metrics({"noise_alpha": self.handle.alpha})
            return
        if self.handle is not None:
            runs.end(self.handle)
            self.handle = None
        if event == Event.FIT_START:
            self._attach(state)

    def _attach(self, state: State) -> None:
        runs.remove_stale(state.model, [state])
        noise = self.noise.bind(_total_batches(state), seed=state.rank_zero_seed)
        handle = attach(state.model, noise, optimizer="manual", **self.options)
        self.handle = runs.begin(handle, state)


def _total_batches(state: State) -> int | None:
    """How many batches a run has; ``None`` if that is not known."""
    duration = state.max_duration
    if duration.unit == TimeUnit.BATCH:
        return int(duration.value)
    if duration.unit == TimeUnit.EPOCH and state.dataloader_len is not None:
        return int(duration.value * state.dataloader_len.value)
    return None
