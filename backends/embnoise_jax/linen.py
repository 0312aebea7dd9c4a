"""Embedding noise for Flax Linen: a module, and ``attach`` for an existing model."""

from __future__ import annotations

import threading
import warnings
from collections import Counter as Tally
from collections.abc import Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import replace
from typing import Any, TypeAlias

import flax.linen as nn
from jax import Array

from embnoise.backend import (
    Counter,
    Noise,
    TokenArrays,
    check_bool,
    check_integer,
    check_layers,
    check_noise,
    format_value,
    noise_by_layer,
    resolve_step,
)
from embnoise_jax._counting import add_counted_noise, pack
from embnoise_jax._find import SEVERAL, tokens_by_layer
from embnoise_jax._tracing import compiled_apart, is_staged, is_traced
from embnoise_jax.functional import add_noise

__all__ = ["EmbeddingNoise", "attach"]

ByLayer: TypeAlias = Array | Mapping[str, Array] | None
"""An array for every lookup, or one for each embedding that ``layer`` names."""


class EmbeddingNoise(nn.Module):
    """Adds noise to embeddings unless ``deterministic``.

    Each training call without ``step`` takes the next step, or its next micro-batch, which the
    variable ``count`` of the collection ``"noise"`` counts. The collection must be mutable:
    ``model.apply(variables, ids, mutable=["noise"])``. ``count`` is int32 [4], a
    ``embnoise.backend.Counter``: the step of the next call, how many calls and samples this step
    has had, and how many calls got noise so far.

    Attributes:
        noise: What noise to add.
        calls_per_step: How many counted calls one optimizer step takes.
        deterministic: If true, there is no noise. It may be given at call time instead.

    Raises:
        TypeError: An attribute of the wrong type.
        ValueError: ``calls_per_step`` is below 1, or the noise's schedule is unbound.

    Example:
        >>> import jax
        >>> import jax.numpy as jnp
        >>> from embnoise import neftune
        >>> from embnoise_jax.linen import EmbeddingNoise
        >>> layer, x = EmbeddingNoise(neftune(5.0)), jnp.zeros((2, 4, 8))
        >>> noisy = layer.apply({}, x, step=7, deterministic=False)
        >>> variables = layer.init(jax.random.key(0), x, deterministic=False)
        >>> noisy, variables = layer.apply(variables, x, deterministic=False, mutable=["noise"])
        >>> variables["noise"]["count"].tolist()
        [1, 0, 0, 1]
    """

    noise: Noise
    calls_per_step: int = 1
    deterministic: bool | None = None

    def __post_init__(self) -> None:
        check_noise(self.noise).alpha_at(0)  # raises for a schedule that is unbound
        check_integer("calls_per_step", self.calls_per_step, minimum=1)
        super().__post_init__()

    @nn.compact
    def __call__(
        self,
        x: Array,
        *,
        step: int | Array | None = None,
        mask: Array | None = None,
        segment_ids: Array | None = None,
        positions: Array | None = None,
        sample_ids: Array | None = None,
        where: Array | None = None,
        deterministic: bool | None = None,
    ) -> Array:
        """Add noise in training.

        Args:
            x: As for ``add_noise``.
            step: As for ``add_noise``; the call is then not counted. Default: the next step of the
                collection ``"noise"``.
            mask: As for ``add_noise``.
            segment_ids: As for ``add_noise``.
            positions: As for ``add_noise``.
            sample_ids: As for ``add_noise``. Default: numbered over the micro-batches of the step.
            where: As for ``add_noise``.
            deterministic: If true, there is no noise. Pass it either here or to the constructor.

        Raises:
            ValueError: Neither ``step`` nor a mutable collection ``"noise"`` in training.
        """
        deterministic = nn.merge_param("deterministic", self.deterministic, deterministic)
        tokens = TokenArrays(mask, segment_ids, positions, sample_ids, where)
        if check_bool("deterministic", deterministic):
            return add_noise(x, self.noise, step=0, training=False, **tokens.given())
        if step is not None:
            return add_noise(x, self.noise, step=step, **tokens.given())
        if not self.is_mutable_collection("noise"):
            raise ValueError(
                "step must be given in training, or the collection 'noise' be mutable: "
                "model.apply(variables, ..., mutable=['noise'])"
            )
        count = self.variable("noise", "count", pack, Counter())
        noisy, after = add_counted_noise(
            x, self.noise, count.value, tokens, calls_per_step=self.calls_per_step
        )
        if not self.is_initializing():
            count.value = after
        return noisy


