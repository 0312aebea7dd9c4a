"""The state of noise in Flax NNX: what layers and handles count, and what is saved."""

import json

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx

from embnoise import linear, neftune
from embnoise_jax.nnx import EmbeddingNoise, Handle, attach
from tests.jax.models import IDS, reference, same
from tests.jax.nnx_model import NnxModel

X = jnp.asarray(np.random.default_rng(0).standard_normal((2, 5, 16)), jnp.float32)
SCHEDULE = neftune(alpha=linear(5, 1, 4))


@nnx.jit
def forward(model, ids):
    return model(ids)[0]


def attached(**arguments):
    model = NnxModel(nnx.Rngs(0))
    return model, attach(model, **{"noise": SCHEDULE, **arguments})


def layer():
    layer = EmbeddingNoise(SCHEDULE)
    return layer, lambda: layer(X)


def handle():
    model, handle = attached()
    return handle, lambda: model(IDS)


@pytest.mark.parametrize("make", [layer, handle])
def test_layers_and_handles_have_the_same_state(make):
    noisy, call = make()
    assert noisy.noise is SCHEDULE
    assert (noisy.step, noisy.alpha, noisy.lookups) == (0, 5.0, 0)
    call()
    assert (noisy.step, noisy.alpha, noisy.lookups) == (1, 4.0, 1)
    noisy.step = 3
    assert (noisy.step, noisy.alpha, noisy.lookups) == (3, 2.0, 1)
    with noisy.paused():
        clean = call()
        with noisy.paused():
            pass
        assert same(*map(np.asarray, (call()[0], clean[0])))
    assert (noisy.step, noisy.lookups) == (3, 1)
    call()
    assert (noisy.step, noisy.lookups) == (4, 2)
    for step, kind in [(-1, ValueError), (2**31, ValueError), (1.5, TypeError)]:
        with pytest.raises(kind, match="step must be"):
            noisy.step = step
    assert noisy.step == 4


def test_a_paused_layer_returns_its_input():
    layer = EmbeddingNoise(neftune())
    with layer.paused():
        assert layer(X) is X
        assert layer(X, step=3) is X
    assert (layer.step, layer.lookups) == (0, 0)


def test_handles_follow_a_compiled_model():
    model, handle = attached(noise=neftune())
    clean = NnxModel(nnx.Rngs(0))(IDS)[0]
    assert same(forward(model, IDS), reference(clean, neftune()))
    with handle.paused():
        assert same(forward(model, IDS), clean)
    assert (handle.step, handle.lookups) == (1, 1)
    assert same(forward(model, IDS), reference(clean, neftune(), step=1))
    handle.step = 9
    assert same(forward(model, IDS), reference(clean, neftune(), step=9))


def test_setting_a_step_compiles_nothing_anew():
    layer, traced = EmbeddingNoise(neftune()), []

    @nnx.jit
    def noisy(layer):
        traced.append(repr(layer))
        return layer(X)

    for step in (0, 7, 4):
        layer.step = step
        assert same(noisy(layer), reference(X, neftune(), step=step))
    assert len(traced) == 1
    assert "count=" in traced[0]


def test_a_state_dict_continues_in_the_middle_of_a_step():
    model, handle = attached(calls_per_step=2)
    for _ in range(3):
        model(IDS)
    state = json.loads(json.dumps(handle.state_dict()))
    assert state == {"embed": {"step": 1, "calls": 1, "samples": 2, "lookups": 3}}
    restored, other = attached(calls_per_step=2)
    other.load_state_dict(state)
    for _ in range(3):
        assert same(restored(IDS)[0], model(IDS)[0])
    assert other.state_dict() == handle.state_dict()


