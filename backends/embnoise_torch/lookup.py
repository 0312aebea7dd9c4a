"""One embedding module under noise, as a source: the noise of its next lookup, and of past ones."""

from __future__ import annotations

from torch import Tensor

from embnoise.backend import Noise, Prepared, TokenArrays, embedding_shape
from embnoise_torch import custom_op
from embnoise_torch.call import tokens_of
from embnoise_torch.functional import check_tensor
from embnoise_torch.kernels import add_
from embnoise_torch.place import Memory, Place, Ranks

__all__ = ["Lookup", "Run"]


class Run:
    """What all lookups of one attachment share."""

    def __init__(self, noise: Noise) -> None:
        self.noise = noise
        self.step = 0
        self.paused = False
        self.fired = 0
        """How many lookups got noise so far."""

    @property
    def alpha(self) -> float:
        """The noise's amplitude now."""
        alpha: float = self.noise.alpha_at(self.step)
        return alpha


class Lookup:
    """The lookups of one embedding module.

    Args:
        noise: the attachment's noise, in this module's own stream.
        run: what it shares with the attachment's other modules.
        ranks: which of the samples of a step are this process's.
    """

    def __init__(self, noise: Noise, run: Run, ranks: Ranks) -> None:
        self.noise = noise
        self.samples = 0
        """How many samples of the current step this rank has noised."""
        self._run = run
        self._ranks = ranks
        self._memory = Memory()
        self.number = custom_op.register(self)

    def begin_step(self, samples: int = 0) -> None:
        """Count samples anew, from ``samples``."""
        self.samples = samples
        self._memory.clear()

    def apply_(self, x: Tensor, *arrays: Tensor | None) -> None:
        """Noise in place on the lookup ``x``.

        Args:
            x: embeddings [B, L, d] or [L, d].
            *arrays: what was looked up, the call's mask, position ids and cumulative lengths (see
                ``call``), and where to add noise.
        """
        ids, mask, positions, cumulative, where = arrays
        run = self._run
        if run.paused or x.numel() == 0 or (alpha := run.alpha) == 0:
            return
        check_tensor(x)
        shape = batch, length, _ = embedding_shape(x)

        def take() -> Place:
            place = Place(run.step, self.samples)
            self.samples += batch
            return place

        # Without ids, a column of the embeddings tells one lookup from another well enough.
        fed = x.detach()[..., 0].clone() if ids is None else ids
        place = self._memory.place(fed, take)
        if place is None:
            return
        if place.step != run.step:
            alpha = self.noise.alpha_at(place.step)
        mask, segments = tokens_of(mask, positions, cumulative, (batch, length))
        if mask is not None or segments is not None or where is not None:
            TokenArrays(mask, segments, where=where).check(shape)
        samples = self._ranks.sample_ids(place.first, batch)
        tokens = TokenArrays(mask, segments, None, samples, where)
        add_(x, self.noise, Prepared(shape, place.step, alpha, tokens))
        run.fired += 1
