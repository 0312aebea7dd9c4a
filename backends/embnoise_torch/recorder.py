"""Records what the embeddings of a model look up, and what the model does with it afterwards."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterator, Mapping
from contextlib import ExitStack, contextmanager
from typing import Any

import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from embnoise.backend import LATER_CALLS, Lookup, Seen, multiplier_between
from embnoise_torch.handle import Handle
from embnoise_torch.model.first_argument import FirstArgument
from embnoise_torch.ratio import is_part

__all__ = ["Recorder"]


class Recorder:
    """Calls a model and records the lookups of the embeddings that have noise.

    Args:
        model: The model.
        handle: The noise.

    Raises:
        ValueError: One of the embeddings has no table, or only a part of it.
    """

    def __init__(self, model: nn.Module, handle: Handle) -> None:
        self._model, self._handle = model, handle
        self._embeddings = dict(handle._modules)
        self._tables = {name: _table(name, each) for name, each in self._embeddings.items()}
        self._lookups: dict[str, list[Lookup]] = {name: [] for name in self._embeddings}
        self._outer: dict[str, float | None] | None = None

    def record(self, batch: Any) -> None:
        """Call the model with a batch: a dict of arguments by name, or its only argument."""
        with self._evaluating(), torch.compiler.set_stance("force_eager"):
            with torch.enable_grad(), self._noting_lookups(), self._noting_inputs() as noisy:
                self._call(batch)
            if self._outer is None:  # one call tells
                with torch.no_grad(), self._noting_inputs() as clean:
                    self._call(batch)
                self._outer = {name: _multiplier(noisy[name], clean[name]) for name in noisy}

    def seen(self) -> list[Seen]:
        """One entry for each table."""
        names_of: dict[int, list[str]] = defaultdict(list)
        for name, table in self._tables.items():
            names_of[id(table)].append(name)
        return [self._seen(names) for names in names_of.values()]

    def _seen(self, names: list[str]) -> Seen:
        together = ", ".join(names)
        lookups = [lookup for name in names for lookup in self._lookups[name]]
        outer = [(self._outer or {}).get(name) for name in names]
        known = [factor for factor in outer if factor is not None]
        return Seen(
            together, _array(self._tables[names[0]]), None if self._outer is None else lookups,
            outer_multiplier=known[0] if known else None,
        )  # fmt: skip

    def _call(self, batch: Any) -> None:
        if isinstance(batch, Mapping):
            self._model(**batch)
        else:
            self._model(batch)

    @contextmanager
    def _evaluating(self) -> Iterator[None]:
        """The model in evaluation mode, except for the embeddings, which are to add noise."""
        modes = {each: each.training for each in self._model.modules()}
        self._model.eval()
        for embedding in self._embeddings.values():
            embedding.training = True
        try:
            yield
        finally:
            for each, training in modes.items():
                each.training = training

    @contextmanager
    def _noting_lookups(self) -> Iterator[None]:
        with ExitStack() as stack:
            for name, module in self._embeddings.items():
                hook = module.register_forward_hook(self._note(name, module), with_kwargs=True)
                stack.callback(hook.remove)
            yield

    def _note(self, name: str, embedding: nn.Module) -> Any:
        source, first = self._handle._sources[name], FirstArgument(embedding)
        before = source.counter.lookups

        def note(module: nn.Module, args: Any, kwargs: Any, output: Any) -> None:
            nonlocal before
            latest = source.latest()
            if source.counter.lookups == before or latest is None:
                return  # padding that the model looks up by itself
            before = source.counter.lookups
            with torch.no_grad():  # where no noise is added
                clean = module.forward(*args, **kwargs)
            # The model may go on to change the output in place.
            tensors = (first.of(args, kwargs), _first(clean), _first(output).clone())
            arrays = [_array(each) for each in tensors]
            draw = latest[1]
            if draw.transposed:
                arrays = [each.swapaxes(0, 1) for each in arrays]
            if arrays[0].ndim == 1:
                arrays = [each[None] for each in arrays]
            ids, clean, noisy = arrays
            self._lookups[name].append(Lookup(ids, clean, noisy, draw.tokens.map(_array)))

        return note

    @contextmanager
    def _noting_inputs(self) -> Iterator[dict[str, list[Tensor]]]:
        """What the first lookup of every embedding returns, and what later modules are given.

        Yields:
            By the name of the embedding, its output and then tensors of the same shape.
        """
        noted: dict[str, list[Tensor]] = {}

        def note_output(name: str) -> Any:
            def note(module: nn.Module, args: Any, output: Any) -> None:
                noted.setdefault(name, [_first(output).detach().clone()])

            return note

        def note_input(module: nn.Module, args: Any, kwargs: Any) -> None:
            for found in noted.values():
                for given in (*args, *kwargs.values()):
                    if _is_like(given, found[0]) and len(found) <= LATER_CALLS:
                        found.append(given.detach().clone())
                        break

        with ExitStack() as stack:
            for name, module in self._embeddings.items():
                stack.callback(module.register_forward_hook(note_output(name)).remove)
            for module in self._model.modules():
                hook = module.register_forward_pre_hook(note_input, with_kwargs=True)
                stack.callback(hook.remove)
            yield noted


def _multiplier(noisy: list[Tensor], clean: list[Tensor]) -> float | None:
    return multiplier_between([*map(_array, noisy)], [*map(_array, clean)])


def _is_like(given: Any, embeddings: Tensor) -> bool:
    return (
        isinstance(given, Tensor) and given.shape == embeddings.shape and given.is_floating_point()
    )


def _table(name: str, embedding: Any) -> Tensor:
    table = getattr(embedding, "weight", None)
    if not isinstance(table, Tensor) or table.ndim != 2 or isinstance(embedding, nn.Linear):
        raise ValueError(
            f"layer must have an embedding table, and {name!r}, a {type(embedding).__name__}, has "
            "none"
        )
    if is_part(table):
        raise ValueError(
            f"model must not be sharded, and {name!r} is: inspect it before it is wrapped"
        )
    if not table.is_floating_point():
        raise ValueError(
            f"layer must have a floating-point table, and that of {name!r} is {table.dtype}; "
            "inspect the model before it is quantized"
        )
    return table


def _first(output: Any) -> Tensor:
    tensor: Tensor = output[0] if isinstance(output, tuple) else output
    return tensor


def _array(tensor: Tensor) -> NDArray[Any]:
    """A tensor as an array, float32 if it is floating-point."""
    values = tensor.detach().cpu()
    array: NDArray[Any] = (values.float() if values.is_floating_point() else values).numpy()
    return array
