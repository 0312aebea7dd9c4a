"""The handle of ``attach``: it overrides the forwards of a model, and ends that again."""

from __future__ import annotations

import inspect
import warnings
from collections.abc import Callable, Container, Mapping
from contextlib import AbstractContextManager, ExitStack
from functools import partial
from typing import Any, TypeAlias

import torch
from torch import nn

from embnoise import backend
from embnoise.backend import Counter, Noise, TokenFunctions
from embnoise_torch import _compat
from embnoise_torch.model.batches import TELLING, ModelCall
from embnoise_torch.model.call_stack import Caller, check_labels
from embnoise_torch.model.find import find_callers
from embnoise_torch.model.forward_override import Forward, ForwardOverride
from embnoise_torch.model.listener import Listener
from embnoise_torch.model.model_call import may_have_ids
from embnoise_torch.model.special_ids import SpecialIds, special_ids_of
from embnoise_torch.noisy_layer import NoisyLayer
from embnoise_torch.optimizer import FollowedOptimizer, OptimizerArgument
from embnoise_torch.ranks.sample_ids import SampleIds
from embnoise_torch.ratio import noise_ratio
from embnoise_torch.seen_lookups import SeenLookups
from embnoise_torch.source import AttachedSource
from embnoise_torch.tracing.state import TraceableState

__all__ = ["Handle"]

Wrap: TypeAlias = Callable[[Forward], Forward]

_PUT_BACK = (
    "Something put an earlier forward back after attach(), as accelerate's remove_hook_from_module "
    "does. From the next call on, there is noise again."
)
_CAUSES = (
    "Was the model called with inputs_embeds, was the embedding replaced or put in evaluation mode "
    "after attach(), is it called under torch.no_grad() (freeze it with requires_grad_(False)), is "
    "it inside reentrant gradient checkpointing, or are tokens looked up without a call of it "
    "(torch.nn.functional.embedding)?"
)


