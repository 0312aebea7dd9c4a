"""``attach`` on Keras models, on whichever backend this process has."""

import keras
import numpy as np
import pytest

import embnoise
from embnoise import linear, neftune
from embnoise_keras import EmbeddingNoise, attach
from tests.keras.models import (
    DIM,
    IDS,
    MASK,
    MODELS,
    TARGETS,
    Subclassed,
    fit,
    functional,
    numpy,
    sequential,
)

over_models = pytest.mark.parametrize("kind", MODELS)


def lookup_of(model):
    return next(each for each in model.layers if isinstance(each, keras.layers.Embedding))


@over_models
@pytest.mark.parametrize("eager", [False, True])
def test_attached_noise_is_that_of_the_layer(kind, eager):
    noise = neftune(alpha=linear(50, 0, 8), length=5)
    build = MODELS[kind]
    model, expected = build(), build(EmbeddingNoise(noise))
    for each in (model, expected):
        each.compile(keras.optimizers.SGD(0.1), "mse", run_eagerly=eager)
    with attach(model, noise) as handle:
        assert fit(model, epochs=2) == pytest.approx(fit(expected, epochs=2), abs=1e-6)
        assert handle.step == 4


@over_models
def test_evaluation_and_a_removed_noise_are_clean(kind):
    model = MODELS[kind]()
    model.compile(keras.optimizers.SGD(0.0), "mse")
    clean, predicted = fit(model), model.predict(IDS, verbose=0)
    evaluated = model.evaluate(IDS, TARGETS, verbose=0)
    handle = attach(model, neftune(50.0))
    assert fit(model) != clean
    assert (model.predict(IDS, verbose=0) == predicted).all()
    assert model.evaluate(IDS, TARGETS, verbose=0) == evaluated
    handle.remove()
    handle.remove()
    with pytest.raises(RuntimeError, match=r"call attach\(\) again"), handle:
        pass
    assert fit(model) == clean
    assert "call" not in vars(model)
    assert "call" not in vars(lookup_of(model))


@over_models
def test_nothing_of_it_is_saved(kind, tmp_path):
    model = MODELS[kind]()
    model.compile("sgd", "mse")
    fit(model)
    before = [weight.path for weight in model.weights]
    with attach(model, neftune()):
        fit(model)
        assert [weight.path for weight in model.weights] == before
        model.save_weights(tmp_path / "noisy.weights.h5")
        if kind != "subclassed":
            model.save(tmp_path / "model.keras")
            loaded = keras.models.load_model(tmp_path / "model.keras")
            assert type(lookup_of(loaded)) is keras.layers.Embedding
            assert "call" not in vars(lookup_of(loaded))
    clean = MODELS[kind]()
    clean(IDS)
    clean.load_weights(tmp_path / "noisy.weights.h5")
    assert (clean.predict(IDS, verbose=0) == model.predict(IDS, verbose=0)).all()


def test_a_loaded_run_goes_on_from_the_step_that_it_is_told(tmp_path):
    noise = neftune(alpha=linear(50, 0, 8))
    model = functional()
    model.compile(keras.optimizers.SGD(0.1), "mse")
    with attach(model, noise) as handle:
        fit(model)
        model.save(tmp_path / "model.keras")
        loaded = keras.models.load_model(tmp_path / "model.keras")
        with attach(loaded, noise) as other:
            other.step = handle.step
            assert fit(loaded, epochs=2) == fit(model, epochs=2)


def test_the_output_projection_is_clean():
    model = Subclassed()
    x = np.random.default_rng(0).standard_normal((4, 5, DIM)).astype(np.float32)
    model(IDS)
    clean = numpy(model.embed(x, reverse=True))
    with attach(model, neftune(50.0)):
        assert (numpy(model.embed(x, reverse=True, training=True)) == clean).all()
        assert (numpy(model.embed(IDS, training=True)) != numpy(model.embed(IDS))).all()


