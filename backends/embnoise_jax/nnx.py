"""Embedding noise for Flax NNX: a module, and ``attach`` for an existing model."""

from __future__ import annotations

import warnings
from collections.abc import Callable, Mapping, Sequence
from contextlib import ExitStack
from functools import cache, wraps
from typing import Any, Literal, TypeAlias

import jax
from flax import nnx
from flax.errors import TraceContextError
from jax import Array

from embnoise.backend import (
    PLACES,
    Counter,
    Handle,
    Noise,
    NoiseState,
    TokenArrays,
    TokenFunctions,
    check_bool,
    check_choice,
    check_integer,
    check_noise,
    format_value,
    noise_by_layer,
    refuse_equal_streams,
)
from embnoise_jax._arguments import (
    checked_hidden,
    first_argument,
    is_hidden,
    refuse_untold_rows,
    with_first_argument,
    with_output,
)
from embnoise_jax._compat import change_class, set_property
from embnoise_jax._counting import add_counted_noise, pack
from embnoise_jax._model_calls import described, record_calls
from embnoise_jax._modes import is_evaluating
from embnoise_jax._nnx_modules import call_of, extended, find_layers, modules_of
from embnoise_jax.functional import add_noise, noise_key

__all__ = ["EmbeddingNoise", "Handle", "NoiseCount", "attach"]

Tokens: TypeAlias = Callable[..., Mapping[str, Array]]
Where: TypeAlias = Callable[..., Array]


class NoiseCount(nnx.Variable[Array]):
    """The counter of an ``EmbeddingNoise``: int32 [4], its step, calls, samples and lookups.

    The step is that of the next training call; calls and samples are those that this step has had;
    lookups is how many calls got noise so far. It is part of the model's state, so a restored run
    continues with the same noise; ``nnx.state(model, nnx.Param)`` leaves it out.
    """


