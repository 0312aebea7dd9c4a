"""Noise in Equinox: the module, and a model whose embedding adds noise."""

from functools import partial

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

import embnoise
import embnoise_jax
from embnoise import linear, neftune
from embnoise_jax.equinox import EmbeddingNoise, attach
from tests.jax import models
from tests.jax.models import DIM, IDS, MASK, VOCABULARY, same


class EquinoxModel(eqx.Module):
    """It takes one row, as Equinox has it."""

    embed: eqx.nn.Embedding
    dense: eqx.nn.Linear

    def __init__(self, key):
        keys = jax.random.split(key)
        self.embed = eqx.nn.Embedding(VOCABULARY, DIM, key=keys[0])
        self.dense = eqx.nn.Linear(DIM, DIM, key=keys[1])

    def __call__(self, ids):
        x = jax.vmap(self.embed)(ids)
        return x, jax.vmap(self.dense)(x) @ self.embed.weight.T


MODEL = EquinoxModel(jax.random.key(0))
CLEAN = jax.vmap(MODEL)(IDS)[0]
reference = partial(models.reference, CLEAN)


def test_the_layer():
    layer = EmbeddingNoise(neftune())
    assert same(layer(CLEAN, step=3, mask=MASK), reference(neftune(), step=3, mask=MASK))
    keys = jax.random.split(jax.random.key(0), 2)
    rows = jax.vmap(lambda x, key: layer(x, key=key))(CLEAN, keys)
    for row, x, key in zip(rows, CLEAN, keys, strict=True):
        assert same(row, layer(x, key=key))
    assert not (rows[0] - CLEAN[0] == rows[1] - CLEAN[1]).any()
    assert layer(CLEAN, inference=True) is CLEAN
    assert eqx.nn.inference_mode(layer)(CLEAN) is CLEAN
    assert not jax.tree.leaves(eqx.filter(layer, eqx.is_array))


def test_the_layer_in_a_sequential():
    lookup = eqx.nn.Lambda(eqx.filter_vmap(MODEL.embed))
    model = eqx.nn.Sequential([lookup, EmbeddingNoise(neftune())])
    assert not (model(IDS[1], key=jax.random.key(0)) == CLEAN[1]).any()


def test_attached_noise_sees_through_vmap():
    noisy = jax.vmap(attach(MODEL, neftune(), step=3, mask=MASK))(IDS)[0]
    assert same(noisy, reference(neftune(), step=3, mask=MASK))

    def row(ids, mask, sample):
        return attach(MODEL, neftune(), step=3, mask=mask, sample_ids=sample)(ids)[0]

    samples = jnp.array([4, 7])
    expected = reference(neftune(), step=3, mask=MASK, sample_ids=samples)
    assert same(jax.vmap(row)(IDS, MASK, samples), expected)
    alone = attach(MODEL, neftune(), step=3)(IDS[1])[0]
    assert same(alone, reference(neftune(), step=3, sample_ids=jnp.zeros(2, int))[1])


def test_vmap_over_sample_ids_alone():
    def row(sample):
        return attach(MODEL, neftune(), step=3, sample_ids=sample)(IDS[1])[0]

    seen = jax.vmap(row)(jnp.arange(4))
    x = np.broadcast_to(np.asarray(CLEAN)[1], (4, 5, 16))
    assert same(seen, embnoise.add_noise(x, neftune(), step=3))


def test_training():
    traced = []
    optimizer = optax.sgd(0.0)
    noise = neftune(alpha=linear(5, 1, 4))

    @eqx.filter_jit
    def train_step(model, state, step):
        traced.append(None)

        def loss(model):
            x, logits = jax.vmap(attach(model, noise, step=step, mask=MASK))(IDS)
            return (logits**2).mean(), x

        grads, x = eqx.filter_grad(loss, has_aux=True)(model)
        updates, state = optimizer.update(grads, state)
        return eqx.apply_updates(model, updates), state, x

    model, state = MODEL, optimizer.init(eqx.filter(MODEL, eqx.is_inexact_array))
    for step in range(3):
        model, state, seen = train_step(model, state, jnp.int32(step))
        expected = reference(neftune(alpha=5.0 - step), step=step, mask=MASK)
        np.testing.assert_allclose(seen, expected, atol=1e-6)
    assert len(traced) == 1
    assert jax.tree.structure(model) == jax.tree.structure(MODEL)


