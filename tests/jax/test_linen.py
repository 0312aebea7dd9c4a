"""Noise in Flax Linen: the module, and noise from outside by intercepting methods."""

import dataclasses
from concurrent.futures import ThreadPoolExecutor
from functools import partial

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from flax import serialization
from flax.training.train_state import TrainState

import embnoise
from embnoise import linear, neftune
from embnoise.backend import Counter
from embnoise_jax.linen import EmbeddingNoise, attach
from tests.jax import models
from tests.jax.models import DIM, IDS, MASK, VOCABULARY, same


class LinenModel(nn.Module):
    def setup(self):
        self.embed = nn.Embed(VOCABULARY, DIM)
        self.dense = nn.Dense(DIM)

    def __call__(self, ids, decoder_ids=None):
        x = self.embed(ids)
        if decoder_ids is not None:
            return x, self.embed(decoder_ids)
        return x, self.embed.attend(self.dense(x))


MODEL = LinenModel()
VARIABLES = MODEL.init(jax.random.key(0), IDS)
CLEAN = MODEL.apply(VARIABLES, IDS)[0]
reference = partial(models.reference, CLEAN)
X = CLEAN


class WithLayer(nn.Module):
    @nn.compact
    def __call__(self, ids, *, deterministic=False, **about):
        x = nn.Embed(20, 16)(ids)
        return EmbeddingNoise(neftune(), deterministic=deterministic)(x, **about)


def test_the_layer_in_a_model():
    model = WithLayer()
    variables = model.init(jax.random.key(0), IDS)
    assert variables["noise"]["EmbeddingNoise_0"]["count"].tolist() == [0, 0, 0, 0]
    clean = model.apply(variables, IDS, deterministic=True)
    for step in range(3):
        noisy, changed = model.apply(variables, IDS, mask=MASK, mutable=["noise"])
        variables = {**variables, **changed}
        expected = embnoise.add_noise(
            np.asarray(clean), neftune(), step=step, mask=np.asarray(MASK)
        )
        assert same(noisy, expected)
        assert same(model.apply(variables, IDS, mask=MASK, step=step), expected)


def test_micro_batches_are_one_batch():
    layer, variables = EmbeddingNoise(neftune(), calls_per_step=2, deterministic=False), {}
    for step in range(2):
        parts = []
        for row in range(2):
            part, variables = layer.apply(variables, X[row : row + 1], mutable=["noise"])
            parts.append(part)
        assert same(jnp.concatenate(parts), reference(neftune(), step=step))


def test_the_count_is_a_counter_and_survives_being_saved():
    layer, variables = EmbeddingNoise(neftune(), calls_per_step=2, deterministic=False), {}
    for _ in range(3):
        _, variables = layer.apply(variables, X, mutable=["noise"])
    counter = Counter(*variables["noise"]["count"])
    assert counter.to_dict() == {"step": 1, "calls": 1, "samples": 2, "lookups": 3}
    saved = serialization.to_bytes(variables)
    restored = serialization.from_bytes(layer.init(jax.random.key(0), X), saved)
    after = [layer.apply(each, X, mutable=["noise"])[0] for each in (variables, restored)]
    assert same(*after)
    assert same(after[0], reference(neftune(), step=1, sample_ids=jnp.array([2, 3])))


def test_a_step_or_a_mutable_collection_is_needed():
    layer = EmbeddingNoise(neftune(), deterministic=False)
    with pytest.raises(ValueError, match=r"step must be given in training, or .*mutable"):
        layer.apply({}, X)
    assert layer.clone(deterministic=True).apply({}, X) is X
    # Its state is not made anew at initialization, nor counted.
    assert layer.init(jax.random.key(0), X)["noise"]["count"].tolist() == [0, 0, 0, 0]


