"""Models of Linen that ``vmap`` maps: over rows, which need samples of their own, or members."""

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import pytest

from embnoise import neftune
from embnoise_jax import add_noise
from embnoise_jax.linen import attach

NOISE = neftune(20.0)
IDS = jnp.ones((3, 5), jnp.int32)
ROWS = r"rows that vmap maps over would all have the noise of sample 0: .*sample_ids=row\[None\]"


class Model(nn.Module):
    def setup(self):
        self.embed = nn.Embed(10, 8)
        self.block = nn.Dense(8)

    def __call__(self, ids):
        return self.block(self.embed(ids))


MODEL = Model()
PARAMS = MODEL.init(jax.random.key(0), IDS)


class OverRows(nn.Module):
    members: bool = False

    @nn.compact
    def __call__(self, ids):
        axis = 0 if self.members else None
        split = {"params": self.members}
        return nn.vmap(Model, variable_axes={"params": axis}, split_rngs=split)()(ids)


def loss(params, ids, step=0, *, noise=NOISE, **options):
    with attach(MODEL, noise, step=step, **options):
        return (MODEL.apply(params, ids[None]) ** 2).sum()


@pytest.mark.parametrize("place", [{}, {"layer": "block"}, {"layer": "block", "at": "input"}])
def test_rows_without_samples_are_refused(place):
    def inside(params, ids):
        return loss(params, ids, mask=(ids != 0)[None], **place)

    def around(params):
        with attach(MODEL, NOISE, step=0, **place):
            return jax.vmap(lambda ids: MODEL.apply(params, ids[None]))(IDS).sum()

    for call in (
        lambda: jax.vmap(inside, in_axes=(None, 0))(PARAMS, IDS),
        lambda: jax.jit(jax.vmap(jax.grad(inside), in_axes=(None, 0)))(PARAMS, IDS),
        lambda: around(PARAMS),
        lambda: jax.jit(jax.grad(around))(PARAMS),
    ):
        with pytest.raises(ValueError, match=ROWS):
            call()


@pytest.mark.parametrize("members", [False, True])
def test_nn_vmap_over_rows_is_refused_and_over_members_accepted(members):
    model = OverRows(members)
    params = model.init(jax.random.key(0), IDS)

    @jax.jit
    def loss(params):
        with attach(model, NOISE, step=0):
            return model.apply(params, IDS).sum()

    if members:
        jax.grad(loss)(params)
    else:
        with pytest.raises(ValueError, match=ROWS):
            jax.grad(loss)(params)


def test_rows_with_samples():
    @jax.jit
    def noisy(params, ids, step):
        def of_row(ids, row):
            with attach(MODEL, NOISE, step=step, sample_ids=row[None]):
                return MODEL.apply(params, ids[None])[0]

        return jax.vmap(of_row)(ids, jnp.arange(3))

    bound = MODEL.bind(PARAMS)
    expected = bound.block(add_noise(bound.embed(IDS), NOISE, step=7))
    np.testing.assert_allclose(noisy(PARAMS, IDS, 7), expected, rtol=0, atol=1e-5)


def test_what_differs_otherwise_is_accepted():
    steps, keys = jnp.arange(3), jax.random.split(jax.random.key(0), 3)
    jax.vmap(loss, in_axes=(None, 0, 0))(PARAMS, IDS, steps)
    jax.vmap(lambda ids, key: loss(PARAMS, ids, noise=neftune(20.0, seed=key)))(IDS, keys)
    jax.vmap(lambda ids: loss(PARAMS, ids, sample_ids=jnp.zeros(1, jnp.int32)))(IDS)
    jax.vmap(lambda step: loss(PARAMS, IDS[0], step))(steps)


def test_members_of_an_ensemble_share_noise():
    keys = jax.random.split(jax.random.key(0), 3)
    members = jax.vmap(lambda key: MODEL.init(key, IDS))(keys)
    for own in (None, 0):
        ids = IDS[0] if own is None else IDS
        jax.vmap(loss, in_axes=(0, own))(members, ids)
        jax.vmap(jax.grad(loss), in_axes=(0, own))(members, ids)