def test_lengths_come_from_mask_zero_or_from_a_function_of_the_ids():
    for model, options in [
        (functional(), {}),
        (sequential(), {"tokens": lambda ids: {"mask": ids != 0}}),
    ]:
        model(IDS)
        embed = lookup_of(model)
        clean = numpy(embed(IDS))
        with attach(model, neftune(), **options):
            noisy = numpy(embed(IDS, training=True))
        expected = embnoise.add_noise(clean, neftune(), step=0, mask=MASK)
        np.testing.assert_allclose(noisy, expected, rtol=0, atol=1e-6)


def test_lookups_outside_the_model_s_call_are_calls_of_their_own():
    model = sequential()
    model(IDS)
    embed = lookup_of(model)
    clean = numpy(embed(IDS))
    with attach(model, neftune()) as handle:
        for step in range(2):
            expected = embnoise.add_noise(clean, neftune(), step=step)
            noisy = numpy(embed(IDS, training=True))
            np.testing.assert_allclose(noisy, expected, rtol=0, atol=1e-6)
            assert handle.step == step + 1


def test_gradient_accumulation():
    model = functional()
    model.compile(keras.optimizers.SGD(0.1, gradient_accumulation_steps=2), "mse")
    with attach(model, neftune(), calls_per_step=2) as handle:
        fit(model)
        assert handle.step == 1


def test_a_callback_reads_and_sets_the_step():
    model = sequential()
    model.compile("sgd", "mse")
    handle, seen = attach(model, neftune()), []

    class Jump(keras.callbacks.Callback):
        def on_train_batch_begin(self, batch, logs=None):
            seen.append(handle.step)
            if batch == 0:
                handle.step = 7

    fit(model, callbacks=[Jump()])
    assert (seen, handle.step) == ([0, 8], 9)


def test_an_old_handle_does_not_end_a_new_noise():
    model = sequential()
    model(IDS)
    old = attach(model, neftune())
    old.remove()
    with attach(model, neftune()):
        old.remove()
        embed = lookup_of(model)
        assert (numpy(embed(IDS, training=True)) != numpy(embed(IDS))).all()


class OneHot(keras.layers.Layer):
    def call(self, ids):
        return keras.ops.one_hot(keras.ops.cast(ids, "int32"), 20)


def test_a_lookup_of_another_class_may_be_named():
    model = keras.Sequential([OneHot(name="lookup"), keras.layers.Flatten()])
    model(IDS)
    with attach(model, neftune(), layer="lookup"):
        noisy = numpy(model(IDS, training=True))
    expected = embnoise.add_noise(np.eye(20, dtype=np.float32)[IDS], neftune(), step=0)
    np.testing.assert_allclose(noisy, expected.reshape(4, -1), rtol=0, atol=1e-6)


class Backbone(keras.Model):
    """Has no call of its own: what trains it calls the backbone."""

    def __init__(self):
        super().__init__()
        self.backbone = sequential()


def test_a_model_without_a_call_is_not_told_to_take_training():
    model = Backbone()
    clean = numpy(model.backbone(IDS))
    with attach(model, neftune(50.0)) as handle:  # without a warning
        assert (numpy(model.backbone(IDS, training=True)) != clean).all()
        assert handle.step == 1


class Two(keras.Model):
    def __init__(self):
        super().__init__()
        self.first = keras.layers.Embedding(5, 4, name="first")
        self.second = keras.layers.Embedding(6, 4, name="second")

    def call(self, ids):
        return self.first(ids) + self.second(ids)


class Trained(Two):
    def call(self, ids, training=None):
        return super().call(ids)


def test_a_layer_is_chosen():
    for choice in (lambda model: model.second, lambda model: "second"):
        model, ids = Trained(), IDS[:, :2] % 5
        model(ids)
        with attach(model, neftune(), layer=choice(model)):
            assert (numpy(model.first(ids, training=True)) == numpy(model.first(ids))).all()
            assert (numpy(model.second(ids, training=True)) != numpy(model.second(ids))).all()


