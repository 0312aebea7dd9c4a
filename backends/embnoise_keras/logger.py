"""How large the noise is, in the logs of ``fit``."""

from __future__ import annotations

import warnings
from typing import Any

import keras

from embnoise.backend import philox_key
from embnoise_keras._compat import forget_train_function
from embnoise_keras.handle import name_of, noise_layers

__all__ = ["NoiseLogger"]


class NoiseLogger(keras.callbacks.Callback):  # type: ignore[misc]
    """Adds ``noise_alpha`` and ``noise_ratio`` to the logs at the end of every epoch.

    Both describe the last training call of the epoch: alpha at its step, and the RMS of the noise
    over the RMS of the embeddings that got it. If a model has several noise layers, the log names
    of the second and later ones end in the layer's name, as in ``noise_alpha_image``; where noise
    is attached, in that of the embedding. Logging costs a pass over the embeddings per step.

    Raises:
        ValueError: The model that ``fit`` is called on has no noise.

    Warns:
        RuntimeWarning: Noise layers have the same seed and stream, so they draw the same noise.

    Example:
        >>> import keras, numpy as np
        >>> from embnoise import neftune
        >>> from embnoise_keras import EmbeddingNoise, NoiseLogger
        >>> layers = [keras.layers.Embedding(10, 8), EmbeddingNoise(neftune(5.0))]
        >>> model = keras.Sequential([*layers, keras.layers.Flatten(), keras.layers.Dense(1)])
        >>> model.compile("sgd", "mse")
        >>> ids, targets = np.ones((4, 3), "int32"), np.ones((4, 1))
        >>> history = model.fit(ids, targets, verbose=0, callbacks=[NoiseLogger()])
        >>> history.history["noise_alpha"], history.history["noise_ratio"][0] > 0
        ([5.0], True)
    """

    def set_model(self, model: Any) -> None:
        """Make the model's noise layers record their calls."""
        super().set_model(model)
        self._layers = noise_layers(model)
        if not self._layers:
            raise ValueError(
                "model has no noise to log; add an EmbeddingNoise layer, or attach noise to it"
            )
        # Now, since a handle may be removed before the end of an epoch.
        self._names = [name_of(layer) for layer in self._layers]
        self._warn_of_equal_streams()
        for layer in self._layers:
            layer._record()
        forget_train_function(model)  # what is compiled records, or does not

    def _warn_of_equal_streams(self) -> None:
        names: dict[tuple[int, int], list[str]] = {}
        for name, layer in zip(self._names, self._layers, strict=True):
            names.setdefault(philox_key(layer.noise), []).append(name)
        equal = [each for each in names.values() if len(each) > 1]
        if equal:
            warnings.warn(
                f"embnoise: the layers {equal[0]} draw the same noise, since their seed and their "
                "stream are the same: give the noise of each another stream=, or filter this "
                "warning if they are to share it",
                RuntimeWarning,
                stacklevel=2,
            )

    def on_epoch_end(self, epoch: int, logs: dict[str, Any] | None = None) -> None:
        """Add the figures to the logs."""
        if logs is None:
            return
        for number, (name, layer) in enumerate(zip(self._names, self._layers, strict=True)):
            suffix = "" if number == 0 else f"_{name}"
            last = layer.last_call
            logs[f"noise_alpha{suffix}"] = float(layer.noise.alpha_at(last.step))
            logs[f"noise_ratio{suffix}"] = last.ratio

    def on_train_end(self, logs: dict[str, Any] | None = None) -> None:
        """Stop recording."""
        for layer in self._layers:
            layer.last_call.recording = False
        forget_train_function(self._model)
