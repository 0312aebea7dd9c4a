"""A layer of a model that gets noise: on its output, or on its input."""

from __future__ import annotations

from functools import partial
from typing import Any, cast

import torch
from torch import Tensor, nn

from embnoise.backend import TokenArrays, TokenFunctions, embedding_shape, no_hidden_states
from embnoise_torch import _compat
from embnoise_torch.functional import check_tensor
from embnoise_torch.model.call_stack import call_tokens, tell_full_rows
from embnoise_torch.model.first_argument import FirstArgument, is_head, is_ids
from embnoise_torch.model.forward_override import Forward
from embnoise_torch.model.listener import Listener
from embnoise_torch.model.lookup_tokens import ids_of_shape
from embnoise_torch.model.model_call import CallTokens, flat_calls
from embnoise_torch.ranks.place import check_same_samples, ranks_of
from embnoise_torch.ranks.shards import check_uncompiled, is_dtensor, owned_tokens, whole
from embnoise_torch.ranks.surroundings import check_untransformed
from embnoise_torch.source import NOTHING, AttachedSource
from embnoise_torch.tracing import custom_op
from embnoise_torch.tracing.custom_op import Ready, add_ready_
from embnoise_torch.tracing.planned import add_compiled, can_fuse, lookup, lookup_compiled
from embnoise_torch.tracing.traced_lookup import add_lookup
from embnoise_torch.tracing.transforms import add_counted, is_recorded
from embnoise_torch.untold_padding import warn_of_missed_calls

__all__ = ["NoisyLayer"]


