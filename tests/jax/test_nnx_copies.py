"""A pickle of an attached NNX model is clean; a copy by NNX has noise of its own."""

import copy
import pickle
import pickletools

import pytest
from flax import nnx

from embnoise import neftune
from embnoise_jax.nnx import attach
from tests.jax.models import IDS, MASK, reference, same
from tests.jax.nnx_model import NnxModel


def through_pickle(model):
    return pickle.loads(pickle.dumps(model))  # noqa: S301, our own


@pytest.mark.parametrize("tokens", [None, lambda ids: {"mask": ids != 0}], ids=["plain", "tokens"])
@pytest.mark.parametrize("at", ["output", "input"])
def test_a_pickle_of_an_attached_model_is_clean(tokens, at):
    model = NnxModel(nnx.Rngs(0))
    before, clean = nnx.graphdef(model), model(IDS)
    layer = "embed" if at == "output" else "dense"
    with attach(model, neftune(), layer=layer, tokens=tokens, at=at) as handle:
        restored = through_pickle(model)
        assert nnx.graphdef(restored) == before
        assert [type(each) for each in (restored, restored.embed)] == [NnxModel, nnx.Embed]
        assert all(map(same, restored(IDS), clean))
        assert not same(model(IDS)[1], clean[1])
        assert handle.lookups == 1
        with attach(restored, neftune(), layer=layer, tokens=tokens, at=at) as other:
            restored(IDS)
            assert (other.lookups, handle.lookups) == (1, 1)
    assert nnx.graphdef(model) == before


class Bare(nnx.Module):
    """Its own call is recorded, and gets noise too."""

    def __init__(self):
        self.inner = nnx.Embed(20, 16, rngs=nnx.Rngs(0))

    def __call__(self, ids):
        return self.inner(ids)


def test_a_pickle_of_a_model_with_noise_on_itself_is_clean():
    model = Bare()
    clean = model(IDS)
    attach(model, neftune(), tokens=lambda ids: {"mask": ids != 0})
    attach(model, neftune(stream="other"), layer=model)
    assert type(model).__name__ == "NoisyRecordingBare"
    restored = through_pickle(model)
    assert type(restored) is Bare
    assert same(restored(IDS), clean)
    assert not same(model(IDS), clean)


def test_a_pickle_does_not_need_embnoise():
    model = NnxModel(nnx.Rngs(0))
    attach(model, neftune(), tokens=lambda ids: {"mask": ids != 0})
    strings = [value for _, value, _ in pickletools.genops(pickle.dumps(model)) if value]
    assert not [each for each in strings if "embnoise" in str(each) or "noise" in str(each)]


def test_a_shallow_copy_of_an_attached_layer_is_clean():
    model = NnxModel(nnx.Rngs(0))
    attach(model, neftune())
    twin = copy.copy(model.embed)
    assert type(twin) is nnx.Embed
    assert twin.embedding is model.embed.embedding
    assert same(twin(IDS), NnxModel(nnx.Rngs(0)).embed(IDS))


@pytest.mark.parametrize("copied", [nnx.clone, copy.deepcopy])
def test_a_copy_by_nnx_keeps_noise_that_its_handle_does_not_end(copied):
    model = NnxModel(nnx.Rngs(0))
    clean = model(IDS)[0]
    handle = attach(model, neftune(), tokens=lambda ids: {"mask": ids != 0})
    twin = copied(model)
    handle.remove()
    assert same(twin(IDS)[0], reference(clean, neftune(), mask=MASK))
    message = r"remove\(\) .* nnx.clone .*no handle: copy it before attach\(\)"
    with pytest.raises(ValueError, match=message):
        attach(twin, neftune())
    twin.eval()
    assert same(twin(IDS)[0], clean)
    assert same(through_pickle(twin)(IDS)[0], clean)
