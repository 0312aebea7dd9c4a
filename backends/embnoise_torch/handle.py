"""The handle of ``attach``: it overrides the forwards of a model, and ends that again."""

from __future__ import annotations

import warnings
from collections.abc import Callable, Container, Iterator, Mapping
from contextlib import ExitStack, contextmanager
from functools import partial
from typing import Any, TypeAlias, cast

import torch
from torch import Tensor, nn

from embnoise import backend
from embnoise.backend import (
    Counter,
    Noise,
    TokenArrays,
    TokenFunctions,
    embedding_shape,
    no_hidden_states,
)
from embnoise_torch import _compat
from embnoise_torch.functional import check_tensor
from embnoise_torch.model.call_stack import (
    Caller,
    Calls,
    ThreadCalls,
    call_tokens,
    check_labels,
    tell_full_rows,
)
from embnoise_torch.model.find import find_callers
from embnoise_torch.model.first_argument import FirstArgument, is_head, is_ids
from embnoise_torch.model.forward_override import Forward, ForwardOverride
from embnoise_torch.model.lookup_tokens import ids_of_shape
from embnoise_torch.model.model_call import CallTokens, ModelCall, flat_calls
from embnoise_torch.model.special_ids import SpecialIds, special_ids_of
from embnoise_torch.optimizer import FollowedOptimizer, OptimizerArgument
from embnoise_torch.ranks.place import check_same_samples, ranks_of
from embnoise_torch.ranks.sample_ids import SampleIds
from embnoise_torch.ranks.shards import check_uncompiled, is_dtensor, owned_tokens, whole
from embnoise_torch.ranks.surroundings import check_untransformed
from embnoise_torch.ratio import noise_ratio
from embnoise_torch.seen_lookups import SeenLookups
from embnoise_torch.source import AttachedSource
from embnoise_torch.tracing import custom_op
from embnoise_torch.tracing.custom_op import Ready, add_ready_
from embnoise_torch.tracing.planned import add_compiled, can_fuse, lookup, lookup_compiled
from embnoise_torch.tracing.state import TraceableState
from embnoise_torch.tracing.traced_lookup import add_lookup
from embnoise_torch.tracing.transforms import add_counted, is_recorded
from embnoise_torch.untold_padding import warn_of_missed_calls

__all__ = ["Handle"]