def test_attached_noise_follows_the_train_state_s_step():
    state = TrainState.create(apply_fn=MODEL.apply, params=VARIABLES["params"], tx=optax.sgd(0.0))
    noise, traced = neftune(alpha=linear(5, 1, 4)), []

    @jax.jit
    def train_step(state):
        traced.append(None)

        def loss(params):
            with attach(MODEL, noise, step=state.step, mask=MASK):
                x, logits = state.apply_fn({"params": params}, IDS)
            return (logits**2).mean(), x

        grads, x = jax.grad(loss, has_aux=True)(state.params)
        return state.apply_gradients(grads=grads), x

    for step in range(3):
        state, seen = train_step(state)
        expected = reference(neftune(alpha=5.0 - step), step=step, mask=MASK)
        np.testing.assert_allclose(seen, expected, atol=1e-6)
    assert len(traced) == 1
    assert same(MODEL.apply(VARIABLES, IDS)[0], CLEAN)


def test_the_output_projection_is_clean():
    clean = MODEL.bind(VARIABLES).embed.attend(X)
    with attach(MODEL, neftune(), step=0):
        MODEL.apply(VARIABLES, IDS)
        attended = MODEL.apply(VARIABLES, X, method=lambda model, x: model.embed.attend(x))
    assert same(attended, clean)


def test_a_second_lookup_gets_noise_of_its_own():
    with attach(MODEL, neftune(), step=0):
        first, second = MODEL.apply(VARIABLES, IDS, IDS)
    assert same(first, reference(neftune()))
    assert same(second, reference(neftune(stream="/2")))


class Remembered(nn.Embed):
    def __call__(self, ids):
        return 2 * super().__call__(ids)


class Lifted(nn.Module):
    how: str

    @nn.compact
    def __call__(self, ids):
        lift = {"remat": nn.remat, "jit": nn.jit, "plain": lambda kind: kind}[self.how]
        return lift(Remembered)(20, 16)(ids)


@pytest.mark.parametrize("how", ["plain", "remat", "jit"])
def test_lifted_and_extended_embeddings_are_noised_once(how):
    model = Lifted(how)

    @jax.jit
    def apply(step):
        with attach(model, neftune(), step=step):
            variables = model.init(jax.random.key(0), IDS)
            noisy = model.apply(variables, IDS)
        return noisy, model.apply(variables, IDS)

    noisy, clean = apply(3)
    assert same(noisy, embnoise.add_noise(np.asarray(clean), neftune(), step=3))


def test_attaching_twice_is_refused():
    with attach(MODEL, neftune(), step=0):
        MODEL.apply(VARIABLES, IDS)
        with (
            pytest.raises(ValueError, match="noise attached already"),
            attach(MODEL, neftune(), step=0),
        ):
            pass
    with attach(MODEL, neftune(), step=0):
        MODEL.apply(VARIABLES, IDS)


def test_other_models_stay_clean():
    class Teacher(LinenModel):
        pass

    with attach(MODEL, neftune(), step=0):
        assert same(Teacher().apply(VARIABLES, IDS)[0], CLEAN)
        assert not same(MODEL.apply(VARIABLES, IDS)[0], CLEAN)


class Configured(nn.Module):
    width: int
    inner: tuple = ()
    scale: jax.Array | None = None

    @nn.compact
    def __call__(self, ids):
        return nn.Embed(VOCABULARY, self.width)(ids)


STUDENT = Configured(8, (nn.Dense(4),), np.ones(2))


@pytest.mark.parametrize(
    "teacher",
    [
        Configured(16, (nn.Dense(4),), np.ones(2)),
        Configured(8, (nn.Dense(5),), np.ones(2)),
        Configured(8, (nn.Dense(4), nn.Dense(4)), np.ones(2)),
        Configured(8, (nn.Dense(4),), np.full(2, 2.0)),
        Configured(8, (nn.Dense(4),), np.ones(3)),
        Configured(8, {"inner": nn.Dense(4)}, np.ones(2)),
    ],
    ids=["number", "module", "length", "array", "shape", "dict"],
)
def test_a_teacher_of_the_same_class_stays_clean(teacher):
    variables = [model.init(jax.random.key(0), IDS) for model in (STUDENT, teacher)]
    clean = [m.apply(v, IDS) for m, v in zip((STUDENT, teacher), variables, strict=True)]
    with attach(STUDENT, neftune(), step=3):
        assert same(teacher.apply(variables[1], IDS), clean[1])
        noisy = STUDENT.apply(variables[0], IDS)
    assert same(noisy, embnoise.add_noise(np.asarray(clean[0]), neftune(), step=3))
    with attach(STUDENT, neftune(), step=3), attach(teacher, neftune(), step=3):
        assert not same(teacher.apply(variables[1], IDS), clean[1])
        assert same(STUDENT.apply(variables[0], IDS), noisy)


