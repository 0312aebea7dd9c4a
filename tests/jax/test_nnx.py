"""Noise in Flax NNX: the module, and noise attached to a model."""

import copy

import jax
import jax.numpy as jnp
import numpy as np
import optax
import orbax.checkpoint as ocp
import pytest
from flax import nnx
from flax.errors import TraceContextError

from embnoise import linear, neftune
from embnoise_jax import add_noise
from embnoise_jax.nnx import EmbeddingNoise, NoiseCount, attach
from tests.jax.models import IDS, MASK, reference, same
from tests.jax.nnx_model import NnxModel

X = jnp.asarray(np.random.default_rng(0).standard_normal((2, 5, 16)), jnp.float32)


def with_mask(ids):
    return {"mask": ids != 0}


def test_the_layer_counts_its_training_calls():
    layer = EmbeddingNoise(neftune())
    for step in range(3):
        assert layer.step == step
        assert same(layer(X, mask=MASK), reference(X, neftune(), step=step, mask=MASK))
    layer.eval()
    assert layer(X) is X
    assert layer.step == 3
    layer.train()
    assert same(layer(X), reference(X, neftune(), step=3))
    assert layer(X, deterministic=True) is X


def test_an_explicit_step_is_pure():
    layer = EmbeddingNoise(neftune())
    assert same(layer(X, step=7), layer(X, step=7))
    assert same(layer(X, step=0), reference(X, neftune(), step=0))
    assert (layer.step, layer.lookups) == (0, 0)
    assert same(nnx.jit(lambda layer, step: layer(X, step=step))(layer, 7), layer(X, step=7))


def test_micro_batches_are_one_batch():
    layer = EmbeddingNoise(neftune(alpha=linear(5, 1, 4)), calls_per_step=2)
    for step in range(3):
        parts = [layer(X[:1]), layer(X[1:])]
        expected = reference(X, neftune(alpha=5.0 - step), step=step)
        np.testing.assert_allclose(jnp.concatenate(parts), expected, atol=1e-6)
    layer.step = 1
    np.testing.assert_allclose(layer(X), reference(X, neftune(alpha=4.0), step=1), atol=1e-6)


def test_training_with_an_attached_schedule_and_without_a_second_compilation():
    model = NnxModel(nnx.Rngs(0))
    noise = neftune(alpha=linear(5, 1, 4))
    handle = attach(model, noise, tokens=with_mask)
    optimizer = nnx.Optimizer(model, optax.sgd(0.0), wrt=nnx.Param)
    traced = []

    @nnx.jit
    def train_step(model, optimizer):
        traced.append(None)

        def loss(model):
            x, logits = model(IDS)
            return (logits**2).mean(), x

        (_, x), grads = nnx.value_and_grad(loss, has_aux=True)(model)
        optimizer.update(model, grads)
        return x

    clean = NnxModel(nnx.Rngs(0))(IDS)[0]
    for step in range(3):
        seen = train_step(model, optimizer)
        expected = reference(clean, neftune(alpha=5.0 - step), step=step, mask=MASK)
        np.testing.assert_allclose(seen, expected, atol=1e-6)
        assert handle.step == step + 1
    assert len(traced) == 1
    model.eval()
    assert same(model(IDS)[0], clean)


def test_the_output_projection_is_clean():
    model = NnxModel(nnx.Rngs(0))
    x = model.embed(IDS)
    with attach(model, neftune()):
        assert same(model.embed.attend(x), NnxModel(nnx.Rngs(0)).embed.attend(x))
        assert not same(model.embed(IDS), x)


def test_the_gradient_of_the_table_counts_lookups():
    model = NnxModel(nnx.Rngs(0))
    attach(model, neftune())
    grads = nnx.grad(lambda model: model(IDS)[0].sum())(model)
    counts = np.bincount(IDS.ravel(), minlength=20)
    assert (grads["embed"]["embedding"][...] == counts[:, None]).all()


def test_remove_leaves_the_model_as_it_was():
    model = NnxModel(nnx.Rngs(0))
    before, clean = nnx.graphdef(model), model(IDS)
    handle = attach(model, neftune())
    assert not same(model(IDS)[0], clean[0])
    handle.remove()
    handle.remove()
    with pytest.raises(RuntimeError, match=r"call attach\(\) again"), handle:
        pass
    assert nnx.graphdef(model) == before
    assert type(model.embed) is nnx.Embed
    assert same(model(IDS)[0], clean[0])
    with pytest.raises(RuntimeError, match="stop"), attach(model, neftune()):
        raise RuntimeError("stop")
    assert nnx.graphdef(model) == before


