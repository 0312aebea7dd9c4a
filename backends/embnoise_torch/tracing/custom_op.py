"""The operator that ``torch.compile`` sees on a CPU: opaque, in place, with tensors as its inputs.

The step, alpha and the counter live behind it, in a *source* that it finds by number. A compiled
graph therefore neither breaks at the noise nor is compiled again because they changed.
"""

from __future__ import annotations

import itertools
from collections.abc import Callable, Sequence
from typing import Any, NamedTuple, Protocol, TypeVar, cast
from weakref import WeakValueDictionary

import torch
from torch import Tensor

from embnoise.backend import Noise, Prepared, TokenArrays
from embnoise_torch import _compat
from embnoise_torch.kernels import add_
from embnoise_torch.ranks.sequences import SequencePart
from embnoise_torch.ranks.shards import add_to_shard_, is_dtensor, part_plan

__all__ = [
    "Ready", "Source", "add_ready_", "apply_", "call_number", "call_opaque", "find", "register",
]  # fmt: skip

T = TypeVar("T")


class Ready(NamedTuple):
    """What a kernel needs to know about embeddings that get noise."""

    prepared: Prepared
    transposed: bool = False
    """Whether the embeddings are [L, B, d]; what is prepared is of [B, L, d] all the same."""
    part: SequencePart | None = None
    """The tokens of the embeddings, if what is prepared is of whole sequences."""


def add_ready_(x: Tensor, noise: Noise, ready: Ready | None, owned: Tensor | None = None) -> None:
    """Add noise to ``x`` in place, unseen by autograd.

    Args:
        x: Embeddings, perhaps a DTensor.
        noise: What noise to add.
        ready: What is known about them; ``None`` if they get none.
        owned: For a DTensor, the tokens that get noise on this rank; ``None`` for all.
    """
    if ready is None:
        return
    if ready.part is not None or is_dtensor(x):
        plan = part_plan(noise, ready.prepared, ready.part, x.device)
        if ready.transposed:
            plan = plan.transpose(0, 1)
        add_to_shard_(x, noise, plan.reshape(*x.shape[:-1], 4), owned)
        return
    if not ready.transposed:
        add_(x, noise, ready.prepared)
        return
    columns = x.detach().transpose(0, 1)
    copy = columns.contiguous()
    add_(copy, noise, ready.prepared)
    columns.copy_(copy)


class Source(Protocol):
    """Something that has noise for a tensor."""

    number: int
    """What ``register`` returned for it."""
    noise: Noise

    def ready(self, x: Tensor, inputs: Tensor | None, /, *arrays: Tensor | None) -> Ready | None:
        """What is known about embeddings that get the next noise; ``None`` if they get none.

        Args:
            x: Embeddings [B, L, d] or [L, d], whose values do not count.
            inputs: What was looked up, where that is known.
            *arrays: What the kind of source says.
        """

    def add_traced_(
        self,
        x: Tensor,
        inputs: Tensor | None,
        step: Tensor | None,
        tokens: TokenArrays,
        rows: Tensor | None,
    ) -> None:
        """The same, for the operator of ``embnoise_torch.tracing.transforms``.

        Args:
            x: Embeddings [B, L, d] or [L, d].
            inputs: What was looked up, where that is known.
            step: The step; ``None`` if the source counts its calls.
            tokens: What the caller knows about the tokens.
            rows: Which sample of the call each row is, int64 [B]: under ``vmap``, several rows
                may be the same one. ``None`` if row i is sample i.
        """


_SOURCES: WeakValueDictionary[int, Source] = WeakValueDictionary()
_numbers = itertools.count()


def register(source: Source) -> int:
    """The number by which the operators find a source, for as long as that is alive."""
    number = next(_numbers)
    _SOURCES[number] = source
    return number


def find(number: int) -> Source | None:
    """The source with this number; ``None`` if it is no longer alive."""
    return _SOURCES.get(number)


_calls = itertools.count()


@_compat.constant_in_dynamo
def call_number() -> int:
    """A number of its own for every call of an operator in a program.

    To the compiler, calls with equal arguments would be one, with one noise.
    """
    return next(_calls)


@torch.library.custom_op("embnoise::apply_", mutates_args={"x"}, tags=(torch.Tag.cudagraph_unsafe,))
def apply_(
    x: Tensor,
    arrays: Sequence[Tensor | None],
    source: int,
    call: int,
    number_tensor: Tensor | None = None,
) -> None:
    """Add the next noise of a source.

    Args:
        x: Embeddings.
        arrays: What ``Source.ready`` takes.
        source: The number of the source, if ``number_tensor`` does not have it.
        call: A ``call_number``.
        number_tensor: The number as a tensor, which a graph takes as an input. An int would be a
            part of the graph: each source would need one of its own, and the compiler gives up
            after eight.
    """
    call_opaque(_apply, x, arrays, source if number_tensor is None else number_tensor)


def _apply(x: Tensor, arrays: Sequence[Tensor | None], number: int | Tensor) -> None:
    source = _SOURCES[int(number)]
    add_ready_(x, source.noise, source.ready(x, None, *arrays))


@apply_.register_fake
def _(x: Tensor, *_: Any) -> None:
    """Tracing sees no output, and nothing but ``x`` changed."""


def call_opaque(function: Callable[..., T], *args: Any) -> T:
    """Call a function that Dynamo must not trace; returns what it does.

    Dynamo would trace it where it skipped the caller: with the backend "eager", or because nothing
    happened in the first call that it traced (a layer in evaluation mode).
    """
    if _compat.dynamo_is_loaded():
        if not _OPAQUE:
            _OPAQUE["call"] = torch.compiler.disable(_call)  # type: ignore[no-untyped-call]
        return cast("T", _OPAQUE["call"](function, *args))
    return function(*args)


def _call(function: Callable[..., Any], *args: Any) -> Any:
    return function(*args)


_OPAQUE: dict[str, Callable[..., Any]] = {}
"""``_call`` as Dynamo sees it; made when first needed, since making it imports the compiler."""