@pytest.mark.parametrize(
    ("call", "kind", "message"),
    [
        (
            lambda: attach(Two(), neftune()),
            ValueError,
            "found 2 embeddings in the model; pass layer=, ",
        ),
        (lambda: attach(Two(), neftune()), ValueError, r"'first' \(5, 4\), 'second' \(6, 4\)"),
        (
            lambda: attach(Two(), neftune(), layer="third"),
            ValueError,
            r"got 'third'; names like it: .*; embeddings: 'first' \(",
        ),
        (lambda: attach(Two(), neftune(), layer=3), TypeError, "layer must be a layer, its name"),
        (
            lambda: attach(keras.Sequential(), neftune()),
            ValueError,
            "found no keras.layers.Embedding",
        ),
        (lambda: attach(print, neftune()), TypeError, "model must be a Keras model or layer, got"),
        (lambda: attach(sequential(), 5.0), TypeError, "noise must be a Noise, got 5.0"),
        (lambda: attach(sequential(), neftune(linear(1, 0))), ValueError, "unbound schedule"),
        (lambda: attach(sequential(), neftune(), tokens=3), TypeError, "tokens must be a callable"),
        (
            lambda: attach(sequential(), neftune(), where=3),
            TypeError,
            "where must be 'all' or a callable, got 3",
        ),
        (lambda: attach(sequential(), neftune(), where="no"), ValueError, "callable, got 'no'"),
        (lambda: attach(sequential(), neftune(), calls_per_step=0), ValueError, "at least 1"),
    ],
)
def test_wrong_calls_change_nothing(call, kind, message):
    with pytest.raises(kind, match=message):
        call()


class Late(keras.layers.Layer):
    """Makes its embedding when it is built."""

    def build(self, _):
        self.embed = keras.layers.Embedding(20, DIM)

    def call(self, ids):
        return self.embed(ids)


def test_an_embedding_that_is_made_late_is_there_once_the_model_is_called():
    model = keras.Sequential([Late()])
    with pytest.raises(ValueError, match=r"found no .*; call the model first, since not all"):
        attach(model, neftune())
    clean = numpy(model(IDS))
    with attach(model, neftune()):
        assert not np.array_equal(numpy(model(IDS, training=True)), clean)


def test_it_says_so_when_keras_will_never_train_the_model():
    model = Two()
    with pytest.warns(RuntimeWarning, match="call has no argument `training`"):
        attach(model, neftune(), layer=model.first)


@pytest.mark.parametrize("order", [0, 1])
def test_two_embeddings_of_a_model_may_have_noise(order):
    model, ids = Trained(), IDS[:, :2] % 5
    clean = numpy(model(ids))
    handles = [attach(model, neftune(stream=name), layer=name) for name in ("first", "second")]
    model(ids, training=True)
    assert [handle.step for handle in handles] == [1, 1]
    assert len({variable.path for variable in model.variables}) == len(model.variables)
    handles.pop(order).remove()
    (other,) = handles
    assert (numpy(model(ids, training=True)) != clean).any()
    assert other.step == 2
    other.remove()
    assert (numpy(model(ids, training=True)) == clean).all()
    assert "call" not in vars(model)


def test_a_second_embedding_needs_another_stream():
    ids = keras.Input((3,), dtype="int32")
    tables = [keras.layers.Embedding(8, 4, name=name) for name in ("one", "two")]
    model = keras.Model(ids, keras.layers.add([table(ids) for table in tables]))
    with attach(model, neftune(), layer="one"):
        with pytest.raises(ValueError, match=r"'one' already, and 'two' would get the same"):
            attach(model, neftune(), layer="two")
        with attach(model, neftune(stream="two"), layer="two") as handle:
            model(keras.ops.array([[1, 2, 3]]), training=True)
            assert handle.lookups == 1
    attach(model, neftune(), layer="two").remove()


LISTED = {"mode": "list_of_layers", "layer_names": ["block"]}


class Recomputed(keras.layers.Layer):
    def __init__(self):
        super().__init__()
        self.embed = keras.layers.Embedding(8, 4, name="inside")

    def call(self, ids):
        return self.embed(ids)


def test_a_layer_that_is_recomputed_is_refused():
    with keras.RematScope(mode="full"):
        block = Recomputed()
    with pytest.raises(ValueError, match=r"'inside' is in a keras.RematScope.*outside"):
        attach(keras.Sequential([block]), neftune())
    with (
        keras.RematScope(mode="full"),
        pytest.raises(ValueError, match=r"'noise' is in a keras.RematScope.*outside"),
    ):
        EmbeddingNoise(neftune(), name="noise")


