"""How large the noise is, in the logs of ``fit``."""

from __future__ import annotations

from typing import Any

import keras

from embnoise_keras.layer import EmbeddingNoise

__all__ = ["NoiseReport"]


class NoiseReport(keras.callbacks.Callback):  # type: ignore[misc]
    """Adds ``noise_alpha`` and ``noise_ratio`` to the logs at the end of every epoch.

    Both are those of the epoch's last training call: alpha, and the RMS of the noise over the RMS
    of the embeddings that got it. Where a model has several noises, the logs of the others carry
    the layer's name too, as in ``noise_alpha_image``. It costs a pass over the embeddings per step.

    Raises:
        ValueError: the model that ``fit`` is called on has no noise.

    Example:
        >>> import keras, numpy as np
        >>> from embnoise import neftune
        >>> from embnoise_keras import EmbeddingNoise, NoiseReport
        >>> layers = [keras.layers.Embedding(10, 8), EmbeddingNoise(neftune(5.0))]
        >>> model = keras.Sequential([*layers, keras.layers.Flatten(), keras.layers.Dense(1)])
        >>> model.compile("sgd", "mse")
        >>> ids, targets = np.ones((4, 3), "int32"), np.ones((4, 1))
        >>> history = model.fit(ids, targets, verbose=0, callbacks=[NoiseReport()])
        >>> history.history["noise_alpha"], history.history["noise_ratio"][0] > 0
        ([5.0], True)
    """

    def set_model(self, model: Any) -> None:
        """Ask the model's noises to keep their figures."""
        super().set_model(model)
        layers = model._flatten_layers()
        self._noises = [layer for layer in layers if isinstance(layer, EmbeddingNoise)]
        if not self._noises:
            raise ValueError("model must have noise, an EmbeddingNoise or attached, to report on")
        self._report(True)

    def on_epoch_end(self, epoch: int, logs: dict[str, Any] | None = None) -> None:
        """Add the figures to the logs."""
        assert self.model is not None  # and, with JAX, its state is up to date now
        if logs is None:
            return
        for number, layer in enumerate(self._noises):
            name = "" if number == 0 else f"_{layer.name}"
            logs[f"noise_alpha{name}"] = float(layer.noise.alpha_at(int(layer.last_step)))
            logs[f"noise_ratio{name}"] = float(layer.ratio)

    def on_train_end(self, logs: dict[str, Any] | None = None) -> None:
        """Leave the noises as they were."""
        self._report(False)

    def _report(self, reporting: bool) -> None:
        for layer in self._noises:
            layer.reporting = reporting
        self._model.train_function = None  # what was compiled before does not know of it
