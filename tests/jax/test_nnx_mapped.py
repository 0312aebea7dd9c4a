"""Models of NNX that ``nnx.vmap`` maps: over rows, which need samples of their own, or members."""

import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx

from embnoise import neftune
from embnoise_jax import add_noise
from embnoise_jax.nnx import NoiseCount, attach

NOISE = neftune(20.0)
IDS = jnp.ones((3, 5), jnp.int32)
ROWS = r"rows that vmap maps over would all have the noise of sample 0: .*tokens=lambda row"
MEMBERS = nnx.StateAxes({NoiseCount: None, ...: 0})


class Model(nnx.Module):
    def __init__(self, rngs):
        self.embed = nnx.Embed(10, 8, rngs=rngs)
        self.block = nnx.Linear(8, 8, rngs=rngs)

    def __call__(self, ids, row=None):
        return self.block(self.embed(ids))


def over_rows(model):
    return nnx.vmap(lambda model, ids: model(ids), in_axes=(None, 0))(model, IDS)


@pytest.mark.parametrize("layer", ["embed", "block"])
def test_rows_without_samples_are_refused(layer):
    model = Model(nnx.Rngs(0))
    of_rows = nnx.vmap(nnx.grad(lambda model, ids: model(ids).sum()), in_axes=(None, 0))
    calls = [
        lambda: over_rows(model),
        lambda: nnx.jit(over_rows)(model),
        lambda: of_rows(model, IDS),
        lambda: nnx.grad(lambda model: over_rows(model).sum())(model),
    ]
    with attach(model, NOISE, layer=layer) as handle:
        for call in calls:
            with pytest.raises(ValueError, match=ROWS):
                call()
        assert handle.step == 0
        with handle.paused():
            over_rows(model)


def test_rows_with_samples():
    model = Model(nnx.Rngs(0))
    expected = model.block(add_noise(model.embed(IDS), NOISE, step=0))
    with attach(model, NOISE, tokens=lambda row: {"sample_ids": row[None]}) as handle:
        over = nnx.vmap(lambda model, ids, row: model(ids, row), in_axes=(None, 0, 0))
        noisy = over(model, IDS, jnp.arange(3))
        assert handle.step == 1
    np.testing.assert_allclose(noisy, expected, rtol=0, atol=1e-5)


@pytest.mark.parametrize("own", [None, 0])
def test_members_of_an_ensemble_share_noise(own):
    ensemble = nnx.split_rngs(splits=3)(nnx.vmap(Model, in_axes=0, out_axes=0))(nnx.Rngs(0))
    batches = IDS[:2] if own is None else jnp.stack([IDS[:2]] * 3)

    def loss(model, ids):
        return model.block(model.embed(ids)).sum()

    with attach(ensemble, NOISE) as handle:
        nnx.vmap(lambda model, ids: model.embed(ids), in_axes=(MEMBERS, own))(ensemble, batches)
        nnx.vmap(nnx.grad(loss), in_axes=(MEMBERS, own))(ensemble, batches)
        assert handle.step == 2