def test_the_gradient_of_the_table_counts_lookups():
    def total(model):
        return jax.vmap(attach(model, neftune(), step=0))(IDS)[0].sum()

    grads = eqx.filter_grad(total)(MODEL)
    counts = np.bincount(IDS.ravel(), minlength=20)
    assert (grads.embed.weight == counts[:, None]).all()


def test_the_output_projection_is_clean_and_the_model_unchanged():
    noisy = attach(MODEL, neftune(), step=0)
    assert noisy.embed.weight is MODEL.embed.weight
    assert same(jax.vmap(MODEL)(IDS)[0], CLEAN)
    assert same(jax.vmap(eqx.nn.inference_mode(noisy))(IDS)[0], CLEAN)


def test_arrays_that_never_fit_are_an_error_when_it_is_compiled():
    def rows(model, mask):
        return jax.vmap(attach(model, neftune(), step=0, mask=mask))(IDS)[1].sum()

    wrong = MASK[:, :4]
    message = r"^mask must be of shape \(2, 5\), got shape \(2, 4\)"
    for transform in (lambda call: call, eqx.filter_jit, eqx.filter_grad):
        with pytest.raises(ValueError, match=message):
            transform(rows)(MODEL, wrong)
    lowered = eqx.filter_jit(eqx.filter_grad(rows))
    with pytest.raises(ValueError, match=message):
        lowered.lower(MODEL, wrong)  # nothing runs
    with pytest.raises(ValueError, match=r"mask must be of shape \(1, 5\), got shape \(2, 5\)"):
        attach(MODEL, neftune(), step=0, mask=MASK)(IDS[0])
    with pytest.raises(ValueError, match=r"sample_ids must be of shape .* got shape \(3,\)"):
        jax.vmap(attach(MODEL, neftune(), step=0, sample_ids=jnp.arange(3)))(IDS)


def test_a_known_alpha_is_not_trained_with_a_copy():
    def total(noisy):
        return (jax.vmap(noisy)(IDS)[0] ** 2).sum()

    for alpha in (5.0, linear(5, 1, 4)):
        slopes = eqx.filter_grad(total)(attach(MODEL, neftune(alpha), step=1, mask=MASK))
        batches = [each.batch for each in nodes_with_batch(slopes)]
        assert [float(batch.alpha) for batch in batches] == [0.0] * len(batches) != []


def nodes_with_batch(model):
    is_noisy = lambda node: hasattr(node, "batch")  # noqa: E731
    return filter(is_noisy, jax.tree.leaves(model, is_leaf=is_noisy))


def test_a_traced_alpha_has_its_gradient():
    def total(alpha):
        return jax.vmap(attach(MODEL, neftune(alpha), step=0, mask=MASK))(IDS)[0].sum()

    slope = jax.jit(jax.grad(total))(5.0)
    np.testing.assert_allclose(slope, (total(5.0) - CLEAN.sum()) / 5.0, atol=1e-4)


class Two(eqx.Module):
    layers: list

    def __init__(self):
        self.layers = [eqx.nn.Embedding(5, 4, key=jax.random.key(i)) for i in range(2)]


@pytest.mark.parametrize("layer", ["layers.1", lambda model: model.layers[1]])
def test_a_layer_is_chosen(layer):
    noisy = attach(Two(), neftune(), step=0, layer=layer)
    assert type(noisy.layers[0]) is eqx.nn.Embedding
    assert type(noisy.layers[1]) is not eqx.nn.Embedding


