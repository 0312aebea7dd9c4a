"""The active calls of the modules around an embedding, from the outermost to the innermost."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, NamedTuple

from torch import nn

from embnoise_torch.model.model_call import DECODER, CallTokens, ModelCall, tokens_in

__all__ = ["ActiveCall", "Caller", "call_tokens"]


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

    def arguments(self, args: tuple[Any, ...], kwargs: dict[str, Any]) -> ModelCall:
        """The arguments of a call by name."""
        return {**dict(zip(self.names, args, strict=False)), **kwargs} if args else kwargs


class ActiveCall(NamedTuple):
    """A call that has not returned yet."""

    caller: Caller
    arguments: ModelCall


def call_tokens(calls: tuple[ActiveCall, ...], embedding: int) -> list[CallTokens]:
    """What the active calls tell about a lookup, the innermost first.

    Args:
        calls: The active calls, the outermost first.
        embedding: The number of the embedding.
    """
    told: list[CallTokens] = []
    inside = [embedding]
    for caller, arguments in reversed(calls):
        if not caller.has_decoder:
            told.append(tokens_in(arguments, ""))
        elif sides := [caller.sides[each] for each in inside if each in caller.sides]:
            told.append(tokens_in(arguments, sides[0]))
        else:
            # On an unknown side, only ids can tell which arguments are about the lookup.
            both = tokens_in(arguments, ""), tokens_in(arguments, DECODER)
            for tokens, rival in (both, both[::-1]):
                if tokens.ids is not None:
                    told.append(tokens._replace(rival_ids=rival.ids, rival_mask=rival.mask))
        inside.insert(0, caller.number)
    return told
