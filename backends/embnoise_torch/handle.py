"""The handle of ``attach``: it overrides the forwards of a model, and ends that again."""

from __future__ import annotations

import warnings
from collections.abc import Callable, Mapping
from contextlib import ExitStack
from dataclasses import replace
from typing import Any, TypeAlias

import torch
from torch import Tensor, nn
from torch.optim import Optimizer

from embnoise import backend
from embnoise.backend import Counter, Noise, TokenArrays, TokenFunctions
from embnoise_torch import custom_op
from embnoise_torch.find import find_callers, parameters_of
from embnoise_torch.forward_override import Forward, ForwardOverride
from embnoise_torch.model_call import ModelCall, masks_of
from embnoise_torch.sample_ids import SampleIds
from embnoise_torch.source import AttachedSource

__all__ = ["Handle"]

Wrap: TypeAlias = Callable[[Forward], Forward]


class Handle(backend.Handle):
    """Noise that is attached to a model; made by ``attach``.

    Leaving ``with attach(...):`` removes it.

    Attributes:
        noise: What noise is added.
        step: The step that the next training call takes. Setting another one starts that step.
        alpha: The amplitude at the current step.
        lookups: How many lookups got noise so far.
    """

    def __init__(
        self,
        model: nn.Module,
        embeddings: Mapping[str, nn.Module],
        noise: Noise,
        *,
        optimizer: Optimizer | None,
        calls_per_step: int | None,
        functions: TokenFunctions,
        sample_ids: SampleIds,
    ) -> None:
        self.noise = noise
        self._functions = functions
        self._call: ModelCall = {}
        """The innermost active call that takes a mask."""
        self._model_call: ModelCall = {}
        """The call of the model itself, for the functions."""
        self._lookups_by_call = 0
        self._lookups_by_step = 0
        self._warned = False
        self._sources: dict[str, AttachedSource] = {}
        with ExitStack() as undo:
            for name, module in embeddings.items():
                # Two modules that look up at the same position must not get the same noise.
                stream = f"{noise.stream}/{name}" if self._sources else noise.stream
                source = AttachedSource(replace(noise, stream=stream), sample_ids, calls_per_step)
                self._sources[name] = source
                override = ForwardOverride(module, self._wrap_lookup(source, module), self)
                undo.callback(override.undo)
            for module in find_callers(model, embeddings.values()):
                override = ForwardOverride(module, self._wrap_caller(module), None)
                undo.callback(override.undo)
            if functions:
                override = ForwardOverride(model, self._wrap_model(model), None)
                undo.callback(override.undo)
            if optimizer is not None:
                undo.callback(optimizer.register_step_post_hook(self._advance).remove)
            self._undo = undo.pop_all()

    def remove(self) -> None:
        """Remove the noise and leave the model as it was. Calling it again does nothing."""
        self._set_paused(True)  # for a class that something else has derived from ours meanwhile
        self._undo.close()

    def _counters(self) -> dict[str, Counter]:
        return {name: source.counter for name, source in self._sources.items()}

    def _set_counters(self, counters: Mapping[str, Counter]) -> None:
        for name, source in self._sources.items():
            source.start(counters[name])

    def _is_paused(self) -> bool:
        return any(source.paused for source in self._sources.values())

    def _set_paused(self, paused: bool) -> None:
        for source in self._sources.values():
            source.paused = paused

    def _advance(self, *_: object) -> None:
        """The optimizer has made a step."""
        lookups = self.lookups
        if lookups == self._lookups_by_step:
            self._warn_of_no_noise()
        self._lookups_by_step = lookups
        self.step += 1

    def _wrap_lookup(self, source: AttachedSource, module: nn.Module) -> Wrap:
        # A plain lookup has just made its output, and nobody else holds it.
        fresh = type(module).forward is nn.Embedding.forward and "forward" not in vars(module)

        def wrap(forward: Forward) -> Forward:
            def noisy(module: nn.Module, *args: Any, **kwargs: Any) -> Any:
                x = forward(module, *args, **kwargs)
                if not (module.training and torch.is_grad_enabled()):
                    return x
                if not fresh:
                    x = x.clone(memory_format=torch.contiguous_format)
                ids = args[0] if args else None
                arrays = [ids, *self._token_arrays(ids)]
                if torch.compiler.is_compiling():
                    custom_op.apply_(x.detach(), arrays, source.number)
                else:
                    source.apply_(x, *arrays)
                return x

            return noisy

        return wrap

    def _token_arrays(self, ids: Tensor | None) -> list[Tensor | None]:
        """The masks of the model's call, and the fields of ``TokenArrays``."""
        if not self._functions:
            return [*masks_of(self._call), *TokenArrays()]
        call = {**self._model_call, **self._call}
        masks = [None, None, None] if self._functions.describes else masks_of(self._call)
        return [*masks, *self._functions({**call, "call": call, "ids": ids})]

    def _wrap_caller(self, module: nn.Module) -> Wrap:
        names = parameters_of(module)

        def wrap(forward: Forward) -> Forward:
            def listening(module: nn.Module, *args: Any, **kwargs: Any) -> Any:
                before = self._call
                lookups = None if torch.compiler.is_compiling() else self.lookups
                self._call = _by_name(names, args, kwargs)
                try:
                    result = forward(module, *args, **kwargs)
                finally:
                    self._call = before
                if lookups is not None and module.training and torch.is_grad_enabled():
                    # A lookup may also have come before the call, for its inputs_embeds.
                    if self.lookups == lookups == self._lookups_by_call:
                        self._warn_of_no_noise()
                    self._lookups_by_call = self.lookups
                return result

            return listening

        return wrap

    def _wrap_model(self, module: nn.Module) -> Wrap:
        names = parameters_of(module)

        def wrap(forward: Forward) -> Forward:
            def listening(module: nn.Module, *args: Any, **kwargs: Any) -> Any:
                before = self._model_call
                self._model_call = _by_name(names, args, kwargs)
                try:
                    return forward(module, *args, **kwargs)
                finally:
                    self._model_call = before

            return listening

        return wrap

    def _warn_of_no_noise(self) -> None:
        if self._warned or self._is_paused() or self.alpha == 0:
            return
        self._warned = True
        warnings.warn(
            f"embnoise: a training step ran and {list(self._sources)} got no noise. Was the model "
            "called with inputs_embeds, was the embedding replaced or put in evaluation mode after "
            "attach(), or is it inside reentrant gradient checkpointing?",
            RuntimeWarning,
            stacklevel=4,
        )


def _by_name(names: list[str], args: tuple[Any, ...], kwargs: dict[str, Any]) -> ModelCall:
    """The arguments of a call by name."""
    return {**dict(zip(names, args, strict=False)), **kwargs} if args else kwargs
