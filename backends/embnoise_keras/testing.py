"""The driver of ``embnoise.testing`` for Keras, on the backend that Keras runs on."""

from __future__ import annotations

import warnings
from collections.abc import Callable
from contextlib import AbstractContextManager
from functools import partial
from typing import Any

import keras
import numpy as np
from keras import ops
from numpy.typing import NDArray

from embnoise.backend import format_value
from embnoise.testing.drivers import DriverBase, NativeArray, NativeLayer, named, signature_of
from embnoise_keras._compat import all_layers, run_layer_test

__all__ = ["KerasDriver", "driver"]

Call = Callable[..., Any]
Pairs = list[tuple[Any, Any]]
"""Sources and their gradients: ``None`` for a source that no gradient reaches."""


class KerasDriver(DriverBase):
    """A layer is a ``keras.Layer`` or ``keras.Model``, or a function that names ``training``.

    Layers are made under the dtype policy of the embeddings' dtype, since a Keras layer casts its
    inputs. The compiler is that of ``fit``: ``tf.function`` or ``jax.jit``; with PyTorch there is
    none.

    This class holds what the backends share; each backend has a subclass.
    """

    name = "keras"
    dtypes = ("float32", "bfloat16", "float16")
    ids_dtypes = dtypes
    examples = 3  # each new shape is compiled

    def make(self, make_layer: Call, *, dtype: str, dim: int, alpha: Any, seed: int) -> Any:
        """The layer, made under the dtype policy."""
        before = keras.config.dtype_policy()
        keras.config.set_dtype_policy(dtype)
        try:
            return make_layer(dim=dim, alpha=alpha, seed=seed)
        finally:
            keras.config.set_dtype_policy(before)

    def call(self, layer: NativeLayer, inputs: NativeArray, **keywords: Any) -> Any:
        """The output; ``training`` is passed to every Keras layer."""
        if isinstance(layer, keras.Layer):
            # Its __call__ always takes `training`, and passes it on to the layers inside.
            given = named(layer.call, keywords) | {"training": keywords["training"]}
        else:
            given = named(signature_of(layer), keywords)
        with warnings.catch_warnings():
            # A functional or sequential model passes a mask on to its layers, then says that it
            # does not pass it on to what comes after.
            warnings.filterwarnings("ignore", ".*this layer does not support masking")
            return layer(inputs, **given)

    def to_numpy(self, array: NativeArray) -> NDArray[Any]:
        copy = np.array(ops.convert_to_numpy(array))
        return copy.astype(np.float32) if copy.dtype.name == "bfloat16" else copy

    def from_numpy(self, array: NDArray[Any], dtype: str | None = None) -> Any:
        copy = np.array(array)
        return ops.convert_to_tensor(copy if dtype is None else ops.cast(copy, dtype))

    def gradient(
        self, call: Call, layer: NativeLayer, inputs: NativeArray, weights: NativeArray, *, of: str
    ) -> list[NDArray[Any]]:
        def total(inputs: NativeArray) -> Any:
            output = call(layer, inputs)
            return ops.sum(output * ops.cast(weights, output.dtype))

        find = self._of_inputs if of == "inputs" else self._of_parameters
        return [
            self.to_numpy(ops.zeros_like(source) if gradient is None else gradient)
            for source, gradient in find(total, layer, inputs)
        ]

    def _of_inputs(self, total: Call, layer: NativeLayer, inputs: NativeArray) -> Pairs:
        raise NotImplementedError

    def _of_parameters(self, total: Call, layer: NativeLayer, inputs: NativeArray) -> Pairs:
        raise NotImplementedError

    def seed(self, seed: int) -> None:
        """``keras.utils.set_random_seed``."""
        keras.utils.set_random_seed(seed)

    def random_state(self) -> bytes:
        """Four draws from Keras's generator."""
        return bytes(self.to_numpy(keras.random.uniform((4,))))

    def state(self, layer: NativeLayer) -> dict[str, NDArray[Any]]:
        """The weights, which ``model.save`` writes, without the state of random generators."""
        return {
            weight.path.replace("/", "."): self.to_numpy(weight.value)
            for weight in getattr(layer, "weights", ())
        }

    def framework_test(
        self, make: Callable[[str], NativeLayer], inputs: NativeArray, shape: tuple[int, ...]
    ) -> None:
        """Keras's ``run_layer_test``, and the noise of a layer that is made of its configuration.

        A layer that takes a mask is expected to pass it on. The classes of the layer are known
        when it is loaded, as if named in ``custom_objects``.
        """
        layer = make("float32")
        if not isinstance(layer, keras.Layer):
            raise TypeError(f"expected a keras.Layer, got {format_value(layer)}")
        takes_mask = bool(named(layer.call, {"mask": None}))
        known = {type(each).__name__: type(each) for each in all_layers(layer)}
        with warnings.catch_warnings():
            # It trains a layer without weights, on a generator.
            warnings.filterwarnings("ignore", "The model does not have any trainable weights")
            warnings.filterwarnings("ignore", "`shuffle=True` was passed, but will be ignored")
            run_layer_test(
                lambda dtype="float32": make(dtype),
                input_data=inputs,
                call_kwargs={"training": True},
                custom_objects=known,
                expected_output_shape=shape,
                supports_masking=True if takes_mask else None,
            )
        with keras.saving.custom_object_scope(known):
            _keep_noise_in_config(lambda: make("float32"), inputs)


