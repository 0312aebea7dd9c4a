"""The layer of Equinox under ``jax.vmap``, where every row is a batch of one."""

import equinox as eqx
import jax
import jax.numpy as jnp
import pytest

from embnoise import neftune
from embnoise_jax import add_noise
from embnoise_jax.equinox import EmbeddingNoise
from tests.jax.models import same

LAYER = EmbeddingNoise(neftune(5.0))
X = jnp.zeros((3, 5, 8))
ROWS = jnp.arange(3)
SAME = "all rows that vmap maps over have the noise of sample 0"


@pytest.mark.parametrize("options", [{"step": 7}, {"key": jax.random.key(3)}])
def test_rows_with_one_noise_are_warned_of(options):
    def noisy(x):
        return LAYER(x, mask=jnp.ones((1, 5), bool) & (x[None, :, 0] == 0), **options)

    calls = [
        jax.vmap(noisy),
        jax.jit(jax.vmap(noisy)),
        jax.vmap(jax.grad(lambda x: noisy(x).sum())),
        jax.grad(lambda x: jax.vmap(noisy)(x).sum()),
    ]
    for call in calls:
        with pytest.warns(RuntimeWarning, match=SAME) as seen:
            call(X)
        assert [each.filename for each in seen] == [__file__]


def test_rows_that_something_tells_apart_are_not_warned_of():
    whole = add_noise(X, LAYER.noise, step=7)
    by_row = jax.vmap(lambda x, row: LAYER(x, step=7, sample_ids=row[None]))
    assert same(by_row(X, ROWS), whole)
    jax.vmap(lambda x, key: LAYER(x, key=key))(X, jax.random.split(jax.random.key(0), 3))
    jax.vmap(lambda x, step: LAYER(x, step=step))(X, ROWS)
    jax.vmap(lambda x, row: LAYER(x, step=7, positions=row * 5 + jnp.arange(5)[None]))(X, ROWS)
    jax.vmap(lambda x: LAYER(x, step=7, sample_ids=ROWS[:1]))(X)  # an ensemble
    jax.vmap(eqx.nn.inference_mode(LAYER))(X)
    jax.vmap(lambda step: LAYER(X, step=step))(ROWS)
