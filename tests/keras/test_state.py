"""The state of layers and handles: step, alpha, lookups, pauses, and what is saved of them."""

import json

import keras
import numpy as np
import pytest

import embnoise
from embnoise import linear, neftune
from embnoise.backend import Counter
from embnoise_keras import EmbeddingNoise, NoiseLogger, attach
from tests.keras.models import DIM, IDS, MASK, MODELS, fit, functional, numpy, sequential

BACKEND = keras.backend.backend()
if BACKEND == "tensorflow":
    import tensorflow as tf
NOISE = neftune(alpha=linear(50, 0, 10))
X = np.random.default_rng(0).standard_normal((4, 5, DIM)).astype(np.float32)


def close(left, right):
    np.testing.assert_allclose(numpy(left), numpy(right), rtol=0, atol=1e-5)


def with_layer(build, **options):
    layer = EmbeddingNoise(NOISE, **options)
    return build(layer), layer


def with_handle(build, **options):
    model = build()
    return model, attach(model, NOISE, **options)


tensorflows = pytest.mark.skipif(BACKEND != "tensorflow", reason="it has these checkpoints")
over_owners = pytest.mark.parametrize("noised", [with_layer, with_handle])
over_models = pytest.mark.parametrize("build", MODELS.values(), ids=MODELS)


@over_owners
def test_the_attributes(noised):
    model, owner = noised(functional, calls_per_step=2)
    assert (owner.noise, owner.step, owner.alpha, owner.lookups) == (NOISE, 0, 50.0, 0)
    for _ in range(3):
        model(IDS, training=True)
    assert (owner.step, owner.alpha, owner.lookups) == (1, 45.0, 3)
    model(IDS)
    owner.step = 5
    assert (owner.step, owner.alpha, owner.lookups) == (5, 25.0, 3)


@over_owners
def test_another_step_begins_with_the_first_sample(noised):
    model, owner = noised(functional, calls_per_step=3)
    expected = numpy(model(IDS, training=True))
    model(IDS, training=True)
    owner.step = 1
    owner.step = 0
    close(model(IDS, training=True), expected)


@over_owners
@pytest.mark.parametrize(
    ("step", "kind", "message"),
    [(-1, ValueError, "step must be at least 0"), (1.5, TypeError, "step must be an integer")],
)
def test_a_wrong_step_changes_nothing(noised, step, kind, message):
    model, owner = noised(functional, calls_per_step=2)
    model(IDS, training=True)
    with pytest.raises(kind, match=message):
        owner.step = step
    assert (owner.step, owner.lookups) == (0, 1)


def test_a_step_that_the_count_cannot_hold_is_refused():
    layer = EmbeddingNoise(neftune())
    largest = np.iinfo(layer._count.dtype).max
    with pytest.raises(ValueError, match=f"step must be at most {largest}, got {largest + 1}"):
        layer.step = largest + 1
    layer.step = 2**31 - 1
    assert layer.step == 2**31 - 1


@over_owners
@over_models
@pytest.mark.parametrize("eager", [False, True])
def test_paused_is_clean_and_not_counted_in_fit(noised, build, eager):
    clean = build()
    clean.compile(keras.optimizers.SGD(0.0), "mse", run_eagerly=eager)
    model, owner = noised(build)
    model.compile(keras.optimizers.SGD(0.0), "mse", run_eagerly=eager)
    noisy = fit(model)
    assert (owner.step, owner.lookups) == (2, 2)
    with owner.paused():  # fit has compiled its function with noise
        assert fit(model) == fit(clean) != noisy
    assert (owner.step, owner.lookups) == (2, 2)
    owner.step = 0
    assert fit(model) == noisy
    assert (owner.step, owner.lookups) == (2, 4)


def compiled(layer):
    """The layer in training, in a function that is traced once."""
    if BACKEND == "tensorflow":
        return tf.function(lambda x: layer(x, training=True), autograph=False)
    import jax  # noqa: PLC0415

    @jax.jit
    def noisy(state, x):
        return layer.stateless_call([], state, x, training=True)

    def run(x):
        variables = layer.non_trainable_variables
        out, state = noisy([variable.value for variable in variables], x)
        for variable, value in zip(variables, state, strict=True):
            variable.assign(value)
        return out

    return run


@pytest.mark.skipif(BACKEND == "torch", reason="it compiles nothing by default")
def test_paused_silences_a_function_that_is_compiled():
    layer, x = EmbeddingNoise(NOISE), keras.ops.convert_to_tensor(X)
    run = compiled(layer)
    close(run(x), embnoise.add_noise(X, neftune(alpha=50.0), step=0))
    with layer.paused():
        assert (numpy(run(x)) == X).all()
        assert layer.step == 1
    close(run(x), embnoise.add_noise(X, neftune(alpha=45.0), step=1))


