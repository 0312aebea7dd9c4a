"""Noise in Flax Linen: the module, and noise from outside by intercepting methods."""

from functools import partial

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from flax.training.train_state import TrainState

import embnoise
from embnoise import linear, neftune
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
    assert variables["noise"]["EmbeddingNoise_0"]["count"].tolist() == [0, 0]
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
    parts = []
    for row in range(2):
        part, variables = layer.apply(variables, X[row : row + 1], mutable=["noise"])
        parts.append(part)
    assert same(jnp.concatenate(parts), reference(neftune()))


def test_a_step_or_a_mutable_collection_is_needed():
    layer = EmbeddingNoise(neftune(), deterministic=False)
    with pytest.raises(ValueError, match=r"step must be given in training, or .*mutable"):
        layer.apply({}, X)
    assert layer.clone(deterministic=True).apply({}, X) is X
    # Its state is not made anew at initialisation, nor counted on by it.
    assert layer.init(jax.random.key(0), X)["noise"]["count"].tolist() == [0, 0]


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
    with attach(model, neftune(), step=3):
        variables = model.init(jax.random.key(0), IDS)
        noisy = model.apply(variables, IDS)
    clean = np.asarray(model.apply(variables, IDS))
    assert same(noisy, embnoise.add_noise(clean, neftune(), step=3))


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


def test_it_says_so_when_there_was_no_noise():
    apply = jax.jit(MODEL.apply)
    apply(VARIABLES, IDS)
    with (
        pytest.warns(RuntimeWarning, match="Was the function compiled before"),
        attach(MODEL, neftune(), step=0),
    ):
        apply(VARIABLES, IDS)


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
        pytest.raises(ValueError, match=r"looks up in several: \['first', 'second'\]"),
        attach(model, neftune(), step=0),
    ):
        model.apply(variables, IDS)
    with (
        pytest.warns(RuntimeWarning, match="third was not called"),
        attach(model, neftune(), step=0, layer="third"),
    ):
        model.apply(variables, IDS)


@pytest.mark.parametrize(
    ("arguments", "kind", "message"),
    [
        ({"model": 3}, TypeError, "model must be a flax.linen.Module, got 3"),
        ({"noise": 3}, TypeError, "noise must be a Noise, got 3"),
        ({"layer": 3}, TypeError, "layer must be the path of a module, got 3"),
        ({"step": -1}, ValueError, "step must be at least 0, got -1"),
        ({"mask": jnp.ones((3, 3))}, ValueError, r"mask must be of shape \(2, 5\), got"),
    ],
)
def test_wrong_calls(arguments, kind, message):
    with (
        pytest.raises(kind, match=message),
        attach(**{"model": MODEL, "noise": neftune(), "step": 0, **arguments}),
    ):
        MODEL.apply(VARIABLES, IDS)