class NoisyLayer:
    """A layer that gets noise.

    Args:
        module: The layer.
        source: Its noise.
        number: The number of the layer, by which the modules around it know it.
        listener: Hears their calls.
        functions: What the user gave to tell about tokens.
        shares_table: Whether the layer has the table of another one that is wanted. Called with
            hidden states, it is a head.
    """

    def __init__(
        self,
        module: nn.Module,
        source: AttachedSource,
        number: int,
        listener: Listener,
        functions: TokenFunctions,
        *,
        shares_table: bool,
    ) -> None:
        self._module = module
        self._source = source
        self._number = number
        self._listener = listener
        self._functions = functions
        self._shares_table = shares_table
        self._first = FirstArgument(module)
        self._channels: int | None = None
        """How many channels a layer of a class of its own has returned for ids."""
        self._reads_calls = not functions and source.sample_ids.sequences is None
        """Whether the calls alone tell about tokens, each rank for itself."""

    def noisy_output(self, forward: Forward) -> Forward:
        """The forward with noise on its output, or on the first entry of it."""
        source, first, shares = self._source, self._first, self._shares_table
        # A plain lookup has just made its output, and nobody else holds it.
        plain = type(self._module).forward is nn.Embedding.forward
        fresh = plain and "forward" not in vars(self._module)

        def noisy(module: Any, *args: Any, **kwargs: Any) -> Any:
            if self._is_clean(module):
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
            if ids is not None:
                no_tokens = ids.ndim == 0
            else:
                no_tokens = shares or is_head(module, given, self._channels)
            if no_tokens:
                return forward(module, *args, **kwargs)
            fused = fresh and can_fuse(module, ids, source.noise, compiling=compiling)
            if fused and not compiling:
                return lookup(module, ids, source.noise, partial(self._ready, ids=ids))
            result = forward(module, *args, **kwargs)
            x = result[0] if isinstance(result, tuple) else result
            if fused and compiling and not is_recorded():
                arrays = self._flat_arrays(x, ids)
                x = lookup_compiled(x, module.weight, ids, arrays, source.number)
            else:
                x = self._add(x, ids, compiling, fresh=fresh)
                if ids is not None and not plain:
                    self._channels = int(x.shape[-1])
            return (x, *result[1:]) if isinstance(result, tuple) else x

        return noisy

    def noisy_input(self, forward: Forward) -> Forward:
        """The forward with noise on its input, the first argument."""
        first = self._first

        def noisy(module: Any, *args: Any, **kwargs: Any) -> Any:
            if not self._is_clean(module):
                x = first.of(args, kwargs)
                x = self._add(x, None, torch.compiler.is_compiling(), fresh=False)
                args, kwargs = first.replaced(x, args, kwargs)
            return forward(module, *args, **kwargs)

        return noisy

    def _is_clean(self, module: nn.Module) -> bool:
        """Whether the layer gets no noise, as far as that is known before its lookup."""
        if not (module.training and torch.is_grad_enabled()):
            return True
        if self._source.traced_pauses and torch.compiler.is_compiling():
            self._source.seen.since_step = True  # Dynamo sets this after the graph, in every call
            return True
        return False

    def _add(self, x: Any, ids: Tensor | None, compiling: bool, *, fresh: bool) -> Tensor:
        """Embeddings or hidden states with noise; if they are fresh, in place."""
        if not (isinstance(x, Tensor) and x.is_floating_point()):
            raise no_hidden_states(x)
        check_tensor(x)
        if type(x) is not Tensor:
            if is_dtensor(x):
                return self._add_to_dtensor(x, ids, fresh=fresh)
            if _compat.is_awaited(x):
                x, fresh = x.clone(memory_format=torch.contiguous_format), True
        if is_recorded() if compiling else _compat.is_transformed(x):
            return self._add_recorded(x, ids)
        if compiling:
            arrays = self._flat_arrays(x, ids)
            source = self._source
            numbers = source.number, source.number_tensor
            return add_compiled(x, ids, arrays, source.noise, *numbers, fresh=fresh)
        if not fresh:
            x = x.clone(memory_format=torch.contiguous_format)
        add_ready_(x, self._source.noise, self._ready(x, ids))
        return cast("Tensor", x)

    def _add_to_dtensor(self, x: Any, ids: Tensor | None, *, fresh: bool) -> Tensor:
        """The same for a DTensor, of which this rank adds the noise of its part."""
        ids = whole(ids)
        owned = owned_tokens(x, ids, self._module)
        check_same_samples(self._source.sample_ids.place, ranks_of(x.device_mesh))
        if not fresh:
            x = x.clone(memory_format=torch.contiguous_format)
        add_ready_(x, self._source.noise, self._ready(x, ids), owned)
        return cast("Tensor", x)

    def _ready(self, x: Tensor, ids: Tensor | None) -> Ready | None:
        """What is known about the output of a lookup."""
        source, listener = self._source, self._listener
        if _compat.in_backward():
            return source.ready_lookup(x, ids, NOTHING, [])  # the calls have returned
        calls = listener.thread.active
        if listener.listen_again():
            warn_of_missed_calls()
        elif not calls and source.expects_calls and not source.paused:
            source.untold.warn_without_calls()
        look = source.untold.looks_closely
        if look:
            source.untold.looks_closely -= 1
        if ids is not None and self._reads_calls and tell_full_rows(calls, ids, x.shape[:-1], look):
            full = not source.untold.looks_at_ids or any(
                arguments.get("attention_mask") is not None for _, arguments in calls
            )
            return source.ready_lookup(x, ids, NOTHING, [], are_full=full)
        return source.ready_lookup(x, ids, *self._token_arrays(x, ids, looks=look > 0))

    def _add_recorded(self, x: Tensor, ids: Tensor | None) -> Tensor:
        """``x`` with noise, under a transformation."""
        source = self._source
        check_untransformed(source.sample_ids.place)
        if not torch.compiler.is_compiling():
            if _compat.in_backward():  # a dispatch mode counts operations, or selects some
                return add_counted(x, source, ids, NOTHING)  # the calls have returned
            source.seen.add()
        if source.paused:
            return x
        return add_lookup(x, source, ids, *self._token_arrays(x, ids))

    def _flat_arrays(self, x: Tensor, ids: Tensor | None) -> list[Tensor | None]:
        """The arrays that ``AttachedSource.ready`` takes."""
        given, calls = self._token_arrays(x, ids)
        return [ids, *given, *flat_calls(calls)]

    def _token_arrays(
        self, x: Tensor, ids: Tensor | None, *, looks: bool = True
    ) -> tuple[TokenArrays, list[CallTokens]]:
        """What the user's functions tell about a lookup, and what the active calls do."""
        listener, number = self._listener, self._number
        compiling = torch.compiler.is_compiling()
        calls = listener.traced.active if compiling else listener.thread.active
        told = around = call_tokens(calls, number, looks=looks)
        if is_dtensor(x):
            told = around = [CallTokens(*map(whole, call)) for call in told]
        if not self._functions:
            return NOTHING, told
        if compiling:
            # A part that is compiled by itself, behind a graph break perhaps, has eager calls
            # around it. The functions are traced, so what they take from these must be as well.
            calls = (*listener.thread.active, *calls)
            around = call_tokens(calls, number)
        if ids is None:
            ids = ids_of_shape(embedding_shape(x)[:2], around)
        call = listener.given
        for _, arguments in calls:
            call = {**call, **arguments}
        known = {} if ids is None else {"ids": ids}
        given = self._functions({**call, "call": call, **known})
        return given, [] if self._functions.describes else told