def test_paused_holds_for_every_way_to_call_the_layer():
    layer = EmbeddingNoise(NOISE)
    with layer.paused():
        with layer.paused():
            pass
        for options in ({}, {"step": 3}, {"where": MASK}, {"mask": MASK, "step": 3}):
            assert (numpy(layer(X, training=True, **options)) == X).all()
        assert (numpy(layer(X[0], training=True)) == X[0]).all()
        with pytest.raises(TypeError, match="where must be of a boolean or integer dtype"):
            layer(X, where=MASK.astype(np.float32), training=True)
    with pytest.raises(KeyError), layer.paused():
        raise KeyError
    close(layer(X, training=True), embnoise.add_noise(X, neftune(alpha=50.0), step=0))


def test_a_callback_may_pause():
    model, handle = with_handle(sequential)
    model.compile("sgd", "mse")

    class PauseOneBatch(keras.callbacks.Callback):
        def on_train_batch_begin(self, batch, logs=None):
            if batch == 0:
                self.pause = handle.paused()
                self.pause.__enter__()

        def on_train_batch_end(self, batch, logs=None):
            if batch == 0:
                self.pause.__exit__(None, None, None)

    fit(model, callbacks=[PauseOneBatch()])
    assert (handle.step, handle.lookups) == (1, 1)


def failing_step(*_):
    raise KeyError("mine")


@pytest.mark.parametrize(
    ("noised", "block"),
    [
        (with_handle, lambda handle: handle),
        (with_handle, EmbeddingNoise.paused),
        (with_layer, EmbeddingNoise.paused),
    ],
)
def test_an_error_in_the_first_step_is_the_one_to_see(noised, block):
    """With JAX, it leaves the variables without a value."""
    model, owner = noised(sequential)
    model.compile("sgd", "mse")
    model.train_step = failing_step
    with pytest.raises(KeyError, match="mine"), block(owner):
        fit(model)


def test_noise_is_removed_after_an_error_in_the_first_step():
    model, handle = with_handle(sequential)
    model.compile("sgd", "mse")
    model.train_step = failing_step
    with pytest.raises(KeyError), handle:
        fit(model)
    attach(model, NOISE).remove()
    assert not any("attached" in state.path for state in model.variables)


@pytest.mark.skipif(BACKEND != "jax", reason="it keeps the state to itself")
@over_owners
def test_a_compiled_step_cannot_pause_and_says_so(noised):
    model, owner = noised(sequential)
    step = model.compute_loss

    def paused(*args, **kwargs):
        with owner.paused():
            return step(*args, **kwargs)

    model.compute_loss = paused
    model.compile("sgd", "mse")
    with pytest.raises(RuntimeError, match=r"cannot be paused, .* JAX compiles.*training=False"):
        fit(model)


def test_a_layer_is_read_in_a_callback_or_says_why_not():
    model, layer = with_layer(sequential)
    model.compile("sgd", "mse")
    seen = []

    class Read(keras.callbacks.Callback):
        def on_train_batch_end(self, batch, logs=None):
            if BACKEND == "jax":
                with pytest.raises(RuntimeError, match="jax_state_sync"):
                    _ = layer.step
                with pytest.raises(RuntimeError, match="jax_state_sync"):
                    layer.step = 3
                model.jax_state_sync()
            seen.append(layer.step)

    fit(model, callbacks=[Read()])
    assert seen == [1, 2]


def test_a_call_that_is_refused_is_not_counted():
    layer = EmbeddingNoise(NOISE)
    for wrong in ({"mask": MASK[:, :4]}, {"where": MASK[:2]}, {"sample_ids": np.ones((4,))}):
        with pytest.raises((TypeError, ValueError), match=r"mask|where|sample_ids"):
            layer(X, training=True, **wrong)
    assert layer._counters() == {layer.name: Counter()}


def test_a_layer_is_saved_in_the_middle_of_a_step(tmp_path):
    model, layer = with_layer(functional, calls_per_step=2)
    for _ in range(3):
        model(IDS, training=True)
    model.save(tmp_path / "model.keras")
    loaded = keras.models.load_model(tmp_path / "model.keras")
    (twin,) = [each for each in loaded.layers if isinstance(each, EmbeddingNoise)]
    assert list(twin._counters().values()) == list(layer._counters().values())
    assert list(twin._counters().values()) == [Counter(1, 1, 4, 3)]
    close(loaded(IDS, training=True), model(IDS, training=True))


@pytest.fixture
def distributed():
    """A rule that the path of an embedding's noise matches as well."""
    mesh = keras.distribution.DeviceMesh((1, 1), ("batch", "model"))
    rules = keras.distribution.LayoutMap(mesh)
    rules[".*embedding.*"] = ("model", None)
    keras.distribution.set_distribution(keras.distribution.ModelParallel(layout_map=rules))
    yield
    keras.distribution.set_distribution(None)


@pytest.mark.skipif(BACKEND != "jax", reason="it distributes variables")
@over_owners
def test_a_layout_for_the_embedding_is_not_that_of_its_noise(distributed, noised):
    model, owner = noised(functional)
    model.compile("sgd", "mse")
    fit(model, callbacks=[NoiseLogger()])
    assert (owner.step, owner.lookups) == (2, 2)


