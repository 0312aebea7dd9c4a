"""Flax NNX: which arguments of the model's call the function ``tokens`` is given."""

import pytest
from flax import nnx

from embnoise import neftune
from embnoise_jax.nnx import attach
from tests.jax.models import DIM, IDS, MASK, VOCABULARY, reference, same

NOISE = neftune(20.0)


class Model(nnx.Module):
    def __init__(self):
        self.embed = nnx.Embed(VOCABULARY, DIM, rngs=nnx.Rngs(0))

    def __call__(self, *inputs, mask=None, **others):
        return self.embed(inputs[0])

    def encode(self, ids, mask):
        return self.embed(ids)


@pytest.mark.parametrize(
    ("tokens", "options"),
    [
        (lambda inputs: {"mask": inputs[1]}, {}),
        (lambda mask: {"mask": mask}, {"mask": MASK}),
        (lambda padding_mask: {"mask": padding_mask}, {"padding_mask": MASK}),
    ],
)
def test_arguments_that_the_signature_does_not_name(tokens, options):
    model = Model()
    clean = model.embed(IDS)
    attach(model, NOISE, tokens=tokens)
    assert same(model(IDS, MASK, **options), reference(clean, NOISE, mask=MASK))


def test_the_arguments_of_other_methods_are_not_known():
    model = Model()
    attach(model, NOISE, tokens=lambda mask: {"mask": mask})
    with pytest.raises(
        ValueError, match=r"among \['ids'\].* Only the arguments of calls of the mo"
    ):
        model.encode(IDS, MASK)
