"""``ModelRun``: what the checks of a saved model work with."""

from __future__ import annotations

import math
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from functools import cached_property
from typing import Any

import numpy as np
from numpy.typing import NDArray

from embnoise._noise import Noise
from embnoise._reference import add_noise
from embnoise._state import Handle
from embnoise.testing.failures import ClaimViolatedError, NotClaimedError, UntestableError
from embnoise.testing.model_batches import Part, batches_of, parts_of
from embnoise.testing.saved_model import Lookup, SavedModel, TokenBatch

__all__ = ["Floats", "ModelRun"]

Floats = NDArray[np.float32]

ENOUGH = 2000
"""How many values the smallest sequence of a batch gets, over several steps."""
MOST_STEPS = 64


class ModelRun:
    """A model, the noise to test on it, and what calls of the model have shown.

    Args:
        model: From an adapter.
        noise: The noise to attach.
    """

    def __init__(self, model: SavedModel, noise: Noise) -> None:
        self.model = model
        self.noise = noise
        self.assertions = 0
        self._clean: dict[str, list[Floats]] = {}
        self._exact: set[str] = set()
        """The kinds of batches whose noise has the draws of the specification."""
        self._ratios: dict[str, list[list[tuple[Part, float]]]] = {}

    def expect(self, holds: bool, seen: str, likely: str) -> None:
        """Count an assertion, and raise if it does not hold."""
        self.assertions += 1
        if not holds:
            raise ClaimViolatedError(seen, likely)

    def batches(self, kind: str) -> list[TokenBatch]:
        """The batches of a kind, one for each input of the model.

        Raises:
            NotClaimedError: The model cannot be told what is special about them.
        """
        missing = self.model.no_segments if kind == "packed" else self.model.no_mask
        if missing and kind != "plain":
            raise NotClaimedError(missing)
        if kind == "square" and (self.model.width or 0) > 32:
            raise NotClaimedError(f"the model takes rows of {self.model.width} tokens only")
        return batches_of(self.model, kind)

    @contextmanager
    def attached(self, kind: str, noise: Noise | None = None) -> Iterator[Handle]:
        """The model with noise, for calls with batches of a kind."""
        self.clean(kind)  # not later, when it would have noise
        handle = self.model.attach(noise or self.noise)
        try:
            yield handle
        finally:
            handle.remove()

    def clean(self, kind: str) -> list[Floats]:
        """The embeddings of each batch in training mode, before any noise was attached."""
        if kind not in self._clean:
            lookups, _ = self.model.call(self.batches(kind), training=True)
            self._clean[kind] = [found[0] for found in self.found(kind, lookups)]
        return self._clean[kind]

    def found(self, kind: str, lookups: list[Lookup]) -> list[list[Floats]]:
        """The lookups of each batch as [B, L, d], in order.

        Raises:
            ClaimViolatedError: No lookup has the ids of a batch.
            UntestableError: A lookup has other ids than the model was called with.
        """
        batches = self.batches(kind)
        by_batch: list[list[Floats]] = [[] for _ in batches]
        for lookup in lookups:
            for number, batch in enumerate(batches):
                if np.array_equal(lookup.ids, batch.ids):
                    by_batch[number].append(lookup.embeddings)
                    break
                if np.array_equal(lookup.ids, batch.ids.T):  # a model that works on [L, B]
                    by_batch[number].append(np.swapaxes(lookup.embeddings, 0, 1))
                    break
            else:
                raise UntestableError(
                    f"the embedding {self.model.embedding!r} looks up ids of shape "
                    f"{lookup.ids.shape} that the model was not called with, of shape "
                    f"{batches[0].ids.shape}: the kit cannot tell the tokens apart"
                )
        for number, found in enumerate(by_batch):
            self.expect(
                bool(found),
                f"no embedding with noise looks up the ids of input {number + 1} of "
                f"{len(batches)}{_which(number, batches)}",
                "the model looks these tokens up in another embedding; choose it with --layer, or "
                "attach to both",
            )
        return by_batch

    def noisy(self, kind: str, handle: Handle, step: int) -> list[list[Floats]]:
        """The lookups of each batch at a step."""
        handle.step = step
        lookups, _ = self.model.call(self.batches(kind), training=True)
        return self.found(kind, lookups)

    def noise_at(self, kind: str, handle: Handle, step: int) -> list[Floats]:
        """The noise of each batch at a step."""
        noisy = [found[0] for found in self.noisy(kind, handle, step)]
        return [after - before for after, before in zip(noisy, self.clean(kind), strict=True)]

    def ratios(self, kind: str) -> list[list[tuple[Part, float]]]:
        """How large the noise of each sequence is, relative to what it should be."""
        if kind in self._ratios:
            return self._ratios[kind]
        batches, clean = self.batches(kind), self.clean(kind)
        parts = [parts_of(batch) for batch in batches]
        seen = [np.zeros(len(each)) for each in parts]
        expected = [np.zeros(len(each)) for each in parts]
        with self.attached(kind) as handle:
            for step in range(self.steps(kind)):
                noises, exact = self.noise_at(kind, handle, step), True
                for number, (batch, x) in enumerate(zip(batches, clean, strict=True)):
                    right = self._right(x, batch, step, noises[number])
                    for place, part in enumerate(parts[number]):
                        one, other = (
                            noises[number][part.row][part.where],
                            right[part.row][part.where],
                        )
                        seen[number][place] += np.square(one, dtype=float).sum()
                        expected[number][place] += np.square(other, dtype=float).sum()
                        exact &= _correlation(one, other) > 0.999
                if exact:  # the same draws, so that their ratio is no matter of chance
                    self._exact.add(kind)
                    break
        self._ratios[kind] = [
            [(part, math.sqrt(one / other)) for part, one, other in zip(*row, strict=True)]
            for row in zip(parts, seen, expected, strict=True)
        ]
        return self._ratios[kind]

    def _right(self, x: Floats, batch: TokenBatch, step: int, seen: Floats) -> Floats:
        """The noise that the specification gives; of several streams, the one that is seen."""
        masks = {"mask": batch.mask, "segment_ids": batch.segments}
        given: dict[str, Any] = {name: mask for name, mask in masks.items() if mask is not None}
        first = self.noise.stream
        others = [f"{first}/{each}" for each in ("2", *self.model.embedding.split(", "))]
        draws: list[Floats] = []
        for stream in [first, *others[: len(others) * (self.model.inputs - 1)]]:
            noise = replace(self.noise, stream=stream)
            draws.append(add_noise(x, noise, step=step, **given) - x)
        return max(draws, key=lambda draw: _correlation(seen, draw))

    def steps(self, kind: str) -> int:
        """How many steps give the smallest sequence enough values."""
        smallest = min(part.length for batch in self.batches(kind) for part in parts_of(batch))
        wanted: int = math.ceil(ENOUGH / (smallest * self.dim))
        return min(wanted, MOST_STEPS)

    def tolerance(self, kind: str, part: Part) -> float:
        """How far a ratio may be from 1: five standard deviations, of both its noises."""
        if kind in self._exact:
            return 0.005
        values = self.steps(kind) * part.length * self.dim
        return 0.005 + 5 * math.sqrt(max(self.noise._distribution.kurtosis - 1, 0) / (2 * values))

    @cached_property
    def dim(self) -> int:
        """The embedding size d."""
        return int(self.clean(self.easiest)[0].shape[-1])

    @property
    def easiest(self) -> str:
        """The kind of batch that every model takes, with padding if it takes a mask."""
        return "plain" if self.model.no_mask else "right"

    @cached_property
    def factor(self) -> float:
        """By how much the noise is too large in all sequences alike; 1 if it is not."""
        pairs = [pair for row in self.ratios(self.easiest) for pair in row]
        for factor in (2.0, math.sqrt(2)):
            if all(abs(r / factor - 1) < self.tolerance(self.easiest, p) for p, r in pairs):
                return factor
        return 1.0

    def length_of(self, ratio: float, part: Part, width: int) -> int:
        """The L that gives a sequence ``ratio`` times the noise that its own L gives."""
        right = width if self.noise.length == "padded" else part.length
        lengths = np.arange(1, 4 * width + 1)
        alpha, rule = self.noise.alpha_at(0), self.noise._scale

        def magnitude(length: float) -> float:
            return float(rule(alpha, length, float(self.dim), 1.0))

        wanted = ratio * magnitude(float(right))
        logs = [abs(math.log(max(magnitude(float(n)), 1e-30) / wanted)) for n in lengths]
        return int(lengths[int(np.argmin(logs))])

    def other_seed(self) -> Noise:
        """The same noise with another seed."""
        return replace(self.noise, seed=(self.noise.seed or 0) + 1)


def _correlation(one: Floats, other: Floats) -> float:
    size = math.sqrt(np.square(one, dtype=float).sum() * np.square(other, dtype=float).sum())
    return float((one.astype(float) * other).sum()) / size if size else 0.0


def _which(number: int, batches: list[TokenBatch]) -> str:
    return "" if len(batches) == 1 else (", the encoder's", ", the decoder's")[number]