@over_owners
def test_a_state_tree_has_the_count_but_no_pause(noised):
    model, owner = noised(functional)
    model.compile("sgd", "mse")
    fit(model)
    with owner.paused():
        tree = model.get_state_tree("numpy_array")
    step = owner.step
    fit(model)
    model.set_state_tree(tree)
    assert owner.step == step
    fit(model)
    assert owner.step == step + 2
    tree = model.get_state_tree("numpy_array")
    with owner.paused():
        model.set_state_tree(tree)
        fit(model)
        assert owner.step == step + 2


@tensorflows
def test_a_checkpoint_of_tensorflow_has_the_count_but_no_pause(tmp_path):
    model, layer = with_layer(functional, calls_per_step=2)
    for _ in range(3):
        model(IDS, training=True)
    with layer.paused():
        path = tf.train.Checkpoint(model=model).save(tmp_path / "checkpoint")
    other, twin = with_layer(functional, calls_per_step=2)
    weights = [weight.path for weight in other.weights]
    tf.train.Checkpoint(model=other).restore(path).assert_consumed()
    assert list(twin._counters().values()) == [Counter(1, 1, 4, 3)]
    close(other(IDS, training=True), model(IDS, training=True))
    assert [weight.path for weight in other.weights] == weights


@tensorflows
def test_a_checkpoint_of_tensorflow_without_the_count_loads_in_part(tmp_path):
    path = tf.train.Checkpoint(model=functional(keras.layers.Dropout(0.1))).save(tmp_path / "old")
    model, layer = with_layer(functional)
    model(IDS, training=True)
    tf.train.Checkpoint(model=model).restore(path).expect_partial()
    assert layer.step == 1
    with pytest.raises(AssertionError, match="count"):
        tf.train.Checkpoint(model=model).restore(path).assert_consumed()


@tensorflows
def test_a_checkpoint_of_tensorflow_has_nothing_of_a_handle(tmp_path):
    model, handle = with_handle(functional)
    model(IDS, training=True)
    path = tf.train.Checkpoint(model=model).save(tmp_path / "checkpoint")
    handle.remove()
    tf.train.Checkpoint(model=functional()).restore(path).assert_consumed()


def test_the_count_is_no_weight():
    layer = EmbeddingNoise(NOISE)
    assert layer.weights == []
    names = [variable.name for variable in layer.non_trainable_variables]
    assert names == ["count"]


def test_a_handle_continues_in_the_middle_of_a_step():
    model, handle = with_handle(functional, calls_per_step=2)
    for _ in range(3):
        model(IDS, training=True)
    state = json.loads(json.dumps(handle.state_dict()))
    (name,) = state
    assert name == model.layers[1].name
    assert state[name] == {"step": 1, "calls": 1, "samples": 4, "lookups": 3}
    expected = numpy(model(IDS, training=True))
    handle.remove()
    with attach(model, NOISE, calls_per_step=2) as other:
        other.load_state_dict(state)
        close(model(IDS, training=True), expected)
        assert (other.step, other.lookups) == (2, 4)


def test_a_state_fits_the_same_model_made_again():
    def attached(*names):
        tables = [keras.layers.Embedding(20, 8, name=name) for name in names]
        ids = keras.Input((5,), dtype="int32")
        model = keras.Model(ids, keras.layers.Add()([each(ids) for each in tables]))
        return model, attach(model, NOISE, layer=tables)

    for names in ((None, None), ("a", "b_1")):
        model, handle = attached(*names)
        model(IDS, training=True)
        _, again = attached(*names)
        assert (handle.state_dict().keys() == again.state_dict().keys()) == (names[0] == "a")
        again.load_state_dict(handle.state_dict())
        assert (again.step, again.lookups) == (1, 2)
    _, another = attached("a", "c")
    with pytest.raises(ValueError, match="unknown key"):
        another.load_state_dict(handle.state_dict())


@pytest.mark.parametrize(
    ("change", "kind", "message"),
    [
        (lambda state, name: {}, ValueError, "state is missing the key"),
        (lambda state, name: state | {"x": state[name]}, ValueError, "unknown key 'x'"),
        (lambda state, name: {name: {"step": 1}}, ValueError, "is missing the key 'calls'"),
        (lambda state, name: {name: state[name] | {"step": -1}}, ValueError, "at least 0, got -1"),
        (lambda state, name: {name: state[name] | {"step": 0.5}}, TypeError, "must be an integer"),
    ],
)
def test_a_wrong_state_changes_nothing(change, kind, message):
    model, handle = with_handle(functional)
    model(IDS, training=True)
    before = handle.state_dict()
    (name,) = before
    with pytest.raises(kind, match=message):
        handle.load_state_dict(change(before, name))
    assert handle.state_dict() == before


def test_reprs():
    layer = EmbeddingNoise(neftune(), name="mine", calls_per_step=2)
    assert repr(layer) == f"<EmbeddingNoise name=mine, noise={neftune()}, calls_per_step=2>"
    model, handle = with_handle(sequential)
    model(IDS, training=True)
    name = model.layers[0].name
    assert repr(handle).startswith(f"Handle('{name}', step=1, alpha=45, lookups=1, noise=Noise(")
