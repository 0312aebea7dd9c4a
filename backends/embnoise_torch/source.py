"""The noise of one embedding: the draw of its next lookup, and those of recent ones."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from threading import Lock
from typing import Any, NamedTuple

import numpy as np
import torch
from torch import Tensor

from embnoise.backend import (
    Counter,
    Noise,
    TokenArrays,
    embedding_shape,
    prepare_checked,
    resolve_step,
)
from embnoise_torch import _compat
from embnoise_torch.model.lookup_tokens import resolve_tokens
from embnoise_torch.model.model_call import CallTokens, calls_in, have_mask
from embnoise_torch.model.row_parts import check_rows, warns_of_starts
from embnoise_torch.model.special_ids import SpecialIds
from embnoise_torch.ranks.sample_ids import SampleIds
from embnoise_torch.ranks.sequences import SequencePart
from embnoise_torch.ranks.shards import is_dtensor
from embnoise_torch.ranks.surroundings import check_surroundings
from embnoise_torch.ranks.whole_rows import whole_rows
from embnoise_torch.recompute import Draw, RecomputeCache
from embnoise_torch.seen_lookups import SeenLookups
from embnoise_torch.tracing import custom_op
from embnoise_torch.tracing.custom_op import Ready, add_ready_
from embnoise_torch.untold_padding import FIRST, UntoldPadding

__all__ = ["NOTHING", "AttachedSource", "Described", "LayerSource", "packed"]

NOTHING = TokenArrays()
"""What is known about the tokens of most lookups, which are full rows: this very tuple."""

_TOKEN_ARRAYS = len(TokenArrays._fields)


class Described(NamedTuple):
    """What is known about the tokens of a lookup."""

    tokens: TokenArrays
    transposed: bool = False
    """Whether the embeddings are [L, B, d]; the arrays are [B, L] all the same."""
    part: SequencePart | None = None
    """The tokens of the embeddings, if the arrays are of whole sequences."""


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
        self.pauses = 0
        """How many contexts without noise are open."""
        self.traced_pauses = 0
        """How many of them a function opened and closes that Dynamo is tracing."""
        self.sample_ids = sample_ids
        self.seen = SeenLookups()
        """Where lookups are told; the sources of a handle have one in common."""
        self._calls_per_step = calls_per_step
        self._cache = RecomputeCache()
        self._lock = Lock()  # several threads may call one model at a time
        self.number = custom_op.register(self)
        self.number_tensor = torch.tensor(self.number, device="cpu")

    @property
    def paused(self) -> bool:
        """Whether there is no noise for now."""
        return self.pauses > 0 or self.traced_pauses > 0

    def __reduce__(self) -> tuple[Any, ...]:
        settings = (self.noise, self.sample_ids, self._calls_per_step)
        return _restored, (type(self), settings, self.counter)

    def start(self, counter: Counter) -> None:
        """Continue from a counter, at the beginning of a step or in the middle of one."""
        self.counter = counter
        self._cache.clear()

    def ready(self, x: Tensor, inputs: Tensor | None, /, *arrays: Tensor | None) -> Ready | None:
        """What is known about embeddings that get the next noise: see ``Source``."""
        raise NotImplementedError

    def add_traced_(
        self,
        x: Tensor,
        inputs: Tensor | None,
        step: Tensor | None,
        tokens: TokenArrays,
        rows: Tensor | None,
    ) -> None:
        """Add the noise of the next lookup to ``x`` in place: see ``Source``."""
        told = unpacked(tokens)
        described = None if told is None else Described(told)
        ready = self.next_lookup(x, inputs, lambda _: described, rows)
        add_ready_(x, self.noise, ready)

    def next_lookup(
        self,
        x: Tensor,
        inputs: Tensor | None,
        describe: Callable[[tuple[int, int]], Described | None],
        rows: Tensor | None = None,
    ) -> Ready | None:
        """Count the next lookup; returns what is known about it, or ``None`` if it gets no noise.

        Args:
            x: Embeddings [B, L, d] or [L, d].
            inputs: What was looked up, by which a recomputed lookup is recognized. Where nothing
                was, a channel of the embeddings, or hidden states, does.
            describe: From B and L to what is known about the tokens; ``None`` if this lookup has no
                token and does not count. It is not called in a recomputed forward pass, where the
                calls around the lookup may have returned.
            rows: Which sample of the lookup each row is; row i is sample i by default.
        """
        inputs = _a_channel(x) if inputs is None else inputs
        shape = embedding_shape(x)

        def next_draw() -> Draw | None:
            if self.paused:
                self.seen.add()
                return None
            check_surroundings(self.sample_ids.place)
            described = describe(shape[:2])
            if described is None:
                return None
            samples = shape[described.transposed] if rows is None else int(rows.max()) + 1
            with self._lock:
                before = self.counter
                first = self.sample_ids.next_block(before.samples)
                if not _compat.pipeline_rehearses():
                    self.seen.add()
                    samples += first - before.samples  # a block that is not full counts as full
                    self.counter = before.after(samples, calls_per_step=self._calls_per_step)
            return Draw(before.step, first, *described)

        draw = self._cache.draw(inputs, next_draw)
        return None if draw is None else self.at(shape, draw, rows)

    def latest(self) -> tuple[Tensor, Draw] | None:
        """What the latest lookup looked up, and its draw; ``None`` before the first."""
        return self._cache.latest

    def at(
        self, shape: tuple[int, int, int], draw: Draw, rows: Tensor | None = None
    ) -> Ready | None:
        """What is known about the lookup of a draw.

        Args:
            shape: The sizes of the embeddings, from ``embedding_shape``.
            draw: The draw.
            rows: As for ``next_lookup``.
        """
        first, second, dim = shape
        if draw.transposed:
            shape = second, first, dim
        if draw.part is not None:
            shape = first, draw.part.length, dim
        tokens = draw.tokens
        if tokens is not NOTHING:
            tokens.check(shape)
        # Alone, the samples of the first lookup of a step are the rows, which is the default.
        if tokens.sample_ids is None and (
            rows is not None or draw.first_sample > 0 or not self.sample_ids.alone
        ):
            own: Any = np.arange(shape[0]) if rows is None else rows
            sample_ids = self.sample_ids.of_rows(draw.first_sample, own)
            tokens = TokenArrays(*tokens[:3], sample_ids, tokens.where)
        prepared = prepare_checked(shape, self.noise, draw.step, tokens)
        return None if prepared is None else Ready(prepared, draw.transposed, draw.part)


def _restored(kind: type[_CountingSource], settings: Any, counter: Counter) -> _CountingSource:
    source = kind(*settings)
    source.counter = counter
    return source


class LayerSource(_CountingSource):
    """The noise of one ``EmbeddingNoise``."""

    def ready(self, x: Tensor, inputs: Tensor | None, /, *arrays: Tensor | None) -> Ready | None:
        """What is known about embeddings that get the next noise: see ``Source``.

        Args:
            x: Embeddings [B, L, d] or [L, d].
            inputs: One channel of the embeddings, if it is known.
            *arrays: The step, or ``None`` to count; then the fields of ``TokenArrays``.
        """
        step, *rest = arrays
        tokens = TokenArrays(*rest)

        def describe(shape: tuple[int, int]) -> Described:
            sequences = self.sample_ids.sequences
            if sequences is None:
                return Described(tokens)
            whole = whole_rows(sequences, shape, _device(inputs, x), tokens)
            return Described(whole.given, part=whole.part)

        if step is None:
            return self.next_lookup(x, inputs, describe)
        if self.paused:
            return None
        check_surroundings(self.sample_ids.place)
        shape = embedding_shape(x)
        return self.at(shape, Draw(resolve_step(step), 0, *describe(shape[:2])))


class AttachedSource(_CountingSource):
    """The noise of one embedding that ``attach`` found.

    Args:
        noise: What noise to add.
        sample_ids: The sample ids of this rank.
        calls_per_step: How many lookups one step takes; ``None`` if lookups do not advance it.
        special: Padding, and placeholders that get no noise.
        calls: Tells what the active calls in eager code tell about the lookup.
    """

    def __init__(
        self,
        noise: Noise,
        sample_ids: SampleIds,
        calls_per_step: int | None,
        special: SpecialIds,
        calls: Callable[[], list[CallTokens]],
    ) -> None:
        super().__init__(noise, sample_ids, calls_per_step)
        self._special = special
        self._eager_calls = calls
        self.expects_calls = False
        """Whether there are calls that tell about tokens, without which nothing does."""
        self.untold = UntoldPadding(noise, special)
        self._looks_at_positions = FIRST
        """In how many more lookups positions are warned of that tell no documents, or no L."""

    def ready(self, x: Tensor, inputs: Tensor | None, /, *arrays: Tensor | None) -> Ready | None:
        """What is known about the output of the next lookup: see ``Source``.

        Args:
            x: Embeddings or hidden states, [B, L, d] or [L, d].
            inputs: One channel of them, if it is known and ``x`` has no values.
            *arrays: What was looked up, ``None`` for hidden states; the fields of ``TokenArrays``
                that the user's functions give; then those of ``CallTokens`` for every active call.
        """
        ids, *rest = arrays
        given, told = TokenArrays(*rest[:_TOKEN_ARRAYS]), calls_in(rest[_TOKEN_ARRAYS:])
        if self.expects_calls:
            # A part that is compiled by itself, behind a graph break perhaps, has eager calls
            # around it, of which the compiler did not know.
            told += self._eager_calls()
            if not (told or self.paused):
                self.untold.warn_without_calls()
        return self.ready_lookup(x, ids, given, told, inputs)

    def ready_lookup(
        self,
        x: Tensor,
        ids: Tensor | None,
        given: TokenArrays,
        calls: Sequence[CallTokens],
        inputs: Tensor | None = None,
        *,
        are_full: bool = False,
    ) -> Ready | None:
        """``ready`` for arrays that are told apart.

        Args:
            x: As for ``ready``.
            ids: What was looked up.
            given: What the user's functions give.
            calls: What the active calls tell.
            inputs: As for ``ready``.
            are_full: Whether a mask has told, in place of these, that the rows are full.
        """

        def describe(shape: tuple[int, int]) -> Described | None:
            sequences = self.sample_ids.sequences
            if sequences is None:
                return self.resolve(ids, shape, given, calls, are_full=are_full)
            whole = whole_rows(sequences, shape, _device(ids, inputs, x), given, ids, calls)
            part = whole.part
            described = self.resolve(whole.ids, (shape[0], part.length), whole.given, whole.calls)
            if described is not None and described.transposed:
                raise ValueError("the model looks up [L, B] ids, which no mesh can cut along L")
            return None if described is None else described._replace(part=part)

        return self.next_lookup(x, inputs if ids is None else ids, describe)

    def resolve(
        self,
        ids: Tensor | None,
        shape: tuple[int, int],
        given: TokenArrays,
        calls: Sequence[CallTokens],
        *,
        are_full: bool = False,
    ) -> Described | None:
        """What ``next_lookup`` describes a lookup by, from what ``ready_lookup`` takes."""
        if given is not NOTHING and any(each is not None for each in given[:-1]):
            return Described(given)  # what tokens= returned, in place of what the calls tell
        if not (calls or self._special.placeholders or self.untold.looks_at_ids):
            return Described(given)
        if ids is not None and isinstance(self.noise.length, str):
            check_rows(ids, calls, self._special.padding)
        described = Described(NOTHING)
        if calls or self._special.placeholders:
            looks = self._looks_at_positions > 0 and isinstance(self.noise.length, str)
            warns = looks and self.noise.length == "tokens"
            resolved = resolve_tokens(ids, shape, calls, self._special, warns=warns)
            if resolved is None:
                return None
            described = Described(*resolved)
            if looks and any(call.positions is not None for call in calls):
                self._looks_at_positions -= 1
                if warns_of_starts(calls, self._special.padding):
                    self._looks_at_positions = 0
        has_mask = are_full or have_mask(calls, described.tokens.mask)
        if has_mask:
            self.untold.check_mask(ids, described.tokens.mask)
        elif ids is not None:
            self.untold.warn_of_unread(calls)
            self.untold.warn_of_others(ids, calls)
        self.untold.warn_of_arguments(ids, shape, calls, described.tokens, has_mask=has_mask)
        if ids is not None and not has_mask:
            self.untold.warn_of_ids(ids, described.tokens.mask)
        if given.where is None:
            return described
        return described._replace(tokens=described.tokens._replace(where=given.where))


def _device(*tensors: Tensor | None) -> torch.device:
    """The device of the first tensor that is known; embeddings may have no values."""
    return next(each for each in tensors if each is not None).device


def _a_channel(x: Any) -> Tensor:
    """A channel of embeddings, or what this rank holds of them, in memory of its own."""
    values: Tensor = _compat.local_tensor(x.detach()) if is_dtensor(x) else x.detach()
    return values[..., 0].clone() if values.shape[-1] else values


def packed(described: Described | None, x: Tensor) -> Tensor:
    """Mask and segments as one int64 [2, B, L]; -1 stands for none, in the mask for no token.

    Raises:
        RuntimeError: ``x`` is [L, B, d], whose rows cannot be told apart under ``vmap``.
    """
    batch, length, _ = embedding_shape(x)
    result = torch.full((2, batch, length), -1, dtype=torch.int64, device=x.device)
    if described is None:
        return result
    tokens, transposed, _ = described
    if transposed:
        raise RuntimeError(
            "the model looks up [L, B] ids, which is not supported under transformations "
            "(torch.func, make_fx, torch.export); use eager calls or torch.compile"
        )
    result[0] = 1
    for place, array in enumerate(tokens[:2]):
        if array is not None:
            result[place] = array.reshape(batch, length)
    return result


def unpacked(tokens: TokenArrays) -> TokenArrays | None:
    """Token arrays from ``packed`` ones, of several lookups perhaps, or from others."""
    mask, segments = tokens.mask, tokens.segment_ids
    if mask is not None and mask.numel() and bool((mask < 0).all()):
        return None
    if mask is None or segments is None or not bool((segments < 0).any()):
        return tokens
    mask = torch.clamp(mask, min=0)
    if bool((segments < 0).all()):
        return tokens._replace(mask=mask, segment_ids=None)
    # A row without segments is one segment.
    return tokens._replace(mask=mask, segment_ids=torch.where(segments < 0, mask, segments))