def test_a_state_that_does_not_fit_changes_nothing():
    _, handle = attached()
    counter = {"step": 1, "calls": 0, "samples": 0, "lookups": 1}
    for state, kind in [
        ({"other": counter}, ValueError),
        ({"embed": {**counter, "step": -1}}, ValueError),
        ({"embed": {**counter, "calls": 0.5}}, TypeError),
        ({"embed": {**counter, "samples": 2**31}}, ValueError),
        ({"embed": {"step": 1}}, ValueError),
    ]:
        with pytest.raises(kind, match=r"state|samples must be below 2\*\*31"):
            handle.load_state_dict(state)
        assert handle.state_dict()["embed"]["step"] == 0


def test_a_removed_handle_keeps_its_last_state():
    model, handle = attached()
    model(IDS)
    with handle:
        pass
    clean = NnxModel(nnx.Rngs(0))(IDS)[0]
    with handle.paused():
        assert same(model(IDS)[0], clean)
    assert same(model(IDS)[0], clean)
    assert (handle.step, handle.alpha, handle.lookups) == (1, 4.0, 1)
    assert "step=1" in repr(handle)
    with pytest.raises(TypeError, match="belongs to one model"):
        handle.__reduce__()


def test_the_repr_shows_the_state():
    layer = EmbeddingNoise(SCHEDULE)
    layer(X)
    assert repr(layer) == f"EmbeddingNoise({SCHEDULE}, step=1, alpha=4, lookups=1)"
    assert "count=" in repr(nnx.eval_shape(lambda: EmbeddingNoise(SCHEDULE)))
    model, handle = attached()
    assert isinstance(handle, Handle)
    assert repr(handle).startswith("Handle('embed', step=0, alpha=5, lookups=0, noise=Noise(")
    assert "NoisyEmbed" in repr(model)


def test_a_handle_is_named_after_the_path():
    model = nnx.Sequential(nnx.Embed(20, 16, rngs=nnx.Rngs(0)))
    assert list(attach(model, neftune()).state_dict()) == ["layers.0"]
    nested = nnx.Dict(inner=NnxModel(nnx.Rngs(0)))
    handle = attach(nested, neftune(), layer=nested.inner.embed)
    assert list(handle.state_dict()) == ["inner.embed"]


class Stack(nnx.Module):
    """Its layers are one module, whose parameters are stacked."""

    def __init__(self, depth):
        make = nnx.split_rngs(splits=depth)(nnx.vmap(lambda rngs: nnx.Linear(16, 16, rngs=rngs)))
        self.blocks = make(nnx.Rngs(0))

    def __call__(self, x):
        call = nnx.scan(lambda block, x: block(x), in_axes=(0, nnx.Carry), out_axes=nnx.Carry)
        return call(self.blocks, x)


def test_layers_that_are_scanned_cannot_count():
    model = Stack(4)  # as many layers as a count has numbers
    attach(model, neftune(), layer="blocks", at="input")
    with pytest.raises(ValueError, match=r"shape \(4,\), got \(\): .*nnx.scan.*outside.*add_noise"):
        model(X)


def test_other_numbers_of_scanned_layers_fail_in_jax():
    model = Stack(3)
    attach(model, neftune(), layer="blocks", at="input")
    with pytest.raises(ValueError, match="leading axis sizes"):
        model(X)


@pytest.mark.parametrize("tokens", [None, lambda ids: {"sample_ids": ids[:, 0]}])
def test_a_count_that_was_cast_with_the_parameters_is_refused(tokens):
    model, _ = attached(tokens=tokens)
    state = nnx.state(model)
    nnx.update(model, jax.tree.map(lambda array: array.astype(jnp.bfloat16), state))
    message = r"count must be of an integer dtype, got bfloat16: .* nnx\.state\(model, nnx\.Param\)"
    with pytest.raises(TypeError, match=message):
        model(IDS)
    model, handle = attached(tokens=tokens)
    state = nnx.state(model, nnx.Param)
    nnx.update(model, jax.tree.map(lambda array: array.astype(jnp.bfloat16), state))
    model(IDS)
    assert handle.step == 1