def test_a_model_with_the_same_fields_counts_as_the_model():
    variables = STUDENT.init(jax.random.key(0), IDS)
    clean = STUDENT.apply(variables, IDS)
    equal = Configured(8, [nn.Dense(4, name="other")], np.ones(2))
    with attach(STUDENT, neftune(), step=3):
        assert not same(equal.apply(variables, IDS), clean)
        with (
            pytest.raises(ValueError, match="Configured with the same fields is entered"),
            attach(equal, neftune(), step=3),
        ):
            pass


def test_it_says_so_when_there_was_no_noise():
    compiled = jax.jit(MODEL.apply).lower(VARIABLES, IDS).compile()
    with (
        pytest.warns(RuntimeWarning, match="no nn.Embed was called inside attach.*ahead of time"),
        attach(MODEL, neftune(), step=0),
    ):
        compiled(VARIABLES, IDS)


def test_a_bound_model_needs_a_name():
    with attach(MODEL, neftune(), step=0):
        bound = MODEL.bind(VARIABLES)
        assert same(bound.embed(IDS), reference(neftune()))
    with (
        pytest.warns(RuntimeWarning, match=r"give model.bind\(...\) a name before you call"),
        attach(MODEL, neftune(), step=0),
    ):
        x = MODEL.bind(VARIABLES).embed(IDS)
    assert same(x, CLEAN)


class Two(nn.Module):
    @nn.compact
    def __call__(self, ids):
        return nn.Embed(20, 8, name="first")(ids), nn.Embed(20, 8, name="second")(ids)


def test_a_layer_is_chosen():
    model = Two()
    variables = model.init(jax.random.key(0), IDS)
    clean = model.apply(variables, IDS)
    with attach(model, neftune(), step=0, layer="second"):
        first, second = model.apply(variables, IDS)
    assert same(first, clean[0])
    assert not same(second, clean[1])
    with (
        pytest.raises(
            ValueError, match=r"pass layer=, one of them or a list\. Candidates: 'first', 'second'"
        ),
        attach(model, neftune(), step=0),
    ):
        model.apply(variables, IDS)
    with (
        pytest.warns(
            RuntimeWarning,
            match=r"third was not called .* that were: 'first' \(20, 8\), 'second' \(20, 8\)",
        ),
        attach(model, neftune(), step=0, layer="third"),
    ):
        model.apply(variables, IDS)


@pytest.mark.parametrize(
    ("arguments", "kind", "message"),
    [
        ({"model": 3}, TypeError, "model must be a flax.linen.Module, got 3"),
        ({"noise": 5.0}, TypeError, r"did you mean neftune\(alpha=5.0\)"),
        ({"noise": neftune(linear(1, 2))}, ValueError, "alpha is the unbound schedule"),
        ({"layer": 3}, TypeError, "layer must be the path of a module, got 3"),
        ({"step": -1}, ValueError, "step must be at least 0, got -1"),
    ],
)
def test_wrong_calls_of_attach(arguments, kind, message):
    with (
        pytest.raises(kind, match=message),
        attach(**{"model": MODEL, "noise": neftune(), "step": 0, **arguments}),
    ):
        pytest.fail("the block was entered")
    assert same(MODEL.apply(VARIABLES, IDS)[0], CLEAN)


@pytest.mark.parametrize(
    ("arguments", "kind", "message"),
    [
        ({"noise": 5.0}, TypeError, r"did you mean neftune\(alpha=5.0\)"),
        ({"noise": neftune(linear(1, 2))}, ValueError, "alpha is the unbound schedule"),
        ({"calls_per_step": 0}, ValueError, "calls_per_step must be at least 1, got 0"),
    ],
)
def test_wrong_layers(arguments, kind, message):
    with pytest.raises(kind, match=message):
        EmbeddingNoise(**{"noise": neftune(), **arguments})


