"""The private parts of Keras that this adapter uses, each behind a function, with the reason.

The graphs of functional models are in ``_compat_graph``.

``tests/keras/test_compat.py`` says which function here to adapt when Keras changes one of them.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from inspect import signature
from typing import Any

import keras
import numpy as np
from keras.src.backend.common.global_state import get_global_attribute, set_global_attribute
from keras.src.backend.common.masking import get_keras_mask, set_keras_mask
from keras.src.backend.common.stateless_scope import get_stateless_scope, in_stateless_scope
from numpy.typing import NDArray

__all__ = [
    "add_state",
    "all_layers",
    "forget_train_function",
    "has_value",
    "is_mapped",
    "is_repeated_in",
    "is_traced_apart",
    "kept_global_generator",
    "keras_mask",
    "known_value",
    "may_be_default",
    "outlives",
    "refuse_recomputed",
    "remove_state",
    "run_layer_test",
    "states",
    "sync_state",
    "takes_gradients",
    "tracing",
    "untold_model",
    "with_keras_mask",
]


def all_layers(model: Any) -> list[Any]:
    """The model and the layers in it at any depth; ``Model.layers`` is the top level alone."""
    return list(model._flatten_layers())


def add_state(owner: Any, state: Any) -> None:
    """Make a ``State`` part of the state of the layer ``owner``.

    Compiled code then gets and returns its value. An attribute would do that too, but Keras allows
    none on a layer that is built. A layer inside ``owner`` would do it as well, but Keras
    quantizes no layer that has layers inside.
    """
    owner._seed_generators.append(state)


def remove_state(owner: Any, state: Any) -> None:
    """Undo ``add_state``."""
    owner._seed_generators.remove(state)


def states(owner: Any) -> list[Any]:
    """The random generators of a layer, and what ``add_state`` added to them."""
    return list(owner._seed_generators)


def run_layer_test(make: Callable[..., Any], **expected: Any) -> None:
    """Keras's own test of layers, which its wheel contains and its documentation does not.

    Args:
        make: What makes a layer; it need not be a class. It takes ``dtype``, a policy.
        **expected: What ``TestCase.run_layer_test`` takes.
    """
    from keras.src.testing import TestCase  # noqa: PLC0415, training does without

    TestCase("run_layer_test").run_layer_test(make, {}, **expected)


def forget_train_function(model: Any) -> None:
    """Make ``fit`` trace its training step again, also one that is running."""
    if isinstance(model, keras.Model) and model.train_function is not None:
        model.train_function = None
        model.make_train_function()


def refuse_recomputed(layer: Any) -> None:
    """Raise if ``keras.RematScope`` recomputes a layer, of which Keras tells by a private name."""
    scope = getattr(layer, "_remat_mode", None)
    if scope is None or scope.mode == "activations":  # those alone
        return
    if scope.mode != "list_of_layers" or layer.name in scope.layer_names:
        raise ValueError(
            f"{layer.name!r} is in a keras.RematScope, and what it recomputes would draw "
            "other noise: make it outside of the scope"
        )


def outlives(tensor: Any, ids: Any) -> bool:
    """Whether a tensor has a value while ids are traced by TensorFlow, which would keep it."""
    if keras.backend.backend() != "tensorflow":
        return False
    import tensorflow as tf  # noqa: PLC0415, only on this backend

    known = tf.is_tensor(tensor) and not tf.is_symbolic_tensor(tensor)
    return bool(known and tf.is_symbolic_tensor(ids))


def tracing() -> Any:
    """What records the running operations: a graph of TensorFlow, a trace of JAX, or nothing."""
    backend = keras.backend.backend()
    if backend == "tensorflow":
        import tensorflow as tf  # noqa: PLC0415, only on this backend

        return None if tf.executing_eagerly() else tf.compat.v1.get_default_graph()
    # JAX does not document where a traced array keeps it.
    return getattr(keras.ops.zeros(()), "_trace", None) if backend == "jax" else None


def is_repeated_in(outer: Any) -> bool:
    """Whether what is recorded may run repeatedly while what ``tracing`` told before runs once.

    That is so in the loops of TensorFlow, and in whatever JAX traces by itself: the values there
    are not known outside.
    """
    inner = tracing()
    if keras.backend.backend() != "tensorflow":
        return inner is not outer
    while inner is not None and inner is not outer:
        if type(inner).__name__ == "WhileBodyFuncGraph":
            return True
        inner = getattr(inner, "outer_graph", None)
    return False


def is_traced_apart(variable: Any) -> bool:
    """With JAX, whether what runs is traced by itself, without ``variable``, which would be lost.

    That is so in loops, in branches, and in a ``jax.jit`` around a call that is not stateless. A
    stateless call in there returns its state, and traces one of the values that it was given, or
    was given none that is traced.
    """
    if keras.backend.backend() != "jax":
        return False
    now, value = keras.ops.zeros(()), variable.value
    trace = getattr(now, "_trace", None)
    if trace is None or getattr(value, "_trace", None) is trace:
        return False
    if not in_stateless_scope():
        return True
    if type(value) is not type(now):
        return False  # mapped inside of what is traced, or not traced
    given = get_stateless_scope().state_mapping.values()
    return all(getattr(each, "_trace", None) is not trace for each in given)


def is_mapped(tensor: Any, state: Any) -> bool:
    """Whether a tensor is a row in ``ops.vectorized_map``, while ``state`` is that of all rows."""
    backend = keras.backend.backend()
    if backend == "tensorflow":
        import tensorflow as tf  # noqa: PLC0415, only on this backend

        return "loop_body" in tf.get_current_name_scope().split("/")
    if backend == "torch":
        import torch  # noqa: PLC0415

        batched = torch._C._functorch.is_batchedtensor
        return bool(batched(tensor) and not batched(state))
    return type(tensor).__name__ == "BatchTracer" != type(state).__name__


def known_value(tensor: Any) -> NDArray[Any] | None:
    """The value of a tensor; ``None`` if it is traced, or its computation is."""
    if tracing() is not None:
        return None
    if keras.backend.backend() == "torch":
        import torch  # noqa: PLC0415, only on this backend

        if torch.compiler.is_compiling():
            return None
    try:
        return np.asarray(keras.ops.convert_to_numpy(tensor))
    except (TypeError, RuntimeError):  # a row of a function that JAX or PyTorch maps
        return None


def sync_state(model: Any) -> None:
    """Bring the variables up to date: with JAX, ``fit`` keeps their values between batches."""
    if hasattr(model, "jax_state_sync"):
        model.jax_state_sync()


def has_value(variable: Any) -> bool:
    """Whether a variable has a value: with JAX, ``fit`` takes it away until ``sync_state``.

    Until then Keras reads such a variable as its initial value, without an error.
    """
    return variable._value is not None


@contextmanager
def kept_global_generator() -> Iterator[None]:
    """Leave Keras without a global random generator if it has none yet.

    One that is made while functions are traced has no value later.
    """
    name = "global_seed_generator"
    before = get_global_attribute(name)
    try:
        yield
    finally:
        set_global_attribute(name, before)


def keras_mask(tensor: Any) -> Any:
    """The mask that Keras passes on with a tensor, or ``None``.

    Keras hands it to a layer's ``call`` only if the layer has one tensor argument. It is an
    attribute of the tensor, but JAX's tracers take none, so Keras keeps theirs in a table.
    """
    return get_keras_mask(tensor)


def with_keras_mask(tensor: Any, like: Any) -> Any:
    """The tensor, with the mask that Keras passes on with another one.

    The layers that it is passed to look for it there.
    """
    if keras_mask(like) is not None:
        set_keras_mask(tensor, keras_mask(like))
    return tensor


def takes_gradients(variable: Any) -> bool:
    """With JAX, whether the running stateless call is differentiated: whether ``fit`` trains.

    Then JAX traces the trainable variables otherwise than ``variable``, which no gradient is taken
    of. Keras does not tell a layer, unless the model's ``call`` hands ``training`` on.
    """
    if keras.backend.backend() != "jax" or not in_stateless_scope():
        return False
    scope = get_stateless_scope()
    kind = type(scope.get_current_value(variable))
    return any(type(value) is not kind for value in scope.state_mapping.values())


def may_be_default() -> bool:
    """Whether the running call may be clean since ``training=False`` is a default, not passed.

    Keras fills in that of the outermost layer that it runs, and tells nobody whether it did. With
    JAX, ``fit`` runs the model by itself, so this is a layer in it.
    """
    context = get_global_attribute("current_call_ctx")
    if context is None:
        return False
    training = signature(context.entry_layer.call).parameters.get("training")
    return training is not None and training.default is False


def untold_model() -> Any:
    """The model that ``fit`` trains, if its ``call`` has no argument ``training``, or ``None``.

    Keras then tells none of its layers that it trains. With JAX, see ``takes_gradients``.
    """
    model: Any = getattr(get_global_attribute("current_call_ctx"), "entry_layer", None)
    if getattr(model, "train_function", None) is None or not _is_recorded():
        return None
    return None if "training" in signature(model.call).parameters else model


def _is_recorded() -> bool:
    """Whether what runs is recorded for gradients, unlike in ``evaluate``."""
    if keras.backend.backend() == "tensorflow":
        from tensorflow.python.eager import record  # noqa: PLC0415, only on this backend

        return bool(record.could_possibly_record())
    if keras.backend.backend() == "torch":
        import torch  # noqa: PLC0415

        return torch.is_grad_enabled()
    return False
