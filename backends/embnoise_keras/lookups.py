"""The lookups of an embedding, or the calls of another layer, and what is known of their tokens.

B batch, L tokens in a row.
"""

from __future__ import annotations

import warnings
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from functools import partial
from inspect import signature
from typing import Any

import keras
from keras import ops

from embnoise.backend import Noise, TokenArrays, TokenFunctions, naming, no_hidden_states
from embnoise_keras._compat import keras_mask, outlives, with_keras_mask
from embnoise_keras._compat_graph import GraphCall, graph_calls
from embnoise_keras.calls import around_calls
from embnoise_keras.comparisons import Comparisons
from embnoise_keras.functional import refuse_ragged
from embnoise_keras.inputs import Names, Place, shape_of
from embnoise_keras.masks import (
    as_reordered,
    find_mask,
    likelier_ids,
)
from embnoise_keras.model_call import ModelCall, running_calls
from embnoise_keras.untold import Untold

__all__ = ["Lookups", "around_lookups", "knows_padding"]


@contextmanager
def around_lookups(layer: Any, noised: Callable[[Any, Any, int], Any], at: str) -> Iterator[None]:
    """Have ``noised(given, x, number)`` in place of the output, or the input, ``x`` of a layer.

    ``given`` is the first argument of the call, and ``number`` counts the calls of the layer in the
    innermost recorded call. The reverse call of an embedding, the output projection, stays as it
    is.
    """
    first = next(iter(signature(layer.call).parameters))

    def wrap(call: Any) -> Any:
        named = naming(call)

        def noisy(*args: Any, **kwargs: Any) -> Any:
            given = args[0] if args else kwargs.get(first)
            outer = running_calls()[:1]
            number = outer[0].enter(layer) if outer else 0
            if at == "input":
                x = with_keras_mask(noised(given, given, number), given)
                if args:
                    return call(x, *args[1:], **kwargs)
                return call(**{**kwargs, first: x})
            result = call(*args, **kwargs)
            if named(*args, **kwargs).get("reverse"):
                return result
            if isinstance(result, tuple):
                return (noised(given, result[0], number), *result[1:])
            return noised(given, result, number)

        return noisy

    with around_calls(layer, wrap):
        yield


def is_hidden(x: Any) -> bool:
    """Whether an argument is hidden states [B, L, d], and not ids that an embedding looks up.

    Ids may be floating-point: a sequential model casts its inputs.
    """
    return (
        hasattr(x, "dtype")
        and len(x.shape) > 2
        and keras.backend.is_float_dtype(keras.backend.standardize_dtype(x.dtype))
    )


def knows_padding(layer: Any) -> bool:
    """Whether an embedding knows the padding of all ids that it looks up."""
    return isinstance(layer, keras.layers.Embedding) and bool(layer.mask_zero)


