"""The driver of ``embnoise.testing`` for Keras, on whichever backend it runs."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from typing import Any

import keras
import numpy as np
from keras import ops
from numpy.typing import NDArray

from embnoise.testing.drivers import named, signature_of

__all__ = ["KerasDriver", "driver"]

Call = Callable[..., Any]
Pairs = list[tuple[Any, Any]]
"""What a gradient is of, and the gradient: ``None`` where nothing flows."""


class KerasDriver:
    """A layer is a ``keras.layers.Layer`` or ``keras.Model``, or names ``training``.

    It is made under the dtype policy of the embeddings' dtype, since a Keras layer casts what it is
    given. The compiler is that of ``fit``: ``tf.function`` or ``jax.jit``; none with PyTorch.
    """

    name = "keras"
    dtypes = {  # noqa: RUF012, nobody's to change
        "embeddings": ("float32", "bfloat16", "float16"),
        "ids": ("float32", "bfloat16", "float16"),
    }
    examples = 3  # each new shape is compiled

    def __init__(self) -> None:
        backend = keras.backend.backend()
        if backend not in _BACKENDS:
            raise ValueError(f"the Keras backend must be one of {list(_BACKENDS)}, got {backend!r}")
        self._backend = _BACKENDS[backend]()
        for name in ("compile", "without_gradients"):  # those that it has
            if hasattr(self._backend, name):
                setattr(self, name, getattr(self._backend, name))

    def make(self, make_layer: Call, *, dtype: str, dim: int, alpha: Any, seed: int) -> Any:
        before = keras.config.dtype_policy()
        keras.config.set_dtype_policy(dtype)
        try:
            return make_layer(dim=dim, alpha=alpha, seed=seed)
        finally:
            keras.config.set_dtype_policy(before)

    def call(self, layer: Any, inputs: Any, **keywords: Any) -> Any:
        if isinstance(layer, keras.Layer):
            # Its __call__ always takes `training`, and hands it on to the layers within.
            given = named(layer.call, keywords) | {"training": keywords["training"]}
        else:
            given = named(signature_of(layer), keywords)
        return layer(inputs, **given)

    def to_numpy(self, array: Any) -> NDArray[Any]:
        copy = np.array(ops.convert_to_numpy(array))
        return copy.astype(np.float32) if copy.dtype.name == "bfloat16" else copy

    def from_numpy(self, array: NDArray[Any], dtype: str | None = None) -> Any:
        copy = np.array(array)
        return ops.convert_to_tensor(copy if dtype is None else ops.cast(copy, dtype))

    def gradient(
        self, call: Call, layer: Any, inputs: Any, weights: Any, *, of: str
    ) -> list[NDArray[Any]]:
        def total(inputs: Any) -> Any:
            output = call(layer, inputs)
            return ops.sum(output * ops.cast(weights, output.dtype))

        find = getattr(self._backend, f"of_{of}")
        return [
            self.to_numpy(ops.zeros_like(source) if gradient is None else gradient)
            for source, gradient in find(total, layer, inputs)
        ]

    def seed(self, seed: int) -> None:
        """``keras.utils.set_random_seed``, and what of the backend's it leaves out."""
        keras.utils.set_random_seed(seed)
        self._backend.seed(seed)

    def random_state(self) -> bytes:
        """Draws from Keras's generator, and the state of the backend's."""
        drawn = self.to_numpy(keras.random.uniform((4,)))
        return bytes(drawn) + bytes(self._backend.random_state())

    def state(self, layer: Any) -> dict[str, NDArray[Any]]:
        """The weights, which ``model.save`` writes: not the state of random generators."""
        return {
            weight.path.replace("/", "."): self.to_numpy(weight.value)
            for weight in getattr(layer, "weights", ())
        }


class _TensorFlow:
    def seed(self, seed: int) -> None:
        import tensorflow as tf  # noqa: PLC0415, the backend that is there

        # Keras sets that of tf.random's functions, which this generator does not follow.
        tf.random.get_global_generator().state.assign([seed, 0, 0])

    def random_state(self) -> bytes:
        import tensorflow as tf  # noqa: PLC0415

        state = tf.random.get_global_generator().state
        return bytes(tf.random.uniform((4,)).numpy()) + bytes(state.numpy())

    def of_inputs(self, total: Call, layer: Any, inputs: Any) -> Pairs:
        import tensorflow as tf  # noqa: PLC0415

        with tf.GradientTape() as tape:
            tape.watch(inputs)
            loss = total(inputs)
        return [(inputs, tape.gradient(loss, inputs))]

    def of_parameters(self, total: Call, layer: Any, inputs: Any) -> Pairs:
        import tensorflow as tf  # noqa: PLC0415

        with tf.GradientTape() as tape:
            loss = total(inputs)
        sources = [variable.value for variable in _trainable(layer)]
        # The gradient of a lookup is that of the rows that were looked up.
        return [
            (source, gradient if gradient is None else tf.convert_to_tensor(gradient))
            for source, gradient in zip(sources, tape.gradient(loss, sources), strict=True)
        ]

    def compile(self, call: Call) -> Call:
        """``tf.function``, traced for each mode; the step is a tensor."""
        import tensorflow as tf  # noqa: PLC0415

        compiled: dict[int, Any] = {}

        def run(layer: Any, inputs: Any, **keywords: Any) -> Any:
            if id(layer) not in compiled:
                compiled[id(layer)] = tf.function(partial(call, layer), reduce_retracing=True)
            if "step" in keywords:
                keywords["step"] = tf.constant(keywords["step"])
            keras.random.uniform(())  # makes Keras's generator, which a trace must not do
            return compiled[id(layer)](inputs, **keywords)

        return run


