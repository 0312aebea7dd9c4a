"""The gradients of ``jax.grad``, of a model of NNX that is split into parameters and the rest."""

import jax
import pytest
from flax import nnx
from flax.errors import TraceContextError

from embnoise import neftune
from embnoise_jax.nnx import attach
from tests.jax.models import IDS, reference, same
from tests.jax.nnx_model import NnxModel


def gradient(model, *, copy):
    graphdef, params, rest = nnx.split(model, nnx.Param, ...)

    @jax.jit
    def step(params, rest):
        def loss(params):
            merged = nnx.merge(graphdef, params, rest, copy=copy)
            x, logits = merged(IDS)
            return (logits**2).mean(), (x, nnx.state(merged, nnx.Not(nnx.Param)))

        return jax.grad(loss, has_aux=True)(params)

    _, (x, rest) = step(params, rest)
    nnx.update(model, rest)
    return x


def test_a_model_that_is_merged_inside_of_a_gradient_counts():
    model = NnxModel(nnx.Rngs(0))
    clean = model(IDS)[0]
    with attach(model, neftune()) as handle:
        for step in range(2):
            assert same(gradient(model, copy=True), reference(clean, neftune(), step=step))
        assert handle.step == handle.lookups == 2
        with pytest.raises(TraceContextError, match=r"merge it by nnx\.merge\(\.\.\., copy=True\)"):
            gradient(model, copy=False)


def test_a_gradient_of_all_of_the_state_is_refused_by_jax():
    with (
        attach(model := NnxModel(nnx.Rngs(0)), neftune()),
        pytest.raises(TypeError, match="requires real- or complex-valued inputs"),
    ):
        jax.grad(lambda model: model(IDS)[1].sum())(model)