class _AttachedClasses(threading.local):
    """The classes of the models whose calls get noise; like Linen's interceptors, per thread."""

    def __init__(self) -> None:
        self.classes: list[type[nn.Module]] = []


_ATTACHED = _AttachedClasses()


@contextmanager
def attach(
    model: nn.Module,
    noise: Noise,
    *,
    step: int | Array,
    layer: str | Sequence[str] | None = None,
    mask: ByLayer = None,
    segment_ids: ByLayer = None,
    positions: ByLayer = None,
    sample_ids: ByLayer = None,
    where: ByLayer = None,
) -> Iterator[None]:
    """Add noise to a model's token embedding in all its calls inside the ``with`` block.

    The embedding's ``__call__`` is intercepted, its ``attend`` is not, and the model is not
    changed. Under ``jax.jit`` enter the block inside the compiled function, with ``step`` as one of
    its arguments: around a compiled function the step would be fixed when it is traced, so that is
    an error. A second lookup of the embedding in the block, as in an encoder-decoder, gets
    different noise; inside ``nn.scan`` or ``nn.vmap`` every turn gets the same noise.

    Args:
        model: The model.
        noise: What noise to add.
        step: As for ``add_noise``: it may be traced, such as that of a ``TrainState``.
        layer: The embedding's path, such as ``"decoder/embed"``, or a list of several, as in an
            encoder-decoder. Default: the model's only ``nn.Embed``. All but the first get a stream
            of their own, ``"{noise.stream}/{path}"``.
        mask: As for ``add_noise``; with a list of layers perhaps a dict of arrays by path.
        segment_ids: Likewise.
        positions: Likewise.
        sample_ids: Likewise.
        where: Likewise.

    Raises:
        TypeError: An argument of the wrong type.
        ValueError: A model of this class has noise attached already, or the noise's schedule is
            unbound, or a dict has a path that ``layer`` does not name. Inside the block, at the
            lookup: the model looks up in several embeddings, or an argument that ``add_noise`` does
            not accept, or the lookup is being compiled and the block was entered outside of that.

    Warns:
        RuntimeWarning: No embedding was called inside the block, or one of ``layer`` was not.

    Example:
        >>> import jax
        >>> import jax.numpy as jnp
        >>> from embnoise import neftune
        >>> from embnoise_jax.linen import attach
        >>> model, ids = nn.Sequential([nn.Embed(10, 8), nn.Dense(4)]), jnp.array([[1, 2]])
        >>> params = model.init(jax.random.key(0), ids)
        >>> clean = model.apply(params, ids)
        >>> with attach(model, neftune(5.0), step=3):
        ...     noisy = model.apply(params, ids)
        >>> bool((noisy == clean).any()), bool((model.apply(params, ids) == clean).all())
        (False, True)
    """
    if not isinstance(model, nn.Module):
        raise TypeError(f"model must be a flax.linen.Module, got {format_value(model)}")
    check_noise(noise).alpha_at(0)  # raises for a schedule that is unbound
    step = resolve_step(step)
    paths = [_ONLY] if layer is None else check_layers(layer)
    for path in paths:
        if not isinstance(path, str):
            raise TypeError(f"layer must be the path of a module, got {format_value(path)}")
    kind = type(model)
    if kind in _ATTACHED.classes:
        raise ValueError(
            f"model has noise attached already: attach() to {kind} is entered. For several "
            "embeddings pass layer=[...]"
        )
    arrays = TokenArrays(mask, segment_ids, positions, sample_ids, where)
    tokens = tokens_by_layer(arrays, paths)
    noises = noise_by_layer(noise, paths)
    with ExitStack() as stack:
        interceptor = _Interceptor(kind, layer is None, noises, step, tokens, stack)
        _ATTACHED.classes.append(kind)
        stack.callback(_ATTACHED.classes.remove, kind)
        stack.enter_context(nn.intercept_methods(interceptor))
        yield
    missed = [path for path in paths if not interceptor.lookups[path]]
    if missed:
        whom = "no nn.Embed was" if layer is None else f"{', '.join(missed)} was not"
        warnings.warn(
            f"embnoise: {whom} called inside "
            "attach(), so there was no noise. Pass layer= if the model has another embedding, and "
            "enter attach() inside a function that is compiled ahead of time.",
            RuntimeWarning,
            stacklevel=3,
        )