def test_an_old_handle_does_not_end_a_new_noise():
    model = NnxModel(nnx.Rngs(0))
    old = attach(model, neftune())
    old.remove()
    clean = model(IDS)[0]
    attach(model, neftune())
    old.remove()
    assert not same(model(IDS)[0], clean)


def test_a_view_may_be_clean():
    model = NnxModel(nnx.Rngs(0))
    clean = model(IDS)[0]
    attach(model, neftune())
    assert same(nnx.view(model, deterministic=True)(IDS)[0], clean)
    assert not same(model(IDS)[0], clean)


def test_the_path_of_the_parameters_stays():
    model = NnxModel(nnx.Rngs(0))
    before = nnx.state(model, nnx.Param)
    attach(model, neftune())
    after = nnx.state(model, nnx.Param)
    assert jax.tree.structure(before) == jax.tree.structure(after)
    assert len(jax.tree.leaves(nnx.state(model, NoiseCount))) == 1


def test_orbax_goes_on_where_it_was(tmp_path):
    def fresh():
        model = NnxModel(nnx.Rngs(0))
        return model, attach(model, neftune(alpha=linear(5, 1, 9)))

    model, _ = fresh()
    for _ in range(3):
        model(IDS)
    with ocp.StandardCheckpointer() as checkpointer:
        checkpointer.save(tmp_path / "state", nnx.state(model))
        checkpointer.wait_until_finished()
        other, handle = fresh()
        nnx.update(other, checkpointer.restore(tmp_path / "state", nnx.state(other)))
    assert handle.step == 3
    assert same(other(IDS)[0], model(IDS)[0])


def test_a_deep_copy_is_a_model_of_its_own():
    model = NnxModel(nnx.Rngs(0))
    handle = attach(model, neftune())
    twin = copy.deepcopy(model)
    assert same(twin(IDS)[0], model(IDS)[0])
    twin(IDS)
    assert handle.step == 1


class Two(nnx.Module):
    def __init__(self):
        self.first = nnx.Embed(5, 4, rngs=nnx.Rngs(0))
        self.second = nnx.Embed(6, 4, rngs=nnx.Rngs(0))


@pytest.mark.parametrize("layer", ["second", lambda model: model.second])
def test_a_layer_is_chosen(layer):
    model = Two()
    layer = layer if isinstance(layer, str) else layer(model)
    attach(model, neftune(), layer=layer)
    ids = jnp.array([[1, 2]])
    assert same(model.first(ids), Two().first(ids))
    assert not same(model.second(ids), Two().second(ids))


@pytest.mark.parametrize(
    ("call", "kind", "message"),
    [
        (lambda: attach(Two(), neftune()), ValueError, "found 2 embeddings in the model; pass la"),
        (lambda: attach(Two(), neftune()), ValueError, r"'first' \(5, 4\), 'second' \(6, 4\)"),
        (
            lambda: attach(Two(), neftune(), layer="third"),
            ValueError,
            r"got 'third'; names like it: none; embeddings: 'first' \(5, 4\)",
        ),
        (lambda: attach(Two(), neftune(), layer=3), TypeError, "layer must be a module or its p"),
        (
            lambda: attach(Two(), neftune(), layer=Two().first),
            ValueError,
            "layer must be a module of the model, got Embed",
        ),
        (lambda: attach(nnx.Linear(2, 2, rngs=nnx.Rngs(0)), neftune()), ValueError, "found no nnx"),
        (lambda: attach(print, neftune()), TypeError, "model must be a flax.nnx.Module, got <b"),
        (lambda: attach(Two(), 5.0), TypeError, r"got 5.0; did you mean neftune\(alpha=5.0\)\?"),
        (lambda: EmbeddingNoise(5.0), TypeError, r"got 5.0; did you mean neftune\(alpha=5.0\)\?"),
        (lambda: attach(Two(), neftune(), tokens=3), TypeError, "tokens must be a callable, got 3"),
        (lambda: attach(Two(), neftune(), where="prompt"), ValueError, "where must be 'all' or a"),
        (lambda: attach(Two(), neftune(), where=MASK), TypeError, "where must be 'all' or a call"),
        (
            lambda: attach(nnx.Dict(layers=nnx.List([])), neftune(), layer="layers"),
            TypeError,
            r"layer must be callable, or have encode\(\), got a List",
        ),
        (lambda: EmbeddingNoise(neftune(linear(1, 2))), ValueError, "alpha is the unbound sched"),
        (
            lambda: EmbeddingNoise(neftune(), calls_per_step=0),
            ValueError,
            "calls_per_step must be at least 1, got 0",
        ),
    ],
)
def test_wrong_calls(call, kind, message):
    with pytest.raises(kind, match=message):
        call()


