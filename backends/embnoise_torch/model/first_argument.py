"""The first argument of a module's call: what an embedding looks up, or hidden states."""

from __future__ import annotations

from typing import Any

from torch import Tensor, nn

from embnoise_torch.model.find import parameters_of

__all__ = ["FirstArgument", "is_head", "is_ids"]


def is_ids(argument: Any) -> bool:
    """Whether an argument is what an embedding looks up."""
    return isinstance(argument, Tensor) and not argument.is_floating_point()


def is_head(module: nn.Module, argument: Any, channels: int | None) -> bool:
    """Whether an embedding is called with hidden states, as the output head of its model.

    Args:
        module: A layer, perhaps an embedding.
        argument: What it is called with.
        channels: How many channels it has returned for ids; ``None`` if it has seen none.
    """
    if isinstance(module, nn.Embedding):
        channels = module.embedding_dim
    return (
        channels is not None
        and isinstance(argument, Tensor)
        and argument.is_floating_point()
        and argument.shape[-1:] == (channels,)
    )


class FirstArgument:
    """The first argument of a module's forward, wherever a call has it.

    Args:
        module: The module.
    """

    def __init__(self, module: nn.Module) -> None:
        self._name = next(iter(parameters_of(module)), "")

    def of(self, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
        """The argument, from a call's positional arguments or those by name."""
        if args:
            return args[0]
        # A forward that only hands its arguments on names none of them.
        return kwargs.get(self._name, next(iter(kwargs.values()), None))

    def replaced(
        self, value: Any, args: tuple[Any, ...], kwargs: dict[str, Any]
    ) -> tuple[tuple[Any, ...], dict[str, Any]]:
        """The arguments of a call with another value for the first one."""
        if args:
            return (value, *args[1:]), kwargs
        name = self._name if self._name in kwargs else next(iter(kwargs), self._name)
        return args, {**kwargs, name: value}
