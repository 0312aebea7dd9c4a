"""Flax NNX: a module that is shared is named by any of its paths."""

import pytest
from flax import nnx

from embnoise import neftune
from embnoise_jax.nnx import attach
from tests.jax.models import DIM, IDS, VOCABULARY, reference, same

NOISE = neftune(20.0)


class Side(nnx.Module):
    def __init__(self, embed):
        self.embed = embed

    def __call__(self, ids):
        return self.embed(ids)


class Shared(nnx.Module):
    """As T5: one table for both sides, and a name of its own."""

    def __init__(self):
        embed = nnx.Embed(VOCABULARY, DIM, rngs=nnx.Rngs(0))
        self.shared, self.encoder, self.decoder = embed, Side(embed), Side(embed)
        self.others = nnx.List([Side(embed), Side(nnx.Embed(4, DIM, rngs=nnx.Rngs(1)))])
        self.encoder.whole = self  # a circle


PATHS = ["shared", "encoder.embed", "decoder.embed", "others.0.embed", "encoder.whole.shared"]


@pytest.mark.parametrize("layer", [*PATHS, "*coder.embed", ["shared", "decoder.embed"]])
def test_any_path_names_a_shared_module(layer):
    model = Shared()
    clean = model.encoder(IDS)
    handle = attach(model, NOISE, layer=layer)
    assert same(model.encoder(IDS), reference(clean, NOISE))
    assert handle.lookups == 1
    handle.remove()
    assert same(model.encoder(IDS), clean)


def test_a_pattern_matches_each_module_once():
    model = Shared()
    handle = attach(model, NOISE, layer="others.*.embed")
    assert len(handle.state_dict()) == 2
    handle.remove()
    for layer in ("encoder.table", "shared.embedding.value"):
        with pytest.raises(ValueError, match=f"got '{layer}'; names like it: "):
            attach(model, NOISE, layer=layer)