@pytest.mark.parametrize(
    ("call", "kind", "message"),
    [
        (
            lambda: attach(Two(), neftune(), step=0),
            ValueError,
            "found 2 embeddings in the model; pass layer=",
        ),
        (lambda: attach(Two(), neftune(), step=0), ValueError, r"'layers.1' \(5, 4\)"),
        (
            lambda: attach([1], neftune(), step=0),
            ValueError,
            "found no eqx.nn.Embedding in the model",
        ),
        (lambda: attach(MODEL, 5.0, step=0), TypeError, r"did you mean neftune\(alpha=5.0\)"),
        (lambda: attach(MODEL, neftune(), step=1.5), TypeError, "step must be an integer, got 1.5"),
        (lambda: attach(MODEL, neftune(), step=-1), ValueError, "step must be at least 0, got -1"),
        (
            lambda: attach(Two(), neftune(), step=0, layer="layers.2"),
            ValueError,
            r"got 'layers.2'; names like it: 'layers.1', .* embeddings: 'layers.0' \(5, 4\)",
        ),
        (
            lambda: attach(MODEL, neftune(), step=0, layer=3),
            TypeError,
            "layer must be the path of a module, or a function from the model to it, got 3",
        ),
        (
            lambda: attach(Two(), neftune(), step=0, layer="layers.1.weight"),
            TypeError,
            "layer must lead to a module that is called, got ",
        ),
        (
            lambda: attach(Two(), neftune(), step=0, layer=lambda model: Two().layers[0]),
            ValueError,
            "layer must return a part of the model, got ",
        ),
        (
            lambda: attach(attach(MODEL, neftune(), step=0), neftune(), step=0),
            ValueError,
            "model has noise attached to 'embed' already",
        ),
        (lambda: EmbeddingNoise(5.0), TypeError, r"did you mean neftune\(alpha=5.0\)"),
        (
            lambda: attach(5, neftune(), step=0),
            TypeError,
            "model must be a PyTree of modules, got 5",
        ),
        (
            lambda: attach(MODEL, neftune(), step=0, layer=lambda model: model.foo),
            ValueError,
            "layer must return a part of the model, and raised AttributeError: .*foo",
        ),
        (
            lambda: EmbeddingNoise(neftune())(CLEAN, key=5),
            TypeError,
            "key must be a jax.random.key, got 5",
        ),
        (
            lambda: EmbeddingNoise(neftune())(CLEAN),
            ValueError,
            "step or key must be given in training, got n",
        ),
        (
            lambda: EmbeddingNoise(neftune(linear(1, 0, 9)))(CLEAN, key=jax.random.key(0)),
            ValueError,
            "step must be given in training with a schedule, got None",
        ),
    ],
)
def test_wrong_calls(call, kind, message):
    with pytest.raises(kind, match=message):
        call()


class EncoderDecoder(eqx.Module):
    encoder: eqx.nn.Embedding
    decoder: eqx.nn.Embedding
    activation: object = jax.nn.relu
    last: object = jax.nn.relu

    def __call__(self, ids):
        return jax.vmap(self.encoder)(ids), jax.vmap(self.decoder)(ids)


def noisy_sides(model, **options):
    """Which of the embeddings add noise."""
    noisy, clean = attach(model, neftune(), step=3, **options)(IDS[0]), model(IDS[0])
    return [not same(one, other) for one, other in zip(noisy, clean, strict=True)]


def test_a_function_leads_to_one_place_of_a_shared_embedding():
    shared = EncoderDecoder(MODEL.embed, MODEL.embed)
    assert noisy_sides(shared, layer=lambda model: model.decoder) == [False, True]
    both = [lambda model: model.encoder, lambda model: model.decoder]
    assert noisy_sides(shared, layer=both) == [True, True]
    with pytest.raises(ValueError, match=r"in it once.*'activation', 'last': pass its path"):
        noisy_sides(shared, layer=lambda model: model.last)


class Regularized(EncoderDecoder):
    dropout: eqx.nn.Dropout = eqx.nn.Dropout(0.5)