def _keep_noise_in_config(make: Callable[[], NativeLayer], inputs: NativeArray) -> None:
    """Raise if a layer has other noise than the one that ``from_config`` makes.

    ``run_layer_test`` compares their configurations, which may lack the same setting.
    """

    def noisy(make: Callable[[], NativeLayer]) -> NDArray[Any]:
        keras.utils.set_random_seed(0)
        return np.array(ops.convert_to_numpy(make()(inputs, training=True)))

    layer, expected = make(), noisy(make)
    if not np.array_equal(expected, noisy(make)):
        return  # it does not draw the same noise twice
    if not np.array_equal(expected, noisy(lambda: layer.from_config(layer.get_config()))):
        raise AssertionError(
            "the layer that from_config(get_config()) makes adds other noise than the layer itself"
        )


class _OnTensorFlow(KerasDriver):
    def seed(self, seed: int) -> None:
        import tensorflow as tf  # noqa: PLC0415, only on this backend

        super().seed(seed)
        # Keras seeds the functions of tf.random, which this generator does not follow.
        tf.random.get_global_generator().state.assign([seed, 0, 0])

    def random_state(self) -> bytes:
        import tensorflow as tf  # noqa: PLC0415

        state = tf.random.get_global_generator().state
        return (
            super().random_state() + bytes(tf.random.uniform((4,)).numpy()) + bytes(state.numpy())
        )

    def _of_inputs(self, total: Call, layer: NativeLayer, inputs: NativeArray) -> Pairs:
        import tensorflow as tf  # noqa: PLC0415

        with tf.GradientTape() as tape:
            tape.watch(inputs)
            loss = total(inputs)
        return [(inputs, tape.gradient(loss, inputs))]

    def _of_parameters(self, total: Call, layer: NativeLayer, inputs: NativeArray) -> Pairs:
        import tensorflow as tf  # noqa: PLC0415

        with tf.GradientTape() as tape:
            loss = total(inputs)
        sources = [variable.value for variable in _trainable(layer)]
        # The gradient of a lookup is sparse: the rows that were looked up.
        return [
            (source, gradient if gradient is None else tf.convert_to_tensor(gradient))
            for source, gradient in zip(sources, tape.gradient(loss, sources), strict=True)
        ]

    def compile(self, call: Call) -> Call:
        """``tf.function``, traced for each mode; the step is a tensor."""
        import tensorflow as tf  # noqa: PLC0415

        compiled: dict[int, Any] = {}

        def function_of(layer: NativeLayer, *, anew: bool = False) -> Any:
            if anew or id(layer) not in compiled:
                compiled[id(layer)] = tf.function(partial(call, layer), reduce_retracing=True)
            return compiled[id(layer)]

        def run(layer: NativeLayer, inputs: NativeArray, **keywords: Any) -> Any:
            if "step" in keywords:
                keywords["step"] = tf.constant(keywords["step"])
            keras.random.uniform(())  # makes Keras's generator, which a trace must not do
            try:
                return function_of(layer)(inputs, **keywords)
            except AssertionError as error:
                if "variables which have been deleted" not in str(error):
                    raise
            # Keras has another generator whenever it is seeded. A gradient needs the traced one.
            return function_of(layer, anew=True)(inputs, **keywords)

        return run