_ONLY = ""
"""Stands for the path of a model's only embedding, until it is called."""


class _Interceptor:
    """Adds noise to what a model of class ``kind`` looks up."""

    def __init__(
        self,
        kind: type[nn.Module],
        only: bool,
        noises: Mapping[str, Noise],
        step: int | Array,
        tokens: Mapping[str, TokenArrays],
        stack: ExitStack,
    ) -> None:
        self.lookups: Tally[str] = Tally()
        """How many lookups each embedding had."""
        self._kind = kind
        self._only = only
        self._noises = noises
        self._step = step
        self._tokens = tokens
        self._path: str | None = None
        self._depth = 0
        """How many calls of models of the class are running."""
        self._in_lookup = False
        self._stack = stack
        # Known before the block's calls are traced, if they are.
        self._compiled_with_block = is_staged() or is_traced(step)
        self._compile_apart()

    def _compile_apart(self) -> None:
        """Keep functions compiled outside of the block out of it, and the other way around.

        Inside a compiled function, those that it calls are traced anew after every lookup, since
        the next lookup gets another noise. Elsewhere compiled lookups are refused, and all blocks
        share what is compiled in them, such as the operations of the model.
        """
        value = object() if self._compiled_with_block else "embnoise"
        self._stack.enter_context(compiled_apart(value))

    def __call__(
        self, forward: Any, args: tuple[Any, ...], kwargs: dict[str, Any], context: Any
    ) -> Any:
        module = context.module
        # A lookup inside a lookup belongs to a class that extends an embedding.
        if context.method_name != "__call__" or self._in_lookup or module.is_initializing():
            return forward(*args, **kwargs)
        path = "/".join(module.path)
        wanted = isinstance(module, nn.Embed) if self._only else path in self._noises
        if not wanted:
            # Inside nn.remat and other lifted transformations, modules do not know their root.
            running = type(module) is self._kind
            self._depth += running
            try:
                return forward(*args, **kwargs)
            finally:
                self._depth -= running
        self._in_lookup = True
        try:
            x = forward(*args, **kwargs)
        finally:
            self._in_lookup = False
        if not self._depth and type(_root(module)) is not self._kind:
            return x
        if not self._only:
            return self._add_noise(x, path)
        if self._path not in (None, path):
            raise ValueError(
                f"found several embeddings in the model; {SEVERAL}. "
                f"Candidates: {self._path!r}, {path!r}"
            )
        self._path = path
        return self._add_noise(x, _ONLY)

    def _add_noise(self, x: Array, name: str) -> Array:
        if not self._compiled_with_block and is_staged():
            raise ValueError(
                "attach() must be entered inside the compiled function that calls the model, with "
                f"step= as one of its arguments, got a block around it with step={self._step}: "
                "every call of the function would repeat the noise of that step, after the block "
                "too. Lookups in nn.remat, nn.scan and nn.jit are compiled as well: call such a "
                "model in jax.jit"
            )
        self.lookups[name] += 1
        if self._compiled_with_block:
            self._compile_apart()
        noise = self._noises[name]
        if self.lookups[name] > 1:
            # Two lookups of one table must not get the same noise at the same place.
            noise = replace(noise, stream=f"{noise.stream}/{self.lookups[name]}")
        return add_noise(x, noise, step=self._step, **self._tokens[name].given())


def _root(module: nn.Module) -> nn.Module:
    while isinstance(module.parent, nn.Module):
        module = module.parent
    return module
