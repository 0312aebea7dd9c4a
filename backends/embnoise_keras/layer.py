"""``EmbeddingNoise``: noise as a Keras layer, to put after an embedding."""

from __future__ import annotations

import warnings
from collections.abc import Mapping
from dataclasses import replace
from typing import Any, Self

import keras
import numpy as np
from keras import ops

from embnoise.backend import (
    Counter,
    Noise,
    NoiseState,
    TokenArrays,
    check_integer,
    check_noise,
    dealt_ids,
    embedding_shape,
    rows_of_a_sample,
)
from embnoise_keras._compat import (
    has_value,
    is_mapped,
    is_traced_apart,
    keras_mask,
    may_be_default,
    refuse_recomputed,
    takes_gradients,
    tracing,
    untold_model,
)
from embnoise_keras._compat_graph import lost_mask
from embnoise_keras.functional import add_noise, refuse_ragged
from embnoise_keras.replicas import replica
from embnoise_keras.variables import Count, LastCall

__all__ = ["EmbeddingNoise", "lacks_training"]


@keras.saving.register_keras_serializable("embnoise")
class EmbeddingNoise(NoiseState, keras.layers.Layer):  # type: ignore[misc]
    """Adds noise to embeddings where ``training`` is true; the identity elsewhere.

    The layer counts its training calls. It has no weights: for Keras the count is the state of a
    random generator, but one that is saved with the model, so a run that loads it continues with
    the same noise. The layer uses the mask that Keras passes on, for example from
    ``Embedding(mask_zero=True)``. In a data-parallel run, replica r of W numbers its samples
    n * W + r, so that no two replicas draw the same noise.

    Args:
        noise: What noise to add. Each layer of a model needs a ``stream`` of its own, or all draw
            the same.
        calls_per_step: How many training calls one optimizer step takes: the optimizer's
            ``gradient_accumulation_steps``, for example. 1 by default.
        **options: ``name`` and other arguments of ``keras.layers.Layer``.

    Attributes:
        noise: What noise is added.
        step: The step of the next training call. Assign to it to start another step.
        alpha: The amplitude at the current step.
        lookups: How many calls got noise so far.

    Raises:
        TypeError: An argument of the wrong type.
        ValueError: ``calls_per_step`` is below 1, the noise's schedule is unbound, or a
            ``keras.RematScope`` would recompute the layer.

    Example:
        >>> import keras
        >>> from embnoise import neftune
        >>> from embnoise_keras import EmbeddingNoise
        >>> layer, x = EmbeddingNoise(neftune(5.0)), keras.ops.zeros((2, 4, 8))
        >>> bool(keras.ops.any(layer(x, training=True) == x)), layer.step
        (False, 1)
        >>> bool(keras.ops.all(layer(x) == x))
        True
        >>> with layer.paused():
        ...     bool(keras.ops.all(layer(x, training=True) == x)), layer.step
        (True, 1)
    """

    def __init__(self, noise: Noise, *, calls_per_step: int = 1, **options: Any) -> None:
        check_noise(noise).alpha_at(0)
        # Without autocast the embeddings keep the dtype that they come in.
        super().__init__(autocast=False, **options)
        refuse_recomputed(self)
        self.noise = noise
        self.calls_per_step = check_integer("calls_per_step", calls_per_step, minimum=1)
        self.supports_masking = True
        with keras.name_scope(self.name, caller=self):
            # The dtype is that of the iterations of Keras's optimizers.
            self._state = Count()
        self.last_call = LastCall()
        self.has_warned = False  # that there is no noise in `fit`
        # There is nothing to build, unless a subclass has something.
        self.built = type(self).build is keras.Layer.build

    @property
    def _count(self) -> Any:
        return self._state.state

    def _record(self) -> None:
        """Record calls from now on, for ``NoiseLogger``."""
        self.last_call.begin(self, [self])

    def save_own_variables(self, store: Any) -> None:
        """Save the count, and the weights of a subclass."""
        super().save_own_variables(store)
        store["count"] = self._count[: len(Counter._fields)]

    def load_own_variables(self, store: Any) -> None:
        """Load what ``save_own_variables`` saved.

        Raises:
            ValueError: ``store`` has no count.
        """
        saved = {name: store[name] for name in store.keys()}  # noqa: SIM118, not a dict
        # Before 0.1.0 was released, the count was saved as the layer's only weight.
        count = saved.pop("count", None if self.weights else saved.pop("0", None))
        if count is None:
            raise ValueError(f"{self.name!r} expected its count to be saved, got {list(saved)}")
        super().load_own_variables(saved)
        self._set_counters({self.name: Counter(*map(int, count))})

    def _trackable_children(self, *args: Any, **kwargs: Any) -> dict[str, Any]:
        # What `tf.train.Checkpoint` saves. It leaves random generators out, which this is to Keras.
        return {**super()._trackable_children(*args, **kwargs), "count": self._count}

    def call(
        self,
        x: Any,
        *,
        step: Any = None,
        mask: Any = None,
        segment_ids: Any = None,
        positions: Any = None,
        sample_ids: Any = None,
        where: Any = None,
        training: bool | None = None,
    ) -> Any:
        """``add_noise`` in training; the arguments mean the same.

        Args:
            x: Embeddings [B, L, d] or [L, d].
            step: The step. A call with ``step`` is pure: it is not counted. By default the step of
                the layer's own count.
            mask: As for ``add_noise``; by default what Keras passes on with ``x``.
            segment_ids: As for ``add_noise``.
            positions: As for ``add_noise``.
            sample_ids: As for ``add_noise``, but by default the rows are numbered throughout the
                calls of a step.
            where: As for ``add_noise``.
            training: Whether there is noise. Keras fills it in.

        Returns:
            A tensor of x's shape and dtype.

        Raises:
            TypeError: An argument of the wrong type or dtype.
            ValueError: An argument of the wrong shape or out of range.
        """
        refuse_ragged(x)
        # Keras fills `mask` in only if x is the only tensor argument.
        mask = keras_mask(x) if mask is None else mask
        tokens = TokenArrays(mask, segment_ids, positions, sample_ids, where)
        if not training:
            self._warn_if_untold(training)
            step = 0 if step is None else step
            return add_noise(x, self.noise, step=step, training=False, **tokens._asdict())
        if step is not None:
            return self._noisy(x, self.noise, step, tokens)
        counter = self._counter()
        noisy = self._noisy(x, self.noise, counter.step, self._numbered(x, tokens, counter))
        self._advance(x, counter)
        return noisy

    def _warn_if_untold(self, training: bool | None) -> None:
        """Warn, once, if there is no noise in ``fit`` since nobody passed ``training``."""
        if self.has_warned:
            return
        model = untold_model() if training is None else None
        if model is not None:
            self.has_warned = True
            warnings.warn(lacks_training(model), RuntimeWarning, stacklevel=2)
        elif takes_gradients(self._count) and (training is None or may_be_default()):
            self.has_warned = True
            warnings.warn(
                f"embnoise: {self.name!r} adds no noise, since the `call` of a model in `fit` does "
                "not hand `training` on: with JAX, Keras does not do that by itself, so dropout is "
                "off as well. Pass training=training to the layers in it",
                RuntimeWarning,
                stacklevel=2,
            )

    def _noisy(self, x: Any, noise: Noise, step: Any, tokens: TokenArrays) -> Any:
        """``x`` with noise; while paused, with the same bits."""
        tokens.check(embedding_shape(x))
        # Compiled code takes `active` as data, so pausing silences what is compiled already.
        active, where = self._state.active, tokens.where
        if where is None:
            where = ops.broadcast_to(active, ops.shape(x)[:-1])
        else:
            where = ops.where(active, where, ops.zeros_like(where))
        noisy = add_noise(x, noise, step=step, **tokens._replace(where=where)._asdict())
        self.last_call.record(x, noisy, step)
        return noisy

    def _numbered(self, x: Any, tokens: TokenArrays, counter: Counter) -> TokenArrays:
        """The tokens with the ids of their samples, if those are not given."""
        if tokens.sample_ids is not None:
            return tokens
        if is_mapped(x, self._count.value):
            raise ValueError(
                f"the calls of {self.name!r} for the rows of ops.vectorized_map would all have the "
                "noise of sample 0: call it on all rows before, or pass sample_ids= to an "
                "EmbeddingNoise"
            )
        number, replicas = replica()
        rows = counter.samples + ops.arange(_batch(x), dtype=self._count.dtype)
        number = ops.cast(number, self._count.dtype)
        ids = dealt_ids(rows, number, replicas, block=rows_of_a_sample(self.noise))
        return tokens._replace(sample_ids=ids)

    def _counter(self) -> Counter:
        """The counter as tensors.

        Raises:
            ValueError: JAX traces the call by itself.
        """
        if is_traced_apart(self._count):
            raise ValueError(
                f"{self.name!r} cannot count its calls in a loop, a branch or another function "
                "that JAX traces by itself, such as that of ops.map, whose turns would all have "
                "the same noise: call it on all tokens outside of that, or pass step= and "
                "sample_ids=. In a jax.jit of your own, use stateless_call with the variables"
            )
        return self._state.counter

    def _advance(self, x: Any, counter: Counter) -> None:
        """Count a call with embeddings ``x``."""
        batch = ops.cast(_batch(x), self._count.dtype)
        self._state.advance(counter.after(batch, calls_per_step=self.calls_per_step, xp=ops))

    def _counters(self) -> dict[str, Counter]:
        values = ops.convert_to_numpy(self._synced())
        return {self.name: Counter(*map(int, values[: len(Counter._fields)]))}

    def _set_counters(self, counters: Mapping[str, Counter]) -> None:
        (counter,) = counters.values()
        largest = np.iinfo(self._count.dtype).max
        for name, value in counter._asdict().items():
            if value > largest:
                raise ValueError(f"{name} must be at most {largest}, got {value}")
        self._synced().assign([*counter])

    def _pauses(self) -> int:
        return self._state.pauses

    def _set_pauses(self, pauses: int) -> None:
        self._synced()
        self._state.pauses = pauses

    def _synced(self) -> Any:
        """The variable of the count, to be read or set from outside of compiled code."""
        if not has_value(self._count):
            if tracing() is not None:
                raise RuntimeError(
                    f"{self.name!r} cannot be paused, read or set in a step that JAX compiles: do "
                    "it outside, and for a clean pass call the model with training=False"
                )
            raise RuntimeError(
                f"{self.name!r} has no state while fit runs with JAX; call "
                "model.jax_state_sync() before reading or setting it"
            )
        return self._count

    def compute_output_spec(self, x: Any, **options: Any) -> Any:
        """The shape and dtype of ``x``.

        Warns:
            RuntimeWarning: Keras has dropped the mask of an embedding on the way to ``x``.
        """
        refuse_ragged(x)
        told = any(options.get(name) is not None for name in ("mask", "segment_ids"))
        if not told and (lost := lost_mask(x)) is not None:
            warnings.warn(
                f"embnoise: {self.name!r} is called with embeddings whose mask, that of {lost!r}, "
                "Keras has dropped, as it does in operations and in layers such as Add unless all "
                "of their inputs have a mask. Padding gets noise and counts in L: put the layer "
                "directly behind the embedding, or pass mask=",
                RuntimeWarning,
                stacklevel=2,
            )
        return keras.KerasTensor(x.shape, dtype=x.dtype)

    def get_config(self) -> dict[str, Any]:
        """The layer's arguments, JSON-ready.

        Raises:
            TypeError: The noise's alpha is a callable that JSON has no form for.
        """
        alpha = self.noise.alpha
        if isinstance(alpha, keras.optimizers.schedules.LearningRateSchedule):
            noise = replace(self.noise, alpha=0.0).to_dict()
            noise["alpha"] = keras.saving.serialize_keras_object(alpha)
        else:
            noise = self.noise.to_dict()
        own = {"noise": noise, "calls_per_step": self.calls_per_step}
        return {**super().get_config(), **own}

    @classmethod
    def from_config(cls, config: dict[str, Any]) -> Self:
        """The layer that ``get_config`` described."""
        config = dict(config)
        noise = dict(config.pop("noise"))
        if isinstance(noise["alpha"], dict) and "class_name" in noise["alpha"]:
            alpha = keras.saving.deserialize_keras_object(noise.pop("alpha"))
            config["noise"] = replace(Noise.from_dict({**noise, "alpha": 0.0}), alpha=alpha)
        else:
            config["noise"] = Noise.from_dict(noise)
        return cls(**config)

    def __repr__(self) -> str:
        own = f"noise={self.noise}, calls_per_step={self.calls_per_step}"
        return f"<{type(self).__name__} name={self.name}, {own}>"


def _batch(x: Any) -> Any:
    return ops.shape(x)[0] if len(x.shape) == 3 else 1


def lacks_training(model: Any) -> str:
    """What to say of a model whose ``call`` has no argument ``training``."""
    return (
        f"embnoise: {type(model).__name__}.call has no argument `training`, so Keras does not "
        "tell its layers that it trains: there will be no noise, and no dropout, in fit"
    )