@pytest.mark.parametrize("scope", [{"mode": "activations"}, LISTED])
def test_a_scope_that_recomputes_other_layers_is_none(scope):
    with keras.RematScope(**scope):
        model = keras.Sequential([keras.layers.Embedding(8, 4), EmbeddingNoise(neftune())])
    attach(model, neftune(stream="attached")).remove()


def test_a_call_of_a_model_s_own_is_given_back():
    model = functional()
    model.call = own = lambda *args, **kwargs: keras.Model.call(model, *args, **kwargs)
    attach(model, neftune()).remove()
    assert model.call is own


class OwnTraining(keras.Sequential):
    def make_train_function(self):
        self.made = getattr(self, "made", 0) + 1
        return super().make_train_function()


def test_a_training_function_of_a_model_s_own_is_made_again():
    model = OwnTraining([keras.layers.Embedding(20, DIM), keras.layers.Flatten()])
    model.compile("sgd", "mse")
    model.fit(IDS, np.zeros((4, 5 * DIM)), verbose=0)
    before = model.made
    handle = attach(model, neftune())
    assert model.made > before
    handle.remove()


class InCallback(keras.callbacks.Callback):
    """Attaches and removes noise while ``fit`` runs."""

    def __init__(self, event):
        super().__init__()
        self.event, self.number, self.handle, self.losses = event, 0, None, []

    def on_train_batch_end(self, batch, logs=None):
        self.losses.append(logs["loss"])
        if self.event == "batch":
            self.turn()

    def on_epoch_end(self, epoch, logs=None):
        if self.event == "epoch":
            self.turn()

    def turn(self):
        if self.number % 2:
            self.handle.remove()
        else:
            self.handle = attach(self.model, neftune(50.0))
        self.number += 1


@pytest.mark.parametrize("event", ["batch", "epoch"])
@pytest.mark.parametrize("eager", [False, True])
def test_noise_may_come_and_go_in_callbacks(event, eager):
    model = functional()
    model.compile(keras.optimizers.SGD(0.0), "mse", run_eagerly=eager)
    turns = InCallback(event)
    model.fit(IDS, TARGETS, batch_size=4, epochs=6, verbose=0, callbacks=[turns])
    losses = [round(float(loss), 4) for loss in turns.losses]
    assert len({*losses[::2]}) == 1
    assert not {*losses[::2]} & {*losses[1::2]}
    assert turns.handle.lookups == 1


def test_noise_that_the_model_has_already_is_refused():
    layer = EmbeddingNoise(neftune(), name="noise")
    model = keras.Sequential([keras.layers.Embedding(8, 4, name="embed"), layer])
    with pytest.raises(ValueError, match=r"at 'noise' already, and 'embed' would get the same"):
        attach(model, neftune())
    for noise in (neftune(seed=1), neftune(stream="attached")):
        attach(model, noise).remove()


def test_attaching_twice_is_refused():
    model = sequential()
    handle = attach(model, neftune())
    with pytest.raises(ValueError, match="noise attached to 'embedding"):
        attach(model, neftune())
    handle.remove()


class Decoder(keras.Model):
    """Takes its masks as arguments of its call."""

    def __init__(self):
        super().__init__()
        self.embed = keras.layers.Embedding(20, DIM)

    def call(self, ids, attention_mask=None, prompt=None, training=None):
        return self.embed(ids)


def test_where_chooses_real_tokens_by_the_arguments_of_the_model_s_call():
    model, prompt = Decoder(), MASK & (np.arange(5) < 2)
    inputs = {"attention_mask": MASK, "prompt": prompt}
    clean = numpy(model(IDS, **inputs))
    with attach(model, neftune(), where=lambda prompt: ~prompt):
        noisy = numpy(model(IDS, **inputs, training=True))
    expected = embnoise.add_noise(clean, neftune(), step=0, mask=MASK, where=~prompt)
    np.testing.assert_allclose(noisy, expected, rtol=0, atol=1e-6)