def test_a_model_in_inference_mode_is_attached_to_in_that_mode():
    model = Regularized(MODEL.embed, MODEL.embed)
    evaluated = eqx.nn.inference_mode(model)
    assert noisy_sides(model, layer="encoder") == [True, False]
    assert noisy_sides(evaluated, layer="encoder") == [False, False]
    again = eqx.nn.inference_mode(attach(evaluated, neftune(), step=3, layer="encoder"), False)
    assert not same(again(IDS[0])[0], model(IDS[0])[0])


class WithLayer(eqx.Module):
    embed: eqx.nn.Embedding
    noise: EmbeddingNoise

    def __call__(self, ids):
        return self.noise(jax.vmap(self.embed)(ids), step=3)


def test_noise_that_the_model_has_already_is_refused():
    model = WithLayer(MODEL.embed, EmbeddingNoise(neftune()))
    with pytest.raises(ValueError, match="at 'noise' already, and 'embed' would get the same"):
        attach(model, neftune(), step=3)
    key = jax.random.key(1)
    for noise in (neftune(seed=1), neftune(stream="attached"), neftune(seed=key)):
        noisy = attach(model, noise, step=3)(IDS[0])
        assert not same(noisy, model(IDS[0]))
    twice = attach(attach(MODEL, neftune(seed=key), step=3), neftune(), step=3, layer="dense")
    assert callable(twice)
    with pytest.raises(ValueError, match="'embed' already, and 'dense' would get the same"):
        attach(attach(MODEL, neftune(seed=key), step=3), neftune(seed=key), step=3, layer="dense")


def test_a_third_axis_is_refused_with_what_to_do():
    def noisy(step):
        return jax.vmap(attach(MODEL, neftune(), step=step))(IDS)[0]

    steps = jnp.arange(3)
    with pytest.raises(ValueError, match=r"shape \(3, .*such as models, steps or seeds.*lax.map"):
        jax.jit(jax.vmap(noisy))(steps)
    for step, seen in enumerate(jax.lax.map(noisy, steps)):
        assert same(seen, reference(neftune(), step=step))


def test_derivatives_without_promotion():
    def loss(alpha, table):
        noisy = attach([eqx.nn.Embedding(weight=table)], neftune(alpha), step=3)[0]
        return jax.vmap(jax.vmap(noisy))(IDS).astype(jnp.float32).sum()

    table = MODEL.embed.weight.astype(jnp.bfloat16)
    expected = jax.grad(loss, (0, 1))(5.0, table)
    with jax.numpy_dtype_promotion("strict"), jax.numpy_rank_promotion("raise"):
        by_alpha, by_table = jax.grad(jax.jit(loss), (0, 1))(5.0, table)
    assert np.allclose(by_alpha, expected[0], rtol=1e-2)
    assert same(by_table, expected[1])


def test_flags_of_another_part_of_the_model_do_not_count():
    student = Regularized(MODEL.embed, MODEL.embed)
    pair = (student, eqx.nn.inference_mode(student))
    clean = student(IDS[0])
    for layer, noisy in (("0.encoder", True), ("1.encoder", False)):
        attached = attach(pair, neftune(), step=3, layer=layer)
        seen = attached[int(layer[0])](IDS[0])
        assert same(seen[0], clean[0]) != noisy


def test_noises_with_keys_of_their_own_inside_a_compiled_function():
    one, two = jax.random.key(7), jax.random.key(8)

    @jax.jit
    def looked_up(ids):
        model = attach((MODEL, MODEL), neftune(seed=one), step=3, layer="0.embed")
        model = attach(model, neftune(seed=two), step=3, layer="1.embed")
        return [jax.vmap(each)(ids)[0] for each in model]

    for seen, seed in zip(looked_up(IDS), (7, 8), strict=True):
        assert same(seen, reference(neftune(seed=seed), step=3))


def test_an_embedding_is_its_own_model():
    model = eqx.nn.Embedding(8, 4, key=jax.random.key(0))
    ids = jnp.arange(6)
    noisy = jax.vmap(attach(model, neftune(5.0), step=0))(ids)
    assert same(noisy, embnoise_jax.add_noise(jax.vmap(model)(ids), neftune(5.0), step=0))
