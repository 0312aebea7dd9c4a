"""The active calls of the modules around an embedding, from the outermost to the innermost."""

from __future__ import annotations

import threading
from collections.abc import Iterable, Mapping
from functools import lru_cache
from typing import Any, NamedTuple, TypeAlias

import torch
from torch import Tensor, nn

from embnoise_torch.model.batches import BESIDE_MASKS, DECODER, TELLING, ModelCall, telling_batch
from embnoise_torch.model.model_call import CallTokens, tells_padding, tokens_in
from embnoise_torch.model.untold_arguments import untold_in

__all__ = [
    "ActiveCall", "Caller", "Calls", "ThreadCalls", "call_tokens", "check_labels", "tell_full_rows",
]  # fmt: skip


class Caller(NamedTuple):
    """A module around an embedding whose forward may know about its tokens."""

    module: nn.Module
    number: int
    """By which the callers outside of it know it."""
    names: list[str]
    """The parameters of its forward."""
    has_decoder: bool
    """Whether its arguments are those of an encoder and of a decoder."""
    sides: Mapping[int, str]
    """The side of every caller and embedding below it, "" or ``DECODER``, by its number.

    One that is on both sides, or on neither, is not in it.
    """
    tells: bool
    """Whether its forward names something that tells about tokens, or takes any name."""
    has_unknown: bool
    """Whether its arguments may be masks or lengths under names that are not known."""
    rest: int | None = None
    """Which of the parameters takes all further positional arguments."""
    checks: bool = True
    """Whether every training call of it should look something up.

    Not one that does more than the modules inside that take tokens, such as images alone.
    """

    def arguments(self, args: tuple[Any, ...], kwargs: dict[str, Any]) -> ModelCall:
        """The arguments of a call by name, and what is in a batch that is one of them."""
        arguments = kwargs
        if args:
            if (rest := self.rest) is not None and len(args) > rest:
                args = (*args[:rest], args[rest:])
            arguments = {**dict(zip(self.names, args, strict=False)), **kwargs}
        if arguments.get("input_ids") is None and (batch := telling_batch(arguments)):
            given = {name: value for name, value in arguments.items() if value is not None}
            return {**arguments, **batch, **given}
        return arguments


ActiveCall: TypeAlias = tuple[Caller, ModelCall]
"""A call that has not returned yet, and its arguments."""


class Calls:
    """The active calls of the modules around the layers, the outermost first."""

    def __init__(self) -> None:
        self.active: tuple[ActiveCall, ...] = ()


class ThreadCalls(threading.local):
    """The same of each thread: several may call one model at a time."""

    def __init__(self) -> None:  # in each thread; Dynamo does not guard on a class's attribute
        self.active: tuple[ActiveCall, ...] = ()

    def tokens(self, embedding: int) -> list[CallTokens]:
        """What they tell about an embedding: see ``call_tokens``."""
        return call_tokens(self.active, embedding)


def check_labels(where: str, callers: Iterable[Caller], layers: Iterable[str]) -> None:
    """Raise if ``where`` needs labels, but those are of a decoder beside an encoder.

    Args:
        where: ``"prompt"``, ``"completion"``, or "" if it needs none.
        callers: The modules around the layers.
        layers: The names of the layers, which are numbered in this order.
    """
    beside = [caller.sides for caller in callers if caller.has_decoder]
    for number, name in enumerate(layers if where else ()):
        if any(number in sides for sides in beside):
            raise ValueError(
                f"where must be 'all' or a function for {name!r} of an encoder-decoder, whose "
                "labels are those of the decoder, one token ahead of what that looks up, got "
                f"{where!r}"
            )


def tell_full_rows(
    calls: tuple[ActiveCall, ...], ids: Tensor, shape: tuple[int, ...], looks: int
) -> bool:
    """Whether calls are about these very ids, and tell that each row is a sequence without padding.

    Then nothing else in them need be read. This is the batch of most calls, and quickly known; of
    any other batch, and of one that is not on the CPU, ``call_tokens`` tells what there is.

    Args:
        calls: The active calls, the outermost first.
        ids: What is looked up.
        shape: B and L.
        looks: How often any argument may still turn out to tell padding, whatever its name is.
    """
    if ids.shape != shape:
        return False
    for caller, arguments in reversed(calls):
        if _tells_nothing(caller, arguments, ids) and not (looks and untold_in(arguments)):
            continue
        if caller.has_decoder or arguments.get("input_ids") is not ids:
            return False
        for name in BESIDE_MASKS.intersection(arguments):
            if arguments[name] is not None:
                return False
        if (mask := arguments.get("attention_mask")) is not None:
            return _is_full(mask, shape) and not (looks and _tell_more(calls, shape))
        if (looks or caller.has_unknown) and untold_in(arguments):
            return False
    return True


def _tells_nothing(caller: Caller, arguments: ModelCall, ids: Tensor) -> bool:
    """Whether a call is about these very ids, under a name of its own, and tells nothing else."""
    return (
        not (caller.tells or caller.has_unknown)
        and TELLING.isdisjoint(arguments)
        and any(each is ids for each in arguments.values())
    )


def _tell_more(calls: tuple[ActiveCall, ...], shape: tuple[int, ...]) -> bool:
    """Whether calls may tell more than that rows have no padding.

    Some call may have ids of another shape, of which a part is looked up, or documents.
    """
    given = (arguments.get("input_ids") for _, arguments in calls)
    return any(isinstance(ids, Tensor) and ids.shape != shape for ids in given) or any(
        untold_in(arguments, has_mask=True) for _, arguments in calls
    )


def _is_full(mask: Any, shape: tuple[int, ...]) -> bool:
    """Whether an argument is a [B, L] mask of ones, in the memory of the CPU."""
    if type(mask) is not Tensor or mask.shape != shape or len(shape) != 2 or not mask.is_cpu:
        return False
    if mask.dtype.is_floating_point or mask.dtype.is_complex:
        return False
    return torch.equal(mask, _ones(mask.shape, mask.dtype))


@lru_cache(maxsize=8)
def _ones(shape: torch.Size, dtype: torch.dtype) -> Tensor:
    return torch.ones(shape, dtype=dtype, device="cpu")


def call_tokens(
    calls: tuple[ActiveCall, ...], embedding: int, *, looks: bool = False
) -> list[CallTokens]:
    """What the active calls tell about a lookup, the innermost first.

    Args:
        calls: The active calls, the outermost first.
        embedding: The number of the embedding.
        looks: Whether a call that has a mask may tell documents under another name.
    """
    told: list[CallTokens] = []
    inside = [embedding]
    for caller, arguments in reversed(calls):
        sides = [caller.sides[each] for each in inside if each in caller.sides]
        if sides or not caller.has_decoder:
            side = sides[0] if caller.has_decoder else ""
            told.append(tokens_in(arguments, side))
            has_mask = tells_padding(told[-1])
            if side != DECODER and (looks or not has_mask):
                told += untold_in(arguments, has_mask=has_mask)
        else:
            # On an unknown side, only ids can tell which arguments are about the lookup.
            both = tokens_in(arguments, ""), tokens_in(arguments, DECODER)
            for tokens, rival in (both, both[::-1]):
                if tokens.ids is not None:
                    told.append(tokens._replace(rival_ids=rival.ids, rival_mask=rival.mask))
        inside.insert(0, caller.number)
    return told