@pytest.mark.parametrize(
    "tokens",
    [
        lambda ids: {"mask": ids != 0},
        lambda ids, **_: {"mask": ids != 0},
        lambda prompt: {"mask": prompt},
        lambda ids, attention_mask=None, other=None: {"mask": attention_mask},
    ],
)
def test_tokens_are_called_by_name(tokens):
    model = Decoder()
    clean = numpy(model(IDS))
    with attach(model, neftune(), tokens=tokens):
        noisy = numpy(model(IDS, attention_mask=MASK, prompt=MASK, training=True))
    expected = embnoise.add_noise(clean, neftune(), step=0, mask=MASK)
    np.testing.assert_allclose(noisy, expected, rtol=0, atol=1e-6)


def test_the_entries_of_a_dict_are_named_too():
    ids, prompt = keras.Input((5,), dtype="int32", name="ids"), keras.Input((5,), name="prompt")
    x = keras.layers.Embedding(20, DIM)(ids)
    model = keras.Model({"ids": ids, "prompt": prompt}, x)
    inputs = {"ids": IDS, "prompt": MASK.astype(np.float32)}
    clean = numpy(model(inputs))
    with attach(model, neftune(), where=lambda prompt: prompt != 0):
        noisy = numpy(model(inputs, training=True))
    expected = embnoise.add_noise(clean, neftune(), step=0, where=MASK)
    np.testing.assert_allclose(noisy, expected, rtol=0, atol=1e-6)


@pytest.mark.parametrize(
    ("options", "kind", "message"),
    [
        (
            {"tokens": lambda labels: {"mask": labels}},
            ValueError,
            r"tokens must name its parameters among \['attention_mask', 'ids', .*got 'labels'",
        ),
        ({"where": lambda labels: labels}, ValueError, "where must name its parameters among"),
        ({"tokens": lambda ids: ids != 0}, TypeError, "tokens must return a dict, got"),
        ({"tokens": lambda ids: {"msk": ids}}, ValueError, r"unknown key 'msk' \(did you mean 'm"),
        ({"tokens": lambda ids: {"mask": ids[:, :2]}}, ValueError, "mask must be of shape"),
        ({"where": lambda ids: ids[:2]}, ValueError, "where must be of shape"),
        (
            {"tokens": lambda ids: {"where": ids}, "where": lambda ids: ids},
            ValueError,
            "where must come from tokens= or where=",
        ),
    ],
)
def test_wrong_callables_are_not_counted(options, kind, message):
    model = Decoder()
    model(IDS)
    with attach(model, neftune(), **options) as handle:
        with pytest.raises(kind, match=message):
            model(IDS, attention_mask=MASK, prompt=MASK, training=True)
        assert (handle.step, handle.lookups) == (0, 0)


class Stubborn(Decoder):
    def __setattr__(self, name, value):
        if name == "call":
            raise RuntimeError("a late failure")
        super().__setattr__(name, value)


def fails(*_):
    raise RuntimeError("a late failure")


@pytest.mark.parametrize("build", [Stubborn, Decoder])
def test_attach_changes_nothing_if_it_fails_half_way(build, monkeypatch):
    model = build()
    model.compile("sgd", "mse")
    clean = numpy(model(IDS))
    model.make_train_function()
    function, variables = model.train_function, len(model.variables)
    with monkeypatch.context() as patch:
        if build is Decoder:
            patch.setattr("embnoise_keras.handle.forget_train_function", fails)
        with pytest.raises(RuntimeError, match="a late failure"):
            attach(model, neftune())
    assert "call" not in vars(model)
    assert "call" not in vars(model.embed)
    assert len(model.variables) == variables
    assert model.train_function is function
    assert (numpy(model(IDS, training=True)) == clean).all()
    attach(model.embed, neftune()).remove()


def test_a_warning_that_is_an_error_leaves_no_noise():
    model = Two()
    with pytest.raises(RuntimeWarning):
        attach(model, neftune(), layer=model.first)
    assert "call" not in vars(model.first)