Wrap: TypeAlias = Callable[[Forward], Forward]


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
        self._functions = functions
        self._reads_calls = not functions and sample_ids.sequences is None
        """Whether the calls alone tell about tokens, each rank for itself."""
        self._thread_calls = ThreadCalls()
        self._traced_calls = Calls()
        """The compiler traces in one thread, and knows nothing of what is a thread's own."""
        self._given: ModelCall = {}
        """What the user's functions may name beside the arguments of these calls."""
        self._modules = dict(layers)
        self._sharing = sharing
        """The layers that share a table with a wanted one. Called with states, they are heads."""
        self._sample_ids = sample_ids
        self._listeners: list[ForwardOverride] = []
        self._seen = SeenLookups()
        self._warned = False
        self._sources: dict[str, AttachedSource] = {}
        callers = find_callers(outermost, layers.values(), model if functions else None)
        check_labels(functions.choice, callers, layers)
        with ExitStack() as undo:
            noises = backend.noise_by_layer(noise, layers)
            for number, (name, module) in enumerate(layers.items()):
                special = SpecialIds()
                if not functions.describes:
                    special = special_ids_of(model, module, placeholders=placeholders)
                eager_calls = partial(self._thread_calls.tokens, number)
                source = AttachedSource(
                    noises[name], sample_ids, calls_per_step, special, eager_calls
                )
                source.seen = self._seen
                self._sources[name] = source
                wrap_layer = self._wrap_output if at == "output" else self._wrap_input
                wrap = wrap_layer(source, module, number)
                undo.callback(ForwardOverride(module, wrap, self).undo)
            for caller in callers:
                listener = ForwardOverride(caller.module, self._wrap_caller(caller), None)
                undo.callback(listener.undo)
                self._listeners.append(listener)
            tells = any(caller.tells or caller.has_unknown for caller in callers)
            for source in self._sources.values():
                source.expects_calls = tells and not functions.describes
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
        self._modules.clear()
        self._listeners.clear()  # the handle's counts may be read for longer than the model lives

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

    @contextmanager
    def _giving(self, arguments: ModelCall) -> Iterator[None]:
        """A context with arguments that the user's functions may name."""
        before, self._given = self._given, arguments
        try:
            yield
        finally:
            self._given = before

    def __repr__(self) -> str:
        text = super().__repr__()
        return text if self._sample_ids.alone else f"{text[:-1]}, {self._sample_ids})"

    def _counters(self) -> dict[str, Counter]:
        return {name: source.counter for name, source in self._sources.items()}

    def _set_counters(self, counters: Mapping[str, Counter]) -> None:
        self._listen_again()
        for name, source in self._sources.items():
            if source.counter != counters[name]:  # of a step that goes on, draws are remembered
                source.start(counters[name])

    def _pausable(self) -> list[AttachedSource]:
        return list(self._sources.values())

    def _advance(self) -> int:
        """The optimizer has made a step; returns the one that has ended."""
        self._listen_again()
        self._end_step()
        ended = self.step
        self.step = ended + 1
        return ended

    def _end_step(self) -> None:
        """A training step has ended: warn if it had no lookup. Trainers' callbacks call this."""
        if not self._seen.end_step():
            self._warn_of_no_noise()

    def _wrap_output(self, source: AttachedSource, module: nn.Module, number: int) -> Wrap:
        # A plain lookup has just made its output, and nobody else holds it.
        fresh = type(module).forward is nn.Embedding.forward and "forward" not in vars(module)
        first = FirstArgument(module)
        shares = list(self._modules)[number] in self._sharing

        def wrap(forward: Forward) -> Forward:
            def noisy(module: Any, *args: Any, **kwargs: Any) -> Any:
                if self._is_clean(source, module):
                    return forward(module, *args, **kwargs)
                compiling = torch.compiler.is_compiling()
                if compiling and is_dtensor(getattr(module, "weight", None)):
                    # The compiler must leave this to eager code, and cannot for every table.
                    if fresh:
                        custom_op.call_opaque(check_uncompiled, module.weight)
                    return custom_op.call_opaque(partial(noisy, module, **kwargs), *args)
                # Of a layer inside the model, the argument is hidden states.
                given = first.of(args, kwargs)
                ids: Any = given if is_ids(given) else None
                # A single id is no sequence: a model compares with its embedding.
                no_tokens = ids.ndim == 0 if ids is not None else shares or is_head(module, given)
                if no_tokens:
                    return forward(module, *args, **kwargs)
                fused = fresh and can_fuse(module, ids, source.noise, compiling=compiling)
                if fused and not compiling:
                    ready = partial(self._ready, source, ids=ids, number=number)
                    return lookup(module, ids, source.noise, ready)
                result = forward(module, *args, **kwargs)
                x = result[0] if isinstance(result, tuple) else result
                if fused and compiling and not is_recorded():
                    arrays = self._flat_arrays(x, ids, number)
                    x = lookup_compiled(x, module.weight, ids, arrays, source.number)
                else:
                    x = self._add(source, x, ids, number, compiling, fresh=fresh)
                return (x, *result[1:]) if isinstance(result, tuple) else x

            return noisy

        return wrap

    def _wrap_input(self, source: AttachedSource, module: nn.Module, number: int) -> Wrap:
        first = FirstArgument(module)

        def wrap(forward: Forward) -> Forward:
            def noisy(module: Any, *args: Any, **kwargs: Any) -> Any:
                if not self._is_clean(source, module):
                    compiling = torch.compiler.is_compiling()
                    x = first.of(args, kwargs)
                    x = self._add(source, x, None, number, compiling, fresh=False)
                    args, kwargs = first.replaced(x, args, kwargs)
                return forward(module, *args, **kwargs)

            return noisy

        return wrap

    def _is_clean(self, source: AttachedSource, module: nn.Module) -> bool:
        """Whether a layer gets no noise, as far as that is known before its lookup."""
        if not (module.training and torch.is_grad_enabled()):
            return True
        if source.traced_pauses and torch.compiler.is_compiling():
            self._seen.since_step = True  # Dynamo sets this after the graph, in every call
            return True
        return False

    def _add(
        self,
        source: AttachedSource,
        x: Any,
        ids: Tensor | None,
        number: int,
        compiling: bool,
        *,
        fresh: bool,
    ) -> Tensor:
        """Embeddings or hidden states with noise; if they are fresh, in place."""
        if not isinstance(x, Tensor) or is_ids(x):
            raise no_hidden_states(x)
        check_tensor(x)
        if is_dtensor(x):
            return self._add_to_dtensor(source, x, ids, number, fresh=fresh)
        if _compat.is_awaited(x):
            x, fresh = x.clone(memory_format=torch.contiguous_format), True
        if is_recorded() if compiling else _compat.is_transformed(x):
            return self._add_recorded(source, x, ids, number)
        if compiling:
            arrays = self._flat_arrays(x, ids, number)
            numbers = source.number, source.number_tensor
            return add_compiled(x, ids, arrays, source.noise, *numbers, fresh=fresh)
        if not fresh:
            x = x.clone(memory_format=torch.contiguous_format)
        add_ready_(x, source.noise, self._ready(source, x, ids, number))
        return cast("Tensor", x)

    def _add_to_dtensor(
        self, source: AttachedSource, x: Any, ids: Tensor | None, number: int, *, fresh: bool
    ) -> Tensor:
        """The same for a DTensor, of which this rank adds the noise of its part."""
        ids = whole(ids)
        owned = owned_tokens(x, ids, list(self._modules.values())[number])
        check_same_samples(source.sample_ids.place, ranks_of(x.device_mesh))
        if not fresh:
            x = x.clone(memory_format=torch.contiguous_format)
        add_ready_(x, source.noise, self._ready(source, x, ids, number), owned)
        return cast("Tensor", x)

    def _ready(
        self, source: AttachedSource, x: Tensor, ids: Tensor | None, number: int
    ) -> Ready | None:
        """What is known about the output of a lookup."""
        if _compat.in_backward():
            return source.ready_lookup(x, ids, TokenArrays(), [])  # the calls have returned
        calls = self._thread_calls.active
        if self._listen_again():
            warn_of_missed_calls()
        elif not calls and source.expects_calls and not source.paused:
            source.untold.warn_without_calls()
        look = source.untold.looks_closely
        if ids is not None and self._reads_calls and tell_full_rows(calls, ids, x.shape[:-1], look):
            if look:
                source.untold.looks_closely -= 1
            if source.untold.looks_at_ids and not any(
                arguments.get("attention_mask") is not None for _, arguments in calls
            ):
                source.untold.warn_of_ids(ids)
            return source.ready_lookup(x, ids, TokenArrays(), [])
        return source.ready_lookup(x, ids, *self._token_arrays(x, ids, number))

    def _add_recorded(
        self, source: AttachedSource, x: Tensor, ids: Tensor | None, number: int
    ) -> Tensor:
        """``x`` with noise, under a transformation."""
        check_untransformed(source.sample_ids.place)
        if not torch.compiler.is_compiling():
            if _compat.in_backward():  # a dispatch mode counts operations, or selects some
                return add_counted(x, source, ids, TokenArrays())  # the calls have returned
            self._seen.add()
        if source.paused:
            return x
        return add_lookup(x, source, ids, *self._token_arrays(x, ids, number))

    def _flat_arrays(self, x: Tensor, ids: Tensor | None, number: int) -> list[Tensor | None]:
        """The arrays that ``AttachedSource.ready`` takes."""
        given, calls = self._token_arrays(x, ids, number)
        return [ids, *given, *flat_calls(calls)]

    def _token_arrays(
        self, x: Tensor, ids: Tensor | None, number: int
    ) -> tuple[TokenArrays, list[CallTokens]]:
        """What the user's functions tell about a lookup, and what the active calls do."""
        compiling = torch.compiler.is_compiling()
        calls = self._traced_calls.active if compiling else self._thread_calls.active
        told = around = call_tokens(calls, number)
        if is_dtensor(x):
            told = around = [CallTokens(*map(whole, call)) for call in told]
        if not self._functions:
            return TokenArrays(), told
        if compiling:
            # A part that is compiled by itself, behind a graph break perhaps, has eager calls
            # around it. The functions are traced, so what they take from these must be as well.
            calls = (*self._thread_calls.active, *calls)
            around = call_tokens(calls, number)
        if ids is None:
            ids = ids_of_shape(embedding_shape(x)[:2], around)
        call = self._given
        for _, arguments in calls:
            call = {**call, **arguments}
        known = {} if ids is None else {"ids": ids}
        given = self._functions({**call, "call": call, **known})
        return given, [] if self._functions.describes else told

    def _wrap_caller(self, caller: Caller) -> Wrap:
        def wrap(forward: Forward) -> Forward:
            def listening(module: nn.Module, *args: Any, **kwargs: Any) -> Any:
                compiling = torch.compiler.is_compiling()
                calls: Any = self._traced_calls if compiling else self._thread_calls
                before = calls.active
                outermost = len(before) == 0 and not (compiling or _compat.in_backward())
                arguments = caller.arguments(args, kwargs)
                calls.active = (*before, (caller, arguments))
                try:
                    result = forward(module, *args, **kwargs)
                finally:
                    calls.active = before
                if outermost:
                    self._check_lookups(module)
                return result

            return listening

        return wrap

    def _check_lookups(self, module: nn.Module) -> None:
        """The outermost call has returned."""
        # A lookup may also have come before the call, for its inputs_embeds.
        if module.training and torch.is_grad_enabled() and not self._seen.end_call():
            self._warn_of_no_noise()

    def _listen_again(self) -> bool:
        """Override the forwards that something else has replaced; returns whether there are any.

        accelerate's ``unwrap_model(keep_fp32_wrapper=False)`` does so in the middle of a run.
        """
        replaced = False
        for listener in self._listeners:
            replaced |= listener.restore()
        return replaced

    def _warn_of_no_noise(self) -> None:
        if self._warned or self._pauses() or self.alpha == 0 or _compat.pipeline_rehearses():
            return
        self._warned = True
        warnings.warn(
            f"embnoise: a training step ran and {list(self._sources)} got no noise. Was the model "
            "called with inputs_embeds, was the embedding replaced or put in evaluation mode after "
            "attach(), is it called under torch.no_grad() (freeze it with requires_grad_(False)), "
            "is it inside reentrant gradient checkpointing, or are tokens looked up without a call "
            "of it (torch.nn.functional.embedding)?",
            RuntimeWarning,
            stacklevel=4,
        )