def test_attaching_twice_is_refused():
    model = NnxModel(nnx.Rngs(0))
    with attach(model, neftune()) as handle:
        with pytest.raises(ValueError, match="noise attached to 'embed' already"):
            attach(model, neftune())
        model(IDS)
        assert handle.lookups == 1


def test_attach_is_atomic(monkeypatch):
    def fail(module, kind):
        raise RuntimeError("stop")

    model = NnxModel(nnx.Rngs(0))
    before = nnx.graphdef(model)
    with monkeypatch.context() as patch:
        patch.setattr("embnoise_jax.nnx.change_class", fail)
        with pytest.raises(RuntimeError, match="stop"):
            attach(model, neftune())
    assert nnx.graphdef(model) == before

    @jax.jit
    def attached_inside(x):
        attach(model, neftune())
        return x

    with pytest.raises(TraceContextError, match="Cannot mutate 'Embed'"):
        attached_inside(X)
    assert nnx.graphdef(model) == before
    assert same(model(IDS)[0], NnxModel(nnx.Rngs(0))(IDS)[0])


@pytest.mark.parametrize("transform", [jax.jit, nnx.jit, jax.grad, jax.checkpoint])
def test_a_model_in_a_closure_is_refused_with_what_to_do(transform):
    model = NnxModel(nnx.Rngs(0))
    attach(model, neftune())
    with pytest.raises(TraceContextError, match="Pass the model as an argument of a function und"):
        transform(lambda scale: (scale * model(IDS)[0]).sum())(1.0)
    layer = EmbeddingNoise(neftune())
    noisy = jax.jit(lambda x, step: layer(x, step=step))(X, 3)
    assert same(noisy, reference(X, neftune(), step=3))


def test_tokens_and_where_describe_what_is_looked_up():
    def after_first(ids):
        return ids > 1

    clean = NnxModel(nnx.Rngs(0))(IDS)[0]
    for arguments, expected in [
        ({"tokens": with_mask}, {"mask": MASK}),
        ({"where": after_first}, {"where": IDS > 1}),
        ({"tokens": with_mask, "where": after_first}, {"mask": MASK, "where": IDS > 1}),
        ({"tokens": lambda: {"sample_ids": jnp.array([7, 8])}}, {"sample_ids": jnp.array([7, 8])}),
    ]:
        model = NnxModel(nnx.Rngs(0))
        attach(model, neftune(), **arguments)
        assert same(model(IDS)[0], reference(clean, neftune(), **expected))
        # In evaluation nobody is asked about the tokens.
        model.eval()
        assert same(model(IDS[:, :2])[0], clean[:, :2])


@pytest.mark.parametrize(
    ("arguments", "kind", "message"),
    [
        ({"tokens": lambda labels: {}}, ValueError, r"tokens must name .* \['ids'\], got 'labels'"),
        ({"where": lambda x: x != 0}, ValueError, r"where must name .* among \['ids'\], got 'x'"),
        ({"tokens": lambda ids: ids != 0}, TypeError, "tokens must return a dict, got an array"),
        (
            {"tokens": lambda ids: {"maks": ids}},
            ValueError,
            r"unknown key 'maks' \(did you mean 'm",
        ),
        (
            {"tokens": lambda ids: {"mask": ids * 0.5}},
            TypeError,
            "mask must be of a boolean or int",
        ),
        (
            {"tokens": lambda ids: {"where": ids != 0}, "where": lambda ids: ids != 0},
            ValueError,
            "where must come from tokens= or where=, got it from both",
        ),
    ],
)
def test_wrong_descriptions_of_tokens_are_refused_at_the_lookup(arguments, kind, message):
    model = NnxModel(nnx.Rngs(0))
    handle = attach(model, neftune(), **arguments)
    with pytest.raises(kind, match=message):
        model(IDS)
    assert (handle.step, handle.lookups) == (0, 0)


def test_the_optimizer_s_step_will_do():
    model = NnxModel(nnx.Rngs(0))
    optimizer = nnx.Optimizer(model, optax.adam(0.1), wrt=nnx.Param)
    assert same(add_noise(X, neftune(), step=optimizer.step), reference(X, neftune()))
    traced = nnx.jit(lambda optimizer: add_noise(X, neftune(), step=optimizer.step))(optimizer)
    assert same(traced, reference(X, neftune()))


class Regularized(nnx.Module):
    def __init__(self, **options):
        self.embed = nnx.Embed(20, 16, rngs=nnx.Rngs(0))
        self.dropout = nnx.Dropout(0.0, **options)
        self.noise = EmbeddingNoise(neftune(), deterministic=options.get("deterministic", False))

    def __call__(self, ids):
        return self.dropout(self.embed(ids))