class Lookups:
    """What is known of the tokens that an embedding looks up, or that another layer sees.

    Args:
        layer: The layer.
        functions: The user's functions that describe the tokens.
        comparisons: What the graphs of the layers around it compare their inputs with, by the
            identity of those layers.
        noise: The noise of the layer.
    """

    def __init__(
        self,
        layer: Any,
        functions: TokenFunctions,
        comparisons: Mapping[int, Comparisons],
        noise: Noise,
    ) -> None:
        self._layer = layer
        self._functions = functions
        self._comparisons = comparisons
        self._untold = Untold(layer, noise, functions, comparisons)
        self._transposed: bool | None = None  # what the last lookup that told was
        self._has_padding_mask = False  # whether a batch told that attention_mask is [B, L]

    def noised(
        self,
        ids: Any,
        calls: list[ModelCall],
        number: int,
        x: Any,
        add: Callable[[Any, TokenArrays], Any],
    ) -> Any:
        """The embeddings ``x`` of ``ids`` with noise, which ``add`` adds to rows [B, L].

        Args:
            ids: What was looked up, [B, L], or [L, B] in a model that computes that way; or the
                hidden states [B, L, d] that the layer was called with.
            calls: The running calls around the lookup, the innermost first.
            number: How many calls of the layer came before in the innermost.
            x: The embeddings, [B, L, d] or [L, B, d], or hidden states [B, L, d].
            add: Adds noise, given the token arrays.

        Raises:
            TypeError: ``x`` is something else, or the ids are ragged.
            ValueError: The ids are [B], or one token of each row, or a mask is not that of the
                tokens.
        """
        refuse_ragged(ids, f"what {self._layer.name!r} is called with")
        if len(getattr(ids, "shape", ())) == 1:
            raise ValueError(
                f"{self._layer.name!r} looked up ids [B], and noise needs rows of tokens [B, L]: "
                "pass ids[:, None] if each is a row of its own, with neftune(length=L) if it "
                "is a token of one of L, ids[None] if together they are one"
            )
        if not is_hidden(x):
            raise no_hidden_states(x)
        graph = self._graph_calls(calls, number)
        describes = self._functions.describes
        mask = None if describes else self._mask_among_inputs(ids, calls, graph)
        if mask is not None:
            self._check_shape(mask, tuple(ids.shape)[:2], calls, graph)
        arrays = self._arrays(ids, calls, graph)
        for call in calls[-1:]:
            if not describes:
                self._untold.check_rows(ids, calls, _places(ids, call, graph[-1]))
                told = arrays.mask if mask is None else mask
                if told is None:
                    call.at_end.append(partial(self._untold.warn_of_unknown, ids, calls, graph))
                call.at_end.append(partial(self._untold.warn_of_documents, ids, told, calls))
            call.looked_up.append(ids)
        if any(outlives(array, ids) for array in (mask, *arrays)):
            raise ValueError(
                f"{self._layer.name!r} is looked up in a tf.function inside the model's call, "
                "which would keep the mask of its first call; pass tokens=, such as tokens=lambda "
                "ids: {'mask': ids != 0}"
            )
        if not self._is_transposed(ids, calls, graph, mask):
            if mask is not None and not is_hidden(ids):
                computed = not _is_given(ids, calls, graph)
                told = self._mask_of_computed(ids, mask) if computed else mask
                self._untold.look_at_values(ids, told, calls, computed=computed)
                mask = told
            return add(x, arrays if mask is None else arrays._replace(mask=mask))
        shape = tuple(ids.shape)

        def to_rows(array: Any) -> Any:
            return ops.swapaxes(array, 0, 1) if tuple(array.shape) == shape else array

        arrays = arrays.map(to_rows)
        arrays = arrays if mask is None else arrays._replace(mask=mask)
        return ops.swapaxes(add(ops.swapaxes(x, 0, 1), arrays), 0, 1)

    def _mask_among_inputs(
        self, ids: Any, calls: list[ModelCall], graph: list[GraphCall | None]
    ) -> Any:
        """The mask of the ids among the inputs of the running calls; the innermost counts.

        One that more likely belongs to other ids counts only where the embedding knows of none.
        """
        for call, known in zip(calls, graph, strict=True):
            places = _places(ids, call, known)
            mask = find_mask(call.inputs, places)
            if mask is None:
                continue
            likelier = likelier_ids(call.inputs, mask, places)
            if likelier is not None:
                if self._mask_of_keras(ids) is not None:
                    return None
                self._untold.warn_of_likelier(likelier, mask)
            return _checked(mask)
        return None

    def _check_shape(
        self,
        mask: Any,
        shape: tuple[Any, ...],
        calls: list[ModelCall],
        graph: list[GraphCall | None],
    ) -> None:
        """Raise if a mask is not [B, L], and warn if it may be one of L tokens by L others."""
        given = tuple(mask.shape)
        # Where B is unknown in the mask, it is unknown in ids [L, B] as well.
        turns = given[:1] != (None,) or shape[1] is None
        if len(given) == 2 and not (
            _may_be(given, shape) or (turns and _may_be(given, shape[::-1]))
        ):
            raise ValueError(
                f"found a mask of shape {given} among the model's inputs, which is not that of the "
                f"{shape} tokens that {self._layer.name!r} looked up; pass tokens=, such as "
                "tokens=lambda ids: {'mask': ids != 0}"
            )
        # The inputs of a functional model have a batch axis.
        inputs = [call.inputs for call, known in zip(calls, graph, strict=True) if known is None]
        places = [place for each in inputs for place in each.places_of(mask)]
        if not any(str(place[-1]).endswith("attention_mask") for place in places):
            return
        if len(set(given)) == 2:
            self._has_padding_mask = True
        elif not self._has_padding_mask and given[0] not in (1, None):
            warnings.warn(
                f"embnoise: an attention_mask of shape {given} is taken as [B, L], one that tells "
                f"the padding of what {self._layer.name!r} looked up, since nothing tells whether "
                "it is [L, L], one that tells which tokens attend to which. Pass tokens= to attach "
                "if it is",
                RuntimeWarning,
                stacklevel=2,
            )

    def _mask_of_computed(self, ids: Any, mask: Any) -> Any:
        """The mask of ids that the model computed, perhaps in another order than its inputs."""
        own = None if is_hidden(ids) else self._mask_of_keras(ids)
        return mask if own is None else as_reordered(mask, own)

    def _graph_calls(self, calls: list[ModelCall], number: int) -> list[GraphCall | None]:
        """For each running call, what its graph says of the call in it that is running."""
        found: list[GraphCall | None] = []
        layer = self._layer
        for call in calls:
            known = graph_calls(call.layer, layer)
            # With an optional input that is absent, Keras skips a part of the graph.
            complete = number < len(known) and all(
                name in call.inputs.sources for each in known for name in each.sources
            )
            found.append(known[number] if complete else None)
            layer, number = call.layer, call.number
        return found

    def _arrays(
        self, ids: Any, calls: list[ModelCall], graph: list[GraphCall | None]
    ) -> TokenArrays:
        """What the user's functions say, or what the ids themselves do."""
        available: dict[str, Any] = {}
        several: set[str] = set()
        for call, known in zip(calls, graph, strict=True):
            structures = {place[:-1] for place in _places(ids, call, known)}
            named, unclear = call.inputs.names(*structures if len(structures) == 1 else ())
            available |= named
            several |= unclear
        if not is_hidden(ids):
            available["ids"] = ids
        arrays = self._functions(Names(available, several - available.keys()))
        if self._functions.describes:
            return arrays
        mask = self._mask_of_keras(ids)
        if mask is None:
            mask = self._mask_in_graph(ids, calls, graph)
        return arrays._replace(mask=mask)

    def _mask_in_graph(
        self, ids: Any, calls: list[ModelCall], graph: list[GraphCall | None]
    ) -> Any:
        """The mask of a functional model that compares the ids with the id of padding."""
        given = ids
        for call, known in zip(calls, graph, strict=True):
            if known is not None:
                of_inputs = known.direct or (is_hidden(ids) and len(known.sources) == 1)
                padding = self._comparisons[id(call.layer)].padding(known, of_inputs=of_inputs)
                if padding is not None:
                    source = padding.source
                    tokens = given if source is None else call.inputs.of_graph(source)
                    if _may_be(shape_of(tokens), shape_of(ids)[:2]):
                        return ops.not_equal(tokens, padding.token)
            given = next(iter(call.inputs.arguments.values()), None)
        return None

    def _mask_of_keras(self, ids: Any) -> Any:
        """The mask that Keras passes on with ids, or that the embedding computes from them."""
        mask = keras_mask(ids)
        if is_hidden(ids):
            return mask
        if not getattr(self._layer, "mask_zero", False):
            computed = self._layer.compute_mask(ids, mask)
            return mask if computed is None else computed
        # That of a ReversibleEmbedding computes none.
        return keras.layers.Embedding.compute_mask(self._layer, ids) if mask is None else mask

    def _is_transposed(
        self, ids: Any, calls: list[ModelCall], graph: list[GraphCall | None], mask: Any
    ) -> bool:
        """Whether the ids are [L, B] where the inputs of the model are [B, L]."""
        shape = tuple(ids.shape)
        if len(shape) != 2 or not calls or _is_given(ids, calls, graph):
            return False
        shapes = {shape_of(each) for call in calls for each in call.inputs.leaves.values()}
        if shape[0] != shape[1]:
            if shape in shapes:
                self._transposed = False
            elif shape[::-1] in shapes:
                self._transposed = True
        elif self._transposed is None and mask is not None and shape[0] not in (1, None):
            warnings.warn(
                f"embnoise: {self._layer.name!r} looked up token ids of shape {shape} that the "
                "model computed: taken as [B, L], since nothing tells whether they are [L, B]. "
                "Pass tokens= to attach if they are",
                RuntimeWarning,
                stacklevel=2,
            )
        return bool(self._transposed)


