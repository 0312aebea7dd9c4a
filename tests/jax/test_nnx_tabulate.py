"""``nnx.tabulate``, which calls a copy of a model with every public method of it wrapped."""

import jax.numpy as jnp
import pytest
from flax import nnx

from embnoise import neftune
from embnoise_jax.nnx import attach
from tests.jax.models import IDS, same
from tests.jax.nnx_model import NnxModel


@pytest.mark.parametrize("at", ["output", "input"])
@pytest.mark.parametrize("evaluating", [False, True])
def test_a_model_with_noise_is_tabulated(at, evaluating):
    model = NnxModel(nnx.Rngs(0))
    layer = "embed" if at == "output" else "dense"
    with attach(model, neftune(5.0), layer=layer, at=at) as handle:
        if evaluating:
            model.eval()
        assert layer in nnx.tabulate(model, IDS)
        assert handle.step == handle.lookups == 0
        model.train()
        noisy = model(IDS)
    assert not same(noisy[1], model(IDS)[1])
    assert bool(jnp.isfinite(noisy[1]).all())
