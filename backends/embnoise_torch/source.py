"""The noise of one embedding: the draw of its next lookup, and those of recent ones."""

from __future__ import annotations

from typing import Any

from torch import Tensor

from embnoise.backend import Counter, Noise, TokenArrays, embedding_shape, prepare, resolve_step
from embnoise_torch import custom_op
from embnoise_torch.functional import check_tensor
from embnoise_torch.kernels import add_
from embnoise_torch.model_call import tokens_of
from embnoise_torch.recompute import Draw, RecomputeCache
from embnoise_torch.sample_ids import SampleIds

__all__ = ["AttachedSource", "LayerSource"]


class _CountingSource:
    """Noise that counts its own lookups; the custom operator finds it by its number.

    Args:
        noise: What noise to add.
        sample_ids: The sample ids of this rank.
        calls_per_step: How many lookups one step takes; ``None`` if lookups do not advance it.
    """

    def __init__(self, noise: Noise, sample_ids: SampleIds, calls_per_step: int | None) -> None:
        self.noise = noise
        self.counter = Counter()
        self.paused = False
        self._sample_ids = sample_ids
        self._calls_per_step = calls_per_step
        self._cache = RecomputeCache()
        self.number = custom_op.register(self)

    def __reduce__(self) -> tuple[Any, ...]:
        settings = (self.noise, self._sample_ids, self._calls_per_step)
        return _restored, (type(self), settings, self.counter)

    def start(self, counter: Counter) -> None:
        """Continue from a counter, at the beginning of a step or in the middle of one."""
        self.counter = counter
        self._cache.clear()

    def apply_(self, x: Tensor, *arrays: Tensor | None) -> None:
        """Add noise to ``x`` in place, unseen by autograd."""
        raise NotImplementedError

    def add_next_(self, x: Tensor, inputs: Tensor, tokens: TokenArrays) -> None:
        """Add the noise of the next lookup to ``x`` in place.

        Args:
            x: Embeddings [B, L, d] or [L, d].
            inputs: What was looked up, by which a recomputed lookup is recognized.
            tokens: What the caller knows about the tokens.
        """
        if self.paused:
            return
        check_tensor(x)
        batch = embedding_shape(x)[0]
        draw = self._cache.draw(inputs, lambda: self._next_draw(batch))
        if draw is None:
            return
        self.add_at_(x, draw, tokens)

    def _next_draw(self, batch: int) -> Draw:
        before = self.counter
        self.counter = before.after(batch, calls_per_step=self._calls_per_step)
        return Draw(before.step, before.samples)

    def add_at_(self, x: Tensor, draw: Draw, tokens: TokenArrays) -> None:
        """Add the noise of a draw to ``x`` in place."""
        prepared = prepare(x, self.noise, step=draw.step, training=True, tokens=tokens)
        if prepared is None:
            return
        if tokens.sample_ids is None:
            sample_ids = self._sample_ids.of_batch(draw.first_sample, prepared.shape[0])
            prepared = prepared._replace(tokens=tokens._replace(sample_ids=sample_ids))
        add_(x, self.noise, prepared)


def _restored(kind: type[_CountingSource], settings: Any, counter: Counter) -> _CountingSource:
    source = kind(*settings)
    source.counter = counter
    return source


class LayerSource(_CountingSource):
    """The noise of one ``EmbeddingNoise``."""

    def apply_(self, x: Tensor, *arrays: Tensor | None) -> None:
        """Add noise to ``x`` in place.

        Args:
            x: Embeddings [B, L, d] or [L, d].
            *arrays: The step, or ``None`` to count; then the fields of ``TokenArrays``.
        """
        step, *rest = arrays
        tokens = TokenArrays(*rest)
        if step is None:
            self.add_next_(x, _fingerprint(x), tokens)
        elif not self.paused:
            self.add_at_(x, Draw(resolve_step(step), 0), tokens)


class AttachedSource(_CountingSource):
    """The noise of one embedding that ``attach`` found."""

    def apply_(self, x: Tensor, *arrays: Tensor | None) -> None:
        """Add noise to ``x``, the output of a lookup, in place.

        Args:
            x: Embeddings [B, L, d] or [L, d].
            *arrays: What was looked up; the mask, position ids and cumulative lengths of the
                model's call; then the fields of ``TokenArrays``, which go before these.
        """
        ids, mask, position_ids, cumulative, *given = arrays
        tokens = TokenArrays(*given)
        if mask is not None or position_ids is not None or cumulative is not None:
            batch, length, _ = embedding_shape(x)
            mask, segments = tokens_of(mask, position_ids, cumulative, (batch, length))
            tokens = tokens._replace(mask=mask, segment_ids=segments)
        self.add_next_(x, _fingerprint(x) if ids is None else ids, tokens)


def _fingerprint(x: Tensor) -> Tensor:
    """One channel of the embeddings: it tells one lookup from another, and is small."""
    return x.detach()[..., 0].clone()