def test_deterministic_is_a_bool():
    with pytest.raises(TypeError, match="deterministic must be True or False, got 1"):
        EmbeddingNoise(neftune()).apply({}, X, step=0, deterministic=1)


def test_an_error_inside_the_block_leaves_no_noise_behind():
    for error, mask in [(ValueError, jnp.ones((3, 3), int)), (TypeError, jnp.ones((2, 5)))]:
        with (
            pytest.raises(error, match="mask must be of"),
            attach(MODEL, neftune(), step=0, mask=mask),
        ):
            MODEL.apply(VARIABLES, IDS)
        assert same(MODEL.apply(VARIABLES, IDS)[0], CLEAN)
    with attach(MODEL, neftune(), step=0):
        assert same(MODEL.apply(VARIABLES, IDS)[0], reference(neftune()))


def test_a_thread_is_unaffected_by_another_one_s_noise():
    def attached():
        with attach(MODEL, neftune(), step=1):
            return MODEL.apply(VARIABLES, IDS)[0]

    with attach(MODEL, neftune(), step=0), ThreadPoolExecutor(1) as threads:
        assert same(threads.submit(attached).result(), reference(neftune(), step=1))
        assert same(MODEL.apply(VARIABLES, IDS)[0], reference(neftune()))


class LayerFirst(nn.Module):
    @nn.compact
    def __call__(self, ids):
        x = EmbeddingNoise(neftune(), deterministic=False)(jnp.zeros((2, 5, DIM)), step=3)
        return x + nn.Embed(VOCABULARY, DIM)(ids)


@pytest.mark.parametrize("model", [WithLayer(), LayerFirst()], ids=["after", "before"])
def test_noise_that_the_model_has_already_is_refused(model):
    variables = model.init(jax.random.key(0), IDS)
    with (
        pytest.raises(ValueError, match=r"stream '' at '.*' already, and '.*' would get the same"),
        attach(model, neftune(), step=3),
    ):
        model.apply(variables, IDS, mutable=["noise"])
    for noise in (neftune(seed=1), neftune(stream="attached")):
        with attach(model, noise, step=3):
            model.apply(variables, IDS, mutable=["noise"])


class Built(nn.Module):
    """Made by factories, which make functions and configurations anew."""

    initializer: object
    settings: object = None

    @nn.compact
    def __call__(self, ids):
        x = nn.Embed(VOCABULARY, DIM, embedding_init=self.initializer)(ids)
        return EmbeddingNoise(neftune())(x, step=3, deterministic=True)


@dataclasses.dataclass(frozen=True)
class Settings:
    sizes: object


@pytest.mark.parametrize(
    "make",
    [
        lambda size: Built(nn.initializers.normal(size)),
        lambda size: Built(partial(initialize, size=size)),
        lambda size: Built(recursive(size)),
        lambda size: Built(nn.initializers.ones, Settings(np.full(3, size))),
        lambda size: Built(nn.initializers.ones, {"sizes": [np.full(3, size)]}),
    ],
    ids=["closure", "partial", "recursive", "dataclass", "dict"],
)
def test_models_that_are_made_alike_are_the_same(make):
    variables = make(0.5).init(jax.random.key(0), IDS)
    clean = make(0.5).apply(variables, IDS)
    with attach(make(0.5), neftune(), step=3):  # beside a layer that is silent
        assert same(make(0.5).apply(variables, IDS), reference_of(clean))
        assert same(make(0.25).apply(variables, IDS), clean)


def initialize(key, shape, dtype=jnp.float32, size=1.0):
    return jnp.full(shape, size, dtype)


def recursive(size):
    def initialize(key, shape, dtype=jnp.float32, again=True):
        made = jnp.full(shape, size, dtype)
        return initialize(key, shape, dtype, again=False) if again else made

    return initialize


def reference_of(clean):
    return embnoise.add_noise(np.asarray(clean), neftune(), step=3)