def _is_given(ids: Any, calls: list[ModelCall], graph: list[GraphCall | None]) -> bool:
    """Whether ids are an input of a call, or in the graphs of all calls."""
    direct = bool(graph) and all(known is not None and known.direct for known in graph)
    return direct or any(call.inputs.places_of(ids) for call in calls)


def _places(ids: Any, call: ModelCall, known: GraphCall | None) -> list[Place]:
    """Where ids, or what they were computed from, are in the inputs of a call; none if unknown."""
    if known is None:
        return call.inputs.places_of(ids)
    return [call.inputs.sources[name] for name in known.sources]


def _may_be(shape: tuple[Any, ...], other: tuple[Any, ...]) -> bool:
    """Whether two shapes may be the same; ``None`` stands for a size that is unknown."""
    pairs = zip(shape, other, strict=True)
    return all(one == two or one is None or two is None for one, two in pairs)


def _checked(mask: Any) -> Any:
    if mask.dtype == object:
        raise TypeError(
            "found a mask among the model's inputs whose rows differ in length; pass an array, or "
            "tokens=, such as tokens=lambda ids: {'mask': ids != 0}"
        )
    dtype = keras.backend.standardize_dtype(mask.dtype)
    if keras.backend.is_float_dtype(dtype):
        raise TypeError(
            f"found a mask of dtype {dtype} among the model's inputs, which may be one to add to "
            "attention scores; pass tokens=, for example "
            "tokens=lambda padding_mask: {'mask': padding_mask != 0}"
        )
    return mask