@pytest.mark.parametrize("how", ["eval", "flags"])
def test_a_model_in_evaluation_mode_has_no_noise_before_it_trains(how):
    model = Regularized(**({"deterministic": True} if how == "flags" else {}))
    if how == "eval":
        model.eval()
    clean = model(IDS)
    with pytest.warns(RuntimeWarning, match=r"no noise until model.train\(\)"):
        handle = attach(model, neftune(stream="attached"))
    assert same(model(IDS), clean)
    assert handle.lookups == 0
    model.train()
    assert not same(model(IDS), clean)
    assert handle.lookups == 1


def test_a_model_of_which_a_part_trains_is_attached_to_in_training_mode():
    model = Regularized()
    model.noise.eval()
    clean = model(IDS)
    attach(model, neftune(stream="attached"))
    assert not same(model(IDS), clean)


def test_noise_that_the_model_has_already_is_refused():
    model = Regularized()
    with pytest.raises(ValueError, match="at 'noise' already, and 'embed' would get the same"):
        attach(model, neftune())
    attach(model, neftune(seed=1)).remove()
    attach(model, neftune(stream="attached")).remove()


class Decoder(nnx.Module):
    def __init__(self):
        self.embed = nnx.Embed(20, 16, rngs=nnx.Rngs(0))

    def __call__(self, ids, mask=None, **about):
        return self.embed(ids)


def test_functions_take_keywords_and_arguments_that_a_call_leaves_out():
    model = Decoder()
    clean = model(IDS)
    with attach(model, neftune(), tokens=lambda real: {"mask": real}):
        assert same(model(IDS, real=MASK), reference(clean, neftune(), step=0, mask=MASK))
        with pytest.raises(ValueError, match=r"\['ids'\], got 'real'; give it a default if some"):
            model(IDS)
    with attach(model, neftune(), tokens=lambda mask=None: {"mask": mask}) as handle:
        assert same(model(IDS), reference(clean, neftune(), step=0))
        handle.step = 0
        assert same(model(IDS, MASK), reference(clean, neftune(), step=0, mask=MASK))


class OwnJit(nnx.Module):
    """Its call is compiled by itself."""

    def __init__(self):
        self.embed = nnx.Embed(20, 16, rngs=nnx.Rngs(0))

    @nnx.jit
    def __call__(self, ids, mask):
        return self.embed(ids)


def test_a_call_that_would_keep_its_first_mask_is_refused():
    model = OwnJit()
    clean = model(IDS, MASK)
    with (
        attach(model, neftune(), tokens=lambda mask: {"mask": mask}),
        pytest.raises(ValueError, match=r"got 'mask'.*compiled or recomputed by itself.*from ids"),
    ):
        model(IDS, MASK)
    with attach(model, neftune(), tokens=with_mask):
        assert same(model(IDS, MASK), reference(clean, neftune(), step=0, mask=IDS != 0))


def test_flags_of_another_part_of_the_model_do_not_count():
    pair = nnx.Sequential(Regularized(), Regularized())
    pair.layers[1].eval()
    ids, clean = IDS, pair.layers[0](IDS)
    attach(pair, neftune(stream="attached"), layer="layers.0.embed")
    assert not same(pair.layers[0](ids), clean)
    with pytest.warns(RuntimeWarning, match="layers.1.embed gets no noise until"):
        attach(pair, neftune(stream="other"), layer="layers.1.embed")


@pytest.mark.parametrize("seeds", [(jax.random.key(7), jax.random.key(7)), (jax.random.key(7), 7)])
def test_keys_of_the_same_seed_are_the_same_noise(seeds):
    model = nnx.Sequential(Decoder(), Decoder())
    attach(model, neftune(seed=seeds[0]), layer="layers.0.embed")
    with pytest.raises(ValueError, match=r"'layers.1.embed' would get the same"):
        attach(model, neftune(seed=seeds[1]), layer="layers.1.embed")
    attach(model, neftune(seed=jax.random.key(8)), layer="layers.1.embed")


@nnx.dataclass
class Unhashable(nnx.Module):
    embed: nnx.Embed

    def __call__(self, ids):
        return self.embed(ids)


def test_a_model_that_is_a_dataclass():
    model = Unhashable(nnx.Embed(20, 16, rngs=nnx.Rngs(0)))
    clean = model(IDS)
    with attach(model, neftune(), tokens=with_mask):
        assert same(model(IDS), reference(clean, neftune(), step=0, mask=IDS != 0))
    assert type(model) is Unhashable
    assert same(model(IDS), clean)


def test_an_embedding_is_its_own_model():
    model = nnx.Embed(8, 4, rngs=nnx.Rngs(0))
    ids = jnp.arange(6).reshape(2, 3)
    clean = model(ids)
    attach(model, neftune(5.0))
    assert same(model(ids), add_noise(clean, neftune(5.0), step=0))