class Handle(TraceableState, backend.Handle):
    """Noise that is attached to a model; made by ``attach``.

    Leaving ``with attach(...):`` removes it.

    Attributes:
        noise: What noise is added.
        step: The step of the next training call. With several embeddings, the largest of their
            steps. Assign to it to start another step.
        alpha: The amplitude at the current step.
        lookups: How many lookups got noise so far.
    """

    def __init__(
        self,
        model: nn.Module,
        layers: Mapping[str, nn.Module],
        noise: Noise,
        *,
        named: bool,
        sharing: Container[str],
        optimizer: OptimizerArgument,
        calls_per_step: int | None,
        functions: TokenFunctions,
        sample_ids: SampleIds,
        placeholders: bool,
        at: str,
        outermost: nn.Module,
    ) -> None:
        self.noise = noise
        self._modules = dict(layers)
        self._sample_ids = sample_ids
        self._listener = listener = Listener(self._check_lookups)
        self._seen = SeenLookups()
        self._warned = False
        self._sources: dict[str, AttachedSource] = {}
        self._overrides: list[ForwardOverride] = []
        callers = find_callers(outermost, layers.values(), model if functions else None)
        check_labels(functions.choice, callers, layers)
        calls = any(_is_called(caller.module) for caller in callers)
        with ExitStack() as undo:
            noises = backend.noise_by_layer(noise, layers)
            for number, (name, module) in enumerate(layers.items()):
                special = SpecialIds()
                if not functions.describes:
                    special = special_ids_of(model, module, placeholders=placeholders)
                eager_calls = partial(listener.thread.tokens, number)
                source = AttachedSource(
                    noises[name], sample_ids, calls_per_step, special, eager_calls
                )
                source.seen = self._seen
                source.expects_calls = calls and not functions.describes
                if functions.where_names - {"ids", "labels", *TELLING}:
                    source.untold.looks_at_arguments = 0  # it may be what takes one of these
                if named:  # whoever names an embedding knows what it looks up
                    source.untold.looks_at_others = 0
                self._sources[name] = source
                noisy = NoisyLayer(
                    module, source, number, listener, functions, shares_table=name in sharing
                )
                wrap = noisy.noisy_output if at == "output" else noisy.noisy_input
                self._overrides.append(ForwardOverride(module, wrap, self))
                undo.callback(self._overrides[-1].undo)
            undo.callback(listener.stop)
            listener.start(callers)
            if optimizer is not None:
                followed = FollowedOptimizer(optimizer, self._advance, noise, layers.values())
                undo.callback(followed.stop)
            self._undo = undo.pop_all()

    def _noises(self) -> dict[str, Noise]:
        """The noise of each layer, whose streams differ."""
        return {name: source.noise for name, source in self._sources.items()}

    def remove(self) -> None:
        """Remove the noise and leave the model as it was. Calling it again does nothing."""
        super().remove()
        self._set_pauses(1)  # for a class that something else has derived from ours meanwhile
        self._undo.close()
        self._overrides.clear()
        self._modules.clear()  # the handle's counts may be read for longer than the model lives

    def noise_ratios(self) -> dict[str, float | None]:
        """How large the noise of the last lookup was, by the name of the embedding.

        It is the RMS of the noise over the RMS of the embeddings, both of the tokens that got
        noise. The last lookup is repeated to measure it, so measure now and then, between steps.

        Returns:
            ``None`` for an embedding without a lookup, or without a token with noise in the last
            one, or of which this rank holds only a part (FSDP, ZeRO 3, tensor parallelism).
        """
        return {
            name: noise_ratio(self._sources[name], module) for name, module in self._modules.items()
        }

    def _had_noise(self, name: str) -> bool:
        """Whether a lookup of an embedding got noise in the current step."""
        source = self._sources[name]
        latest = source.latest()
        return latest is not None and latest[1].step == source.counter.step

    def _giving(self, arguments: ModelCall) -> AbstractContextManager[None]:
        """A context with arguments that the user's functions may name."""
        return self._listener.giving(arguments)

    def _begin_batch(self, batch: Any) -> None:
        """A trainer calls a user's function with a batch, which may call parts of the model."""
        self._listener.begin_batch(batch)

    def _end_batch(self) -> None:
        """That function has returned."""
        self._listener.end_batch()

    def __repr__(self) -> str:
        text = super().__repr__()
        return text if self._sample_ids.alone else f"{text[:-1]}, {self._sample_ids})"

    def _counters(self) -> dict[str, Counter]:
        return {name: source.counter for name, source in self._sources.items()}

    def _set_counters(self, counters: Mapping[str, Counter]) -> None:
        self._restore()
        for name, source in self._sources.items():
            if source.counter != counters[name]:  # of a step that goes on, draws are remembered
                source.start(counters[name])

    def _pausable(self) -> list[AttachedSource]:
        return list(self._sources.values())

    def _advance(self) -> int:
        """The optimizer has made a step; returns the one that has ended."""
        self._end_step()
        ended = self.step
        self.step = ended + 1
        return ended

    def _end_step(self) -> None:
        """A training step has ended: warn if it had no lookup. Trainers' callbacks call this."""
        if not self._seen.end_step():
            self._warn_of_no_noise()

    def _check_lookups(self, caller: Caller, arguments: ModelCall) -> None:
        """The outermost call has returned."""
        if not (caller.module.training and torch.is_grad_enabled()):
            return
        # A lookup may also have come before the call, for its inputs_embeds.
        if not self._seen.end_call() and (caller.tells or may_have_ids(arguments)):
            self._warn_of_no_noise()

    def _restore(self) -> bool:
        """Override the forwards again that something else has put back; whether noise was lost."""
        self._listener.listen_again()
        undone = [override for override in self._overrides if override.was_undone()]
        for override in undone:
            override.restore()
        return bool(undone)

    def _warn_of_no_noise(self) -> None:
        was_undone = self._restore()
        if self._warned or self._pauses() or self.alpha == 0 or _compat.pipeline_rehearses():
            return
        self._warned = True
        warnings.warn(
            f"embnoise: a training step ran and {list(self._sources)} got no noise. "
            f"{_PUT_BACK if was_undone else _CAUSES}",
            RuntimeWarning,
            stacklevel=4,
        )


_CONTAINERS = (nn.Module, nn.ModuleDict, nn.ModuleList)


def _is_called(module: nn.Module) -> bool:
    """Whether a module has a forward or a method in its place, and is no container of others."""
    return any(
        inspect.isfunction(value) and not name.startswith("__")
        for kind in type(module).__mro__
        if kind not in _CONTAINERS
        for name, value in vars(kind).items()
    )
