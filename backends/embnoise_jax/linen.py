"""Embedding noise for Flax Linen: a module, and ``attach`` for an existing model."""

from __future__ import annotations

import threading
import warnings
from collections.abc import Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from typing import Any, Literal, TypeAlias

import flax.linen as nn
from jax import Array

from embnoise.backend import (
    PLACES,
    Counter,
    Noise,
    TokenArrays,
    check_bool,
    check_choice,
    check_integer,
    check_layers,
    check_noise,
    format_value,
    resolve_step,
)
from embnoise_jax._counting import add_counted_noise, pack
from embnoise_jax._find import list_embeddings, tokens_by_layer
from embnoise_jax._linen_interceptor import Interceptor
from embnoise_jax._linen_modules import ONLY, Places, is_same
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
        noise: What noise to add. Each layer of a model needs a ``stream`` of its own, or all draw
            the same.
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


class _Attached(threading.local):
    """The models whose calls get noise; like Linen's interceptors, per thread."""

    def __init__(self) -> None:
        self.models: list[nn.Module] = []


_ATTACHED = _Attached()


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
    at: Literal["output", "input"] = "output",
) -> Iterator[None]:
    """Add noise to a model's token embedding, or to hidden states, in all calls inside the block.

    The layer's ``__call__`` is intercepted, an embedding's ``attend`` is not, and the model is not
    changed. ``layer="layers_*", at="input"`` is noise on what goes into each of a model's layers.

    Under ``jax.jit`` enter the block inside the compiled function, with ``step`` as one of
    its arguments: around a compiled function the step would be fixed when it is traced, so that is
    an error. A second call of a layer in the block, as in an encoder-decoder with one table, gets
    different noise; inside ``nn.scan`` every turn gets the same noise. Under ``jax.vmap`` over rows
    enter the block inside the function that is mapped, with ``sample_ids``.

    Linen calls copies of a model, so a model of the same class with equal fields counts as the
    model itself. Call a teacher that is configured like its student outside of the block.

    Args:
        model: The model.
        noise: What noise to add.
        step: As for ``add_noise``: it may be traced, such as that of a ``TrainState``.
        layer: A module's path in the model, or in one around it that is called, such as
            ``"decoder/embed"``; a pattern of paths; or a list of those. In a pattern, ``*``, ``?``
            and ``[0-3]`` match as in a shell, but never a slash. Default: the model's only
            ``nn.Embed``. All but the first path of a list, and all modules that a pattern matches,
            get a stream of their own, ``"{noise.stream}/{path}"``.
        mask: As for ``add_noise``; with a list of layers perhaps a dict of arrays by path or
            pattern.
        segment_ids: Likewise.
        positions: Likewise.
        sample_ids: Likewise.
        where: Likewise.
        at: Where a layer gets noise: on its ``"output"``, or the first entry of it if that is a
            tuple; or on its ``"input"``, the first argument of its call.

    Raises:
        TypeError: An argument of the wrong type.
        ValueError: The model, or one equal to it, has noise attached already, or the noise's
            schedule is unbound, or a dict has a path that ``layer`` does not name. Inside the
            block, at the lookup: the model looks up in several embeddings, or has an
            ``EmbeddingNoise`` of the same seed and stream; or an argument that ``add_noise`` does
            not accept; or the lookup is being compiled and the block was entered outside of that;
            or ``vmap`` maps over rows, and nothing tells their samples apart.

    Warns:
        RuntimeWarning: No embedding was called inside the block, or one of ``layer`` was not; or an
            embedding was looked up again with other ids, which the token arrays do not describe.

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
    check_choice("at", at, PLACES)
    step = resolve_step(step)
    paths = [ONLY] if layer is None else check_layers(layer)
    for path in paths:
        if not isinstance(path, str):
            raise TypeError(f"layer must be the path of a module, got {format_value(path)}")
    if any(is_same(model, each) for each in _ATTACHED.models):
        raise ValueError(
            f"model has noise attached already: attach() to a {type(model).__name__} with the same "
            "fields is entered. For several embeddings pass layer=[...]"
        )
    arrays = TokenArrays(mask, segment_ids, positions, sample_ids, where)
    tokens = tokens_by_layer(arrays, paths)
    places = Places(noise, paths)
    with ExitStack() as stack:
        interceptor = Interceptor(model, places, step, tokens, stack, at, _noise_of)
        _ATTACHED.models.append(model)
        stack.callback(_ATTACHED.models.pop)
        stack.enter_context(nn.intercept_methods(interceptor))
        yield
    missed = [path for path in paths if path not in interceptor.called]
    if missed:
        whom = "no nn.Embed was" if layer is None else f"{', '.join(missed)} was not"
        others = interceptor.embeddings
        candidates = f" The embeddings that were: {list_embeddings(others)}." if others else ""
        warnings.warn(
            f"embnoise: {whom} called inside "
            f"attach(), so there was no noise.{candidates} "
            "Pass layer= if the model has another embedding, "
            "attach to the model that is called or one with the same fields, give model.bind(...) "
            "a name before you call a layer of it, and enter attach() inside a function that is "
            "compiled ahead of time.",
            RuntimeWarning,
            stacklevel=3,
        )
    if interceptor.misused:
        warnings.warn(
            f"embnoise: {interceptor.misused}. If they describe both, filter this warning",
            RuntimeWarning,
            stacklevel=3,
        )


def _noise_of(module: nn.Module, kwargs: Mapping[str, Any]) -> Noise | None:
    """The noise that the call of a module adds by itself, as an ``EmbeddingNoise`` in training."""
    if not isinstance(module, EmbeddingNoise):
        return None
    silent = module.deterministic or kwargs.get("deterministic")
    return None if silent else module.noise
