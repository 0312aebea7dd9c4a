"""``add_noise`` for the tensors of whichever backend Keras runs on."""

from __future__ import annotations

from importlib import import_module
from typing import Any

import keras
import numpy as np

from embnoise.backend import Noise, format_value

__all__ = ["add_noise", "refuse_ragged"]

_MODULES = {
    "tensorflow": "embnoise_keras.tensorflow",
    "jax": "embnoise_jax",
    "torch": "embnoise_torch",
}


def refuse_ragged(x: Any, what: str = "x") -> None:
    """Raise for a ragged tensor of TensorFlow, or one in the graph of a functional model."""
    if type(x).__name__ == "RaggedTensor" or getattr(x, "ragged", False):
        raise TypeError(
            f"{what} must be dense, got a ragged tensor of shape {tuple(x.shape)}; call "
            "to_tensor() and pass the mask"
        )


def _backend_add_noise() -> Any:
    backend = keras.backend.backend()
    if backend not in _MODULES:
        raise ValueError(f"the Keras backend must be one of {list(_MODULES)}, got {backend!r}")
    return import_module(_MODULES[backend]).add_noise


def add_noise(
    x: Any,
    noise: Noise,
    *,
    step: Any,
    training: bool = True,
    mask: Any = None,
    segment_ids: Any = None,
    positions: Any = None,
    sample_ids: Any = None,
    where: Any = None,
) -> Any:
    """Add noise to embeddings: a pure function of its arguments, with gradient 1.

    Takes and returns tensors of the backend that Keras runs on: TensorFlow, JAX or PyTorch. It
    works eagerly and in compiled code: ``tf.function``, with XLA or without, and ``jax.jit``.

    Args:
        x: Embeddings [B, L, d], or [L, d] taken as B = 1; float16, bfloat16, float32 or float64.
        noise: What noise to add. Its alpha may be a Keras ``LearningRateSchedule``.
        step: The training step, at least 0, counted modulo 2**32: an int, or an integer tensor or
            variable of one element, such as ``optimizer.iterations`` (which has no value inside
            ``fit`` with JAX). Each step draws new noise; the same step, with the same sample ids,
            repeats it.
        training: If false, ``x`` is returned as it is.
        mask: Boolean or integer [B, L], nonzero for a real token. Default: all tokens are real.
        segment_ids: Integers [B, L], 0 for padding, equal positive values for one document of a
            packed row. Negative values are documents too, or an error where they are known: use
            0 for padding.
        positions: Integers [B, L]. Default: the number of real tokens that precede a token in its
            row, or in its segment if ``segment_ids`` and per-token ``sample_ids`` are both given.
            Counted modulo 2**32.
        sample_ids: Integers [B] or [B, L]. Default: the row number. Counted modulo 2**32.
        where: Boolean or integer [B, L], nonzero for the tokens to noise. Default: all real
            tokens. It does not change L.

    Returns:
        A new tensor of x's shape and dtype; ``x`` itself if there is known to be nothing to add:
        not training, alpha 0, or no token.

    Raises:
        TypeError: An argument of the wrong type or dtype.
        ValueError: An argument of the wrong shape or, if its value is known, out of range; an
            unbound schedule; another Keras backend.

    Example:
        >>> import keras
        >>> from embnoise import neftune
        >>> from embnoise_keras import add_noise
        >>> x = keras.ops.zeros((2, 4, 8))
        >>> noisy = add_noise(x, neftune(alpha=5.0), step=3)
        >>> bool(keras.ops.max(abs(noisy)) <= 5 / (4 * 8) ** 0.5)
        True
        >>> add_noise(x, neftune(alpha=5.0), step=3, training=False) is x
        True
    """
    if isinstance(step, keras.Variable):  # such as the iterations of an optimizer
        step = step.value
    if isinstance(x, keras.Variable):  # such as a prompt that is learned
        x = x.value
    if isinstance(x, np.ndarray | list | tuple):
        raise TypeError(
            f"x must be a tensor of Keras's backend, {keras.backend.backend()}, got "
            f"{format_value(x)}; pass keras.ops.convert_to_tensor(x), or call embnoise.add_noise, "
            "which takes NumPy's arrays"
        )
    return _backend_add_noise()(
        x,
        noise,
        step=step,
        training=training,
        mask=mask,
        segment_ids=segment_ids,
        positions=positions,
        sample_ids=sample_ids,
        where=where,
    )
