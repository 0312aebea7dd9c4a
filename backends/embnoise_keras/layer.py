"""``EmbeddingNoise``: the noise as a Keras layer, to put after an embedding."""

from __future__ import annotations

from dataclasses import replace
from types import SimpleNamespace
from typing import Any, Self

import keras
from keras import ops

from embnoise.backend import Noise, check_integer, format_value
from embnoise_keras.functional import add_noise
from embnoise_keras.replicas import replica

__all__ = ["EmbeddingNoise"]


@keras.saving.register_keras_serializable("embnoise")
class EmbeddingNoise(keras.layers.Layer):  # type: ignore[misc]
    """Adds noise to embeddings where ``training`` is true; the identity elsewhere.

    Without ``step`` every training call is the next one of its own count, a non-trainable variable
    that is saved with the model, so that a run that is loaded goes on with the same noise. It takes
    the mask that Keras passes on, say from ``Embedding(mask_zero=True)``. Replica r of W in a
    data-parallel run numbers its samples n * W + r, so that no two have the same noise.

    Args:
        noise: what noise to add.
        calls_per_step: how many training calls one step of the optimizer takes: its
            ``gradient_accumulation_steps``, say.
        **options: ``name`` and whatever else a Keras layer takes.

    Raises:
        TypeError: an argument of the wrong type.
        ValueError: ``calls_per_step`` is below 1, or the noise's schedule is unbound.

    Example:
        >>> import keras
        >>> from embnoise import neftune
        >>> from embnoise_keras import EmbeddingNoise
        >>> layer, x = EmbeddingNoise(neftune(5.0)), keras.ops.zeros((2, 4, 8))
        >>> bool(keras.ops.any(layer(x, training=True) == x)), layer.step
        (False, 1)
        >>> bool(keras.ops.all(layer(x) == x))
        True
    """

    def __init__(self, noise: Noise, *, calls_per_step: int = 1, **options: Any) -> None:
        if not isinstance(noise, Noise):
            raise TypeError(f"noise must be a Noise, got {format_value(noise)}")
        noise.alpha_at(0)
        # Without autocast the embeddings keep the dtype that they come in.
        super().__init__(autocast=False, **options)
        self.noise = noise
        self.calls_per_step = check_integer("calls_per_step", calls_per_step, minimum=1)
        self.supports_masking = True
        self.reporting = False
        # Not as attributes of their own, which Keras would take for weights.
        self._state = SimpleNamespace(
            count=self._counter(),
            ratio=self.unsaved(0.0, "float32"),
            last_step=self.unsaved(0, "int"),
        )
        self.built = True

    def unsaved(self, initial: Any, dtype: str) -> Any:
        """A variable that Keras hands through compiled code, but that is no weight of the layer.

        Keras has that for the state of its random generators alone, so it takes such a place.
        """
        variable = keras.Variable(
            initial, dtype=dtype, trainable=False, aggregation="only_first_replica"
        )
        self._seed_generators.append(SimpleNamespace(state=variable))
        return variable

    def _counter(self) -> Any:
        return self.add_weight(
            shape=(2,),
            initializer="zeros",
            dtype="int",  # as the iterations of Keras's optimizers
            trainable=False,
            aggregation="only_first_replica",
            name="count",
        )

    @property
    def count(self) -> Any:
        """The training calls so far, and the samples of the current step: integers [2]."""
        return self._state.count

    @property
    def ratio(self) -> Any:
        """The RMS of the last call's noise over that of its embeddings, while ``reporting``."""
        return self._state.ratio

    @property
    def last_step(self) -> Any:
        """The step of the last call, while ``reporting``."""
        return self._state.last_step

    @property
    def step(self) -> int:
        """The step that the next training call without ``step`` will take."""
        return int(self.count[0]) // self.calls_per_step

    @step.setter
    def step(self, value: int) -> None:
        value = check_integer("step", value, minimum=0)
        self.count.assign([value * self.calls_per_step, 0])

    def next_place(self, batch: Any) -> tuple[Any, Any]:
        """Count a call with ``batch`` samples; returns its step and the ids of its samples."""
        calls = Calls(*(ops.cast(part, "int32") for part in ops.unstack(self.count.value, 2)))
        step, first = calls.place(per_step=self.calls_per_step, xp=ops)
        after = calls.after(batch, per_step=self.calls_per_step, xp=ops)
        self.count.assign(ops.cast(ops.stack(after), self.count.dtype))
        number, replicas = replica()
        rows = first + ops.arange(batch, dtype="int32")
        return step, rows * replicas + number

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
        """``add_noise`` in training; its arguments have the same meaning here."""
        if step is None and training:
            batch = ops.shape(x)[0] if len(x.shape) == 3 else 1
            step, samples = self.next_place(batch)
            sample_ids = samples if sample_ids is None else sample_ids
        noisy = add_noise(
            x,
            self.noise,
            step=0 if step is None else step,
            training=bool(training),
            mask=mask,
            segment_ids=segment_ids,
            positions=positions,
            sample_ids=sample_ids,
            where=where,
        )
        if training:
            self.report(x, noisy, step)
        return noisy

    def report(self, x: Any, noisy: Any, step: Any) -> None:
        """Keep how large the noise of a call is, if somebody wants to know: see ``NoiseReport``."""
        if not self.reporting:
            return
        x = ops.cast(x, "float32")
        noise = ops.cast(noisy, "float32") - x
        noised = ops.any(noise != 0, axis=-1, keepdims=True)
        squares = ops.sum(ops.where(noised, ops.square(x), 0.0))
        mean = ops.sum(ops.square(noise)) / ops.maximum(squares, 1e-30)
        self.ratio.assign(ops.stop_gradient(ops.sqrt(mean)))
        self.last_step.assign(ops.cast(step, self.last_step.dtype))

    def compute_output_spec(self, x: Any, **_: Any) -> Any:
        """The spec of ``x``."""
        return keras.KerasTensor(x.shape, dtype=x.dtype)

    def get_config(self) -> dict[str, Any]:
        """The layer's arguments, JSON-ready.

        Raises:
            TypeError: the noise's alpha is a callable that JSON has no form for.
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