class _OnJax(KerasDriver):
    """State is passed as values, in a ``StatelessScope``, as in Keras's ``fit``."""

    def _of_inputs(self, total: Call, layer: NativeLayer, inputs: NativeArray) -> Pairs:
        import jax  # noqa: PLC0415, only on this backend

        _build(layer, lambda: total(inputs))
        state = _variables(layer)
        pure = _pure(total, state)
        gradient, after = jax.grad(pure, argnums=1, has_aux=True)(_values(state), inputs)
        _assign(state, after)
        return [(inputs, gradient)]

    def _of_parameters(self, total: Call, layer: NativeLayer, inputs: NativeArray) -> Pairs:
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

        def jitted(layer: NativeLayer) -> Any:
            def with_mode(
                values: list[Any], inputs: NativeArray, keywords: dict[str, Any], **mode: bool
            ) -> Any:
                return _pure(partial(call, layer), _variables(layer))(
                    values, inputs, **keywords, **mode
                )

            return jax.jit(with_mode, static_argnames="training")

        def run(layer: NativeLayer, inputs: NativeArray, **keywords: Any) -> Any:
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
    """The function as one of the variables' values too, which also returns their new values."""

    def pure(values: list[Any], *arguments: Any, **keywords: Any) -> tuple[Any, list[Any]]:
        known = list(zip(variables, values, strict=True))
        with keras.StatelessScope(state_mapping=known) as scope:
            output = function(*arguments, **keywords)
        return output, [scope.get_current_value(variable) for variable in variables]

    return pure


def _build(layer: NativeLayer, call: Callable[[], Any]) -> None:
    """Build a layer by a call without other effects, since a trace must not make variables."""
    if not getattr(layer, "built", True):
        with keras.StatelessScope():
            call()


def _variables(layer: NativeLayer) -> list[Any]:
    """All state of a layer, including that of random generators; none for a function."""
    return list(getattr(layer, "variables", ()))


def _trainable(layer: NativeLayer) -> list[Any]:
    return list(getattr(layer, "trainable_variables", ()))


def _others(layer: NativeLayer) -> list[Any]:
    trainable = {id(variable) for variable in _trainable(layer)}
    return [variable for variable in _variables(layer) if id(variable) not in trainable]


def _values(variables: list[Any]) -> list[Any]:
    return [variable.value for variable in variables]


def _assign(variables: list[Any], values: list[Any]) -> None:
    for variable, value in zip(variables, values, strict=True):
        variable.assign(value)


class _OnTorch(KerasDriver):
    fused = True  # the noise is that of embnoise_torch

    def random_state(self) -> bytes:
        import torch  # noqa: PLC0415, only on this backend

        return super().random_state() + bytes(torch.get_rng_state().numpy())

    def _of_inputs(self, total: Call, layer: NativeLayer, inputs: NativeArray) -> Pairs:
        # A layer may add in place, which a leaf that requires a gradient does not allow.
        return self._gradients(total(inputs.requires_grad_() * 1), [inputs])

    def _of_parameters(self, total: Call, layer: NativeLayer, inputs: NativeArray) -> Pairs:
        loss = total(inputs)
        return self._gradients(loss, _values(_trainable(layer)))

    @staticmethod
    def _gradients(loss: Any, sources: list[Any]) -> Pairs:
        import torch  # noqa: PLC0415

        if not loss.requires_grad or not sources:
            return [(source, None) for source in sources]
        found = torch.autograd.grad(loss, sources, allow_unused=True)
        return list(zip(sources, found, strict=True))

    def without_gradients(self) -> AbstractContextManager[Any]:
        """``torch.no_grad()``."""
        import torch  # noqa: PLC0415

        return torch.no_grad()


_BACKENDS: dict[str, type[KerasDriver]] = {
    "tensorflow": _OnTensorFlow,
    "jax": _OnJax,
    "torch": _OnTorch,
}


def _driver() -> KerasDriver:
    backend = keras.backend.backend()
    if backend not in _BACKENDS:
        raise ValueError(f"the Keras backend must be one of {list(_BACKENDS)}, got {backend!r}")
    return _BACKENDS[backend]()


driver = _driver()
"""The driver for Keras, on the backend that it runs on."""
