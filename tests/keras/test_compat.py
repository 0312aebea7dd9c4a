"""The private parts of Keras in ``embnoise_keras._compat``: what to do when Keras changes them."""

from types import SimpleNamespace

import keras
import pytest

from embnoise_keras import _compat
from tests.keras.models import fit, functional, sequential

JAX = keras.backend.backend() == "jax"


def changed(part, function):
    return f"Keras changed {part}; adapt {function} in backends/embnoise_keras/_compat.py"


def test_layers_at_any_depth():
    inner = sequential()
    outer = keras.Sequential([keras.Input((5,), dtype="int32"), inner])
    hint = changed("Layer._flatten_layers", "all_layers")
    assert callable(getattr(outer, "_flatten_layers", None)), hint
    found = _compat.all_layers(outer)
    assert found[0] is outer, hint
    assert all(layer in found for layer in inner.layers), hint


class Stateful(keras.layers.Layer):
    """A layer whose state is no weight."""

    def __init__(self):
        super().__init__()
        self.state = SimpleNamespace(variable=keras.Variable(0, trainable=False))

    @property
    def variables(self):
        return [self.state.variable]


def test_a_hidden_layer_has_state_that_is_passed_on_but_not_saved(tmp_path):
    hint = changed("Layer._layers", "add_hidden_layer and remove_hidden_layer")
    model, hidden = functional(), Stateful()
    embedding = model.layers[1]
    weights = [weight.path for weight in model.weights]
    _compat.add_hidden_layer(embedding, hidden)
    state = [id(variable) for variable in model.non_trainable_variables]
    assert id(hidden.state.variable) in state, hint
    assert hidden in _compat.all_layers(model), hint
    assert [weight.path for weight in model.weights] == weights, hint
    model.save(tmp_path / "model.keras")
    loaded = keras.models.load_model(tmp_path / "model.keras")
    assert len(_compat.all_layers(loaded)) == len(_compat.all_layers(model)) - 1, hint
    _compat.remove_hidden_layer(embedding, hidden)
    assert model.non_trainable_variables == [], hint


def test_fit_traces_anew_when_its_function_is_forgotten():
    hint = changed("Model.train_function", "forget_train_function")
    model = sequential()
    model.compile("sgd", "mse")
    _compat.forget_train_function(keras.layers.Dense(1))
    model.make_train_function()
    before = getattr(model, "train_function", None)
    assert before is not None, hint
    model.make_train_function()
    assert model.train_function is before, hint
    _compat.forget_train_function(model)
    model.make_train_function()
    assert model.train_function not in (None, before), hint


@pytest.mark.skipif(not JAX, reason="JAX's fit alone keeps the state to itself")
def test_fit_with_jax_takes_the_values_of_variables_until_they_are_synced():
    model = sequential()
    model.compile("sgd", "mse")
    seen = []

    class Watch(keras.callbacks.Callback):
        def on_train_batch_end(self, batch, logs=None):
            seen.append(_compat.has_value(model.weights[0]))
            _compat.sync_state(model)
            seen.append(_compat.has_value(model.weights[0]))

    fit(model, callbacks=[Watch()])
    assert seen == [False, True] * 2, changed(
        "Model.jax_state_sync, or Variable._value", "sync_state and has_value"
    )


def test_variables_have_values():
    assert _compat.has_value(keras.Variable(0.0)), changed("Variable._value", "has_value")
    _compat.sync_state(sequential())