class _Jax:
    """State goes through as values, in a ``StatelessScope``, as in Keras's ``fit``."""

    def seed(self, seed: int) -> None:
        """JAX has no global random state."""

    def random_state(self) -> bytes:
        return b""

    def of_inputs(self, total: Call, layer: Any, inputs: Any) -> Pairs:
        import jax  # noqa: PLC0415, the backend that is there

        _build(layer, lambda: total(inputs))
        state = _variables(layer)
        pure = _pure(total, state)
        gradient, after = jax.grad(pure, argnums=1, has_aux=True)(_values(state), inputs)
        _assign(state, after)
        return [(inputs, gradient)]

    def of_parameters(self, total: Call, layer: Any, inputs: Any) -> Pairs:
        import jax  # noqa: PLC0415

        _build(layer, lambda: total(inputs))
        trainable = _trainable(layer)
        if not trainable:
            return []
        others = _others(layer)
        pure = _pure(total, trainable + others)

        def loss(trained: list[Any], rest: list[Any]) -> Any:
            return pure(trained + rest, inputs)

        sources = _values(trainable)
        gradients, after = jax.grad(loss, has_aux=True)(sources, _values(others))
        _assign(others, after[len(trainable) :])
        return list(zip(sources, gradients, strict=True))

    def compile(self, call: Call) -> Call:
        """``jax.jit``, traced for each mode; the step is traced."""
        import jax  # noqa: PLC0415

        compiled: dict[int, Any] = {}

        def jitted(layer: Any) -> Any:
            def with_mode(
                values: list[Any], inputs: Any, keywords: dict[str, Any], **mode: bool
            ) -> Any:
                return _pure(partial(call, layer), _variables(layer))(
                    values, inputs, **keywords, **mode
                )

            return jax.jit(with_mode, static_argnames="training")

        def run(layer: Any, inputs: Any, **keywords: Any) -> Any:
            if id(layer) not in compiled:
                _build(layer, lambda: call(layer, inputs, **keywords))
                compiled[id(layer)] = jitted(layer)
            mode = {name: keywords.pop(name) for name in ("training",) if name in keywords}
            state = _variables(layer)
            output, after = compiled[id(layer)](_values(state), inputs, keywords, **mode)
            _assign(state, after)
            return output

        return run


def _pure(function: Call, variables: list[Any]) -> Call:
    """A function of the variables' values besides, which gives those after it, too."""

    def pure(values: list[Any], *arguments: Any, **keywords: Any) -> tuple[Any, list[Any]]:
        known = list(zip(variables, values, strict=True))
        with keras.StatelessScope(state_mapping=known) as scope:
            output = function(*arguments, **keywords)
        return output, [scope.get_current_value(variable) for variable in variables]

    return pure


def _build(layer: Any, call: Callable[[], Any]) -> None:
    """Build a layer by a call that leaves nothing else behind: no variables are made in a trace."""
    if not getattr(layer, "built", True):
        with keras.StatelessScope():
            call()


def _variables(layer: Any) -> list[Any]:
    """All state of a layer, that of random generators included; of a function, none."""
    return list(getattr(layer, "variables", ()))


def _trainable(layer: Any) -> list[Any]:
    return list(getattr(layer, "trainable_variables", ()))


def _others(layer: Any) -> list[Any]:
    trainable = {id(variable) for variable in _trainable(layer)}
    return [variable for variable in _variables(layer) if id(variable) not in trainable]


def _values(variables: list[Any]) -> list[Any]:
    return [variable.value for variable in variables]


def _assign(variables: list[Any], values: list[Any]) -> None:
    for variable, value in zip(variables, values, strict=True):
        variable.assign(value)


class _Torch:
    def seed(self, seed: int) -> None:
        """Keras has set it."""

    def random_state(self) -> bytes:
        import torch  # noqa: PLC0415, the backend that is there

        return bytes(torch.get_rng_state().numpy())

    def of_inputs(self, total: Call, layer: Any, inputs: Any) -> Pairs:
        # A layer may add in place, which a leaf that trains does not allow.
        return self._gradients(total(inputs.requires_grad_() * 1), [inputs])

    def of_parameters(self, total: Call, layer: Any, inputs: Any) -> Pairs:
        loss = total(inputs)
        return self._gradients(loss, _values(_trainable(layer)))

    @staticmethod
    def _gradients(loss: Any, sources: list[Any]) -> Pairs:
        import torch  # noqa: PLC0415

        if not loss.requires_grad or not sources:
            return [(source, None) for source in sources]
        found = torch.autograd.grad(loss, sources, allow_unused=True)
        return list(zip(sources, found, strict=True))

    def without_gradients(self) -> Any:
        """``torch.no_grad()``."""
        import torch  # noqa: PLC0415

        return torch.no_grad()


_BACKENDS: dict[str, type[Any]] = {"tensorflow": _TensorFlow, "jax": _Jax, "torch": _Torch}

driver = KerasDriver()