class EmbeddingNoise(NoiseState, nnx.Module):
    """Adds noise to embeddings in training; the identity after ``model.eval()``.

    Each training call without ``step`` takes the next step, or its next micro-batch, which a
    ``NoiseCount`` counts.

    Args:
        noise: What noise to add. Each layer of a model needs a ``stream`` of its own, or all draw
            the same.
        calls_per_step: How many training calls one optimizer step takes: more than 1 if gradients
            are accumulated, or if the model looks up more than once in a forward pass.
        deterministic: If true, there is no noise. ``model.eval()`` and ``model.train()`` set it.

    Attributes:
        noise: What noise is added.
        step: The step of the next training call. Assign to it to start another step.
        alpha: The amplitude at the current step.
        lookups: How many counted calls got noise so far.

    Raises:
        TypeError: An argument of the wrong type.
        ValueError: ``calls_per_step`` is below 1, or the noise's schedule is unbound.

    Example:
        >>> import jax.numpy as jnp
        >>> from embnoise import neftune
        >>> from embnoise_jax.nnx import EmbeddingNoise
        >>> from flax import nnx
        >>> x = nnx.Embed(10, 16, rngs=nnx.Rngs(0))(jnp.array([[1, 2, 3]]))
        >>> layer = EmbeddingNoise(neftune(5.0))
        >>> bool((layer(x) == x).any()), layer.step
        (False, 1)
        >>> with layer.paused():
        ...     layer(x) is x
        True
    """

    def __init__(
        self, noise: Noise, *, calls_per_step: int = 1, deterministic: bool = False
    ) -> None:
        check_noise(noise).alpha_at(0)  # raises for a schedule that is unbound
        self.noise = noise
        self.calls_per_step = check_integer("calls_per_step", calls_per_step, minimum=1)
        self.deterministic = check_bool("deterministic", deterministic)
        self.count = NoiseCount(pack(Counter()))
        self._paused = 0  # how many contexts without noise are open

    def set_view(self, deterministic: bool | None = None) -> None:
        """Make a view with or without noise; called by ``nnx.view``."""
        if deterministic is not None:
            self.deterministic = deterministic

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
                ``NoiseCount``.
            mask: As for ``add_noise``.
            segment_ids: As for ``add_noise``.
            positions: As for ``add_noise``.
            sample_ids: As for ``add_noise``. Default: numbered over the micro-batches of the step.
            where: As for ``add_noise``.
            deterministic: Overrides the attribute of that name.
        """
        if deterministic is None:
            deterministic = self.deterministic
        training = not (check_bool("deterministic", deterministic) or self._paused)
        tokens = TokenArrays(mask, segment_ids, positions, sample_ids, where)
        if not training:
            return add_noise(x, self.noise, step=0, training=False, **tokens.given())
        if step is not None:
            return add_noise(x, self.noise, step=step, **tokens.given())
        noisy, after = add_counted_noise(
            x, self.noise, self.count[...], tokens, calls_per_step=self.calls_per_step
        )
        try:
            self.count[...] = after
        except TraceContextError as error:
            raise TraceContextError(  # type: ignore[no-untyped-call]
                f"{error}: the noise counts its training calls in the model's state, which comes "
                "from outside of a transformation of JAX, by closure or by nnx.merge. Pass the "
                "model as an argument of a function under nnx.jit, nnx.grad and the like, merge it "
                "by nnx.merge(..., copy=True), or pass step= to the layer"
            ) from error
        return noisy

    def __setattr__(self, name: str, value: Any) -> None:
        if name == "step":
            set_property(self, name, value)
        else:
            super().__setattr__(name, value)

    def __repr__(self) -> str:
        try:
            state = f"step={self.step}, alpha={self.alpha:g}, lookups={self.lookups}"
        except TypeError:  # a traced or an abstract count
            state = f"count={self.count.get_value()}"
        return f"{type(self).__name__}({self.noise}, {state})"

    def _counters(self) -> dict[str, Counter]:
        return {"": Counter(*self.count[...])}

    def _set_counters(self, counters: Mapping[str, Counter]) -> None:
        self.count[...] = pack(counters[""])

    def _pauses(self) -> int:
        return self._paused

    def _set_pauses(self, pauses: int) -> None:
        self._paused = pauses


def attach(
    model: nnx.Module,
    noise: Noise,
    *,
    layer: str | nnx.Module | Sequence[str | nnx.Module] | None = None,
    tokens: Tokens | None = None,
    where: str | Where = "all",
    calls_per_step: int = 1,
    at: Literal["output", "input"] = "output",
) -> Handle:
    """Add noise to a model's token embedding, or to hidden states, in training only.

    A layer keeps its place, its parameters their paths, and an embedding's ``attend`` stays clean.
    It gets an ``EmbeddingNoise``, which ``model.train()`` and ``model.eval()`` switch on and off.
    Attach before ``nnx.jit``, ``nnx.split`` and the like: inside a compiled function, every call
    would start at step 0 and repeat its noise. Attach after ``nnx.clone`` and ``copy.deepcopy``: a
    copy keeps its noise, which no handle removes. A pickle of the model has no noise.

    ``layer="layers.*", at="input"`` is noise on what goes into each of a model's layers.

    Args:
        model: The model, which is edited.
        noise: What noise to add.
        layer: A module or its path, such as ``"decoder.embed"``, a pattern of paths, or a list of
            those. In a pattern, ``*``, ``?`` and ``[0-3]`` match as in a shell, but never a dot.
            Default: the model's only ``nnx.Embed``. All but the first get a stream of their own,
            ``"{noise.stream}/{path}"``.
        tokens: A function that returns the token arguments of ``add_noise`` as a dict. It takes by
            name ``ids``, what an embedding looks up, [B, L], and any argument of the call of
            ``model``: ``lambda ids: {"mask": ids != 0}``. Default: all tokens are real.
        where: The tokens to noise: ``"all"`` real tokens, or a function that returns booleans
            [B, L] and takes its arguments as ``tokens`` does.
        calls_per_step: As for ``EmbeddingNoise``, counted for each layer.
        at: Where a layer gets noise: on its ``"output"``, or the first entry of it if that is a
            tuple; or on its ``"input"``, the first argument of its call.

    Returns:
        A handle. ``handle.remove()`` removes the noise, as does leaving ``with attach(...):``.

    Raises:
        TypeError: An argument of the wrong type.
        ValueError: The model has several embeddings or none, or has noise already, at this
            layer or of the same seed and stream at another; a pattern that matches nothing; or the
            noise's schedule is unbound. The model is then unchanged.

    Warns:
        RuntimeWarning: The model is in evaluation mode, so there is no noise before
            ``model.train()``. A model without a flag such as ``deterministic`` is taken to train,
            also where that is an argument of its call.

    Example:
        >>> import jax.numpy as jnp
        >>> from embnoise import neftune
        >>> from embnoise_jax.nnx import attach
        >>> from flax import nnx
        >>> model = nnx.Sequential(nnx.Embed(10, 8, rngs=nnx.Rngs(0)), nnx.relu)
        >>> ids = jnp.array([[1, 2, 0]])
        >>> clean = model(ids)
        >>> with attach(model, neftune(5.0), tokens=lambda ids: {"mask": ids != 0}) as handle:
        ...     noisy = model(ids)
        >>> bool((noisy == clean)[0, 2].all()), bool((noisy == clean).all())
        (True, False)
        >>> bool((model(ids) == clean).all()), handle.lookups
        (True, 1)
    """
    if not isinstance(model, nnx.Module):
        raise TypeError(f"model must be a flax.nnx.Module, got {format_value(model)}")
    check_noise(noise)
    check_choice("at", at, PLACES)
    functions = TokenFunctions(tokens, where)
    layers = find_layers(model, layer)
    noises = noise_by_layer(noise, layers)
    for path, module in layers.items():
        if hasattr(module, "embedding_noise"):
            raise ValueError(
                f"model has noise attached to {path!r} already; call remove() of its handle first. "
                "A copy of a model with noise, by nnx.clone or copy.deepcopy, has no handle: copy "
                "it before attach()"
            )
    modules = modules_of(model)
    present = {
        path.removesuffix(".embedding_noise"): module.noise
        for path, module in modules.items()
        if isinstance(module, EmbeddingNoise)
    }
    refuse_equal_streams(noises, present, noise_key)
    made = {path: _AttachedNoise(each, functions, calls_per_step) for path, each in noises.items()}
    for path, each in made.items():
        each.deterministic = is_evaluating(modules, path, "deterministic", "use_running_average")
    if silent := [path for path, each in made.items() if each.deterministic]:
        warnings.warn(
            f"embnoise: the model is in evaluation mode: {', '.join(silent)} gets no noise until "
            "model.train()",
            RuntimeWarning,
            stacklevel=2,
        )
    with ExitStack() as undo:
        if functions and callable(model) and model not in layers.values():
            undo.callback(record_calls(model))
        for path, module in layers.items():
            undo.callback(_put_on(module, made[path], at))
        return _AttachedHandle(noise, made, undo.pop_all())


def _put_on(module: Any, noise: _AttachedNoise, at: str) -> Callable[[], None]:
    """Attach noise to one layer; returns a function that removes it if it is still there."""
    kind: Any = type(module)
    noisy_class = _noisy_class(kind, at)
    module.embedding_noise = noise

    def remove() -> None:
        if getattr(module, "embedding_noise", None) is noise:
            change_class(module, kind)
            del module.embedding_noise

    try:
        change_class(module, noisy_class)
    except BaseException:
        del module.embedding_noise
        raise
    return remove


class _AttachedHandle(Handle):
    """The handle of a model. After ``remove()`` its state can still be read."""

    def __init__(self, noise: Noise, noises: Mapping[str, _AttachedNoise], undo: ExitStack) -> None:
        self.noise = noise
        self._noises = noises
        self._undo = undo

    def remove(self) -> None:
        super().remove()
        self._undo.close()

    def _counters(self) -> dict[str, Counter]:
        return {path: noise._counters()[""] for path, noise in self._noises.items()}

    def _set_counters(self, counters: Mapping[str, Counter]) -> None:
        for path, noise in self._noises.items():
            noise._set_counters({"": counters[path]})

    def _pauses(self) -> int:
        return max(noise._pauses() for noise in self._noises.values())

    def _set_pauses(self, pauses: int) -> None:
        for noise in self._noises.values():
            noise._set_pauses(pauses)


class _AttachedNoise(EmbeddingNoise):
    """The noise of a layer, which derives the token arrays from what calls are given."""

    def __init__(self, noise: Noise, functions: TokenFunctions, calls_per_step: int) -> None:
        super().__init__(noise, calls_per_step=calls_per_step)
        self.functions = functions

    def _add_to(self, x: Array, argument: Any, layer: nnx.Module) -> Array:
        """Hidden states with noise.

        Args:
            x: Embeddings or hidden states.
            argument: The first argument of the layer's call.
            layer: The layer.

        Raises:
            ValueError: ``vmap`` maps over rows, and nothing tells their samples apart.
        """
        if self.deterministic or self._paused:
            return x
        tokens = TokenArrays()
        if self.functions:
            ids = {} if is_hidden(argument) else {"ids": argument}
            tokens = described(self.functions, ids)
        refuse_untold_rows(
            argument,
            tokens,
            lambda: [self.count.get_value(), *jax.tree.leaves(nnx.state(layer, nnx.Param))],
            "call the model on all rows, or have tokens= make sample_ids of an argument of the "
            "model's call, such as tokens=lambda row: {'sample_ids': row[None]}",
        )
        return self(x, **tokens.given())


@cache
def _noisy_class(kind: Any, at: str) -> Any:
    """The class of a layer of class ``kind`` that has noise attached."""
    name = call_of(kind)
    call = getattr(kind, name)

    @wraps(call)  # its signature tells what it takes
    def at_output(self: Any, *args: Any, **kwargs: Any) -> Any:
        result = call(self, *args, **kwargs)
        argument = first_argument(call, args, kwargs)
        return with_output(result, lambda x: self.embedding_noise._add_to(x, argument, self))

    @wraps(call)
    def at_input(self: Any, *args: Any, **kwargs: Any) -> Any:
        x = first_argument(call, args, kwargs)
        noisy = self.embedding_noise._add_to(checked_hidden(x), x, self)
        args, kwargs = with_first_argument(call, noisy, args, kwargs)
        return call(self, *args, **kwargs)

    return extended(kind, "Noisy", {name: at_input if at == "input" else at_output})
