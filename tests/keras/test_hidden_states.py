"""Noise on layers that are no embeddings."""

from dataclasses import replace

import keras
import numpy as np
import pytest

import embnoise
from embnoise import Noise, neftune
from embnoise_keras import attach
from tests.keras.models import DIM, IDS, MASK, VOCABULARY, numpy

NOISE = Noise(0.3, scale="absolute", seed=3)


class Block(keras.layers.Layer):
    """A block that needs the mask that Keras passes on with its input."""

    def __init__(self, **options):
        super().__init__(**options)
        self.supports_masking = True
        self.inner = Masked()

    def call(self, x, causal=False):
        return self.inner(x)


class Masked(keras.layers.Layer):
    seen = ()

    def __init__(self):
        super().__init__()
        self.supports_masking = True

    def call(self, x, mask=None):
        Masked.seen = (*Masked.seen, mask is not None)
        return 2 * x


def model(mask_zero=True):
    keras.utils.set_random_seed(0)
    ids = keras.Input((5,), dtype="int32", name="token_ids")
    x = keras.layers.Embedding(VOCABULARY, DIM, mask_zero=mask_zero, name="embed")(ids)
    states = [x]
    for number in range(2):
        states.append(Block(name=f"block_{number}")(states[-1], causal=True))
    return keras.Model(ids, states)


def states(built, training=True):
    return [numpy(each) for each in built(IDS, training=training)]


def expected(x, at, noises):
    """The states of the model, with the noise of each block."""
    found = [x]
    for noise in noises:
        if at == "input":
            x = embnoise.add_noise(x, noise, step=0, mask=MASK)
        x = 2 * x
        if at == "output":
            x = embnoise.add_noise(x, noise, step=0, mask=MASK)
        found.append(x)
    return found


@pytest.mark.parametrize("at", ["input", "output"])
@pytest.mark.parametrize("noise", [NOISE, neftune(20.0)])
def test_every_layer_has_noise_of_its_own(noise, at):
    built = model()
    x, *clean = states(built)
    wanted = expected(x, at, [noise, replace(noise, stream="/2")])
    with attach(built, noise, layer="block_*", at=at) as handle:
        assert all(map(np.array_equal, states(built), wanted))
        assert Masked.seen[-2:] == (True, True)
        assert (handle.step, handle.lookups) == (1, 2)
        assert all(map(np.array_equal, states(built, training=False), [x, *clean]))
    assert all(map(np.array_equal, states(built), [x, *clean]))


def test_in_fit():
    built, other = model(), model()
    for each in (built, other):
        each.compile("sgd", "mse")
    targets = [np.ones((4, 5, DIM), np.float32)] * 3
    with attach(built, neftune(50.0), layer=["block_[0-9]"], at="input") as handle:
        losses = [each.fit(IDS, targets, batch_size=2, verbose=0).history["loss"]
                  for each in (built, other)]  # fmt: skip
        assert (handle.step, handle.lookups) == (2, 4)
    assert losses[0] != losses[1]


def test_functions_take_the_inputs_of_the_model():
    built = model()
    [x, *_] = states(built)
    where = IDS % 2 == 0

    def tokens(token_ids):
        return {"mask": token_ids != 0, "where": token_ids % 2 == 0}

    with attach(built, NOISE, layer="block_0", tokens=tokens):
        seen = states(built)
    wanted = embnoise.add_noise(2 * x, NOISE, step=0, mask=MASK, where=where)
    assert np.array_equal(seen[1], wanted)


def test_the_first_entry_of_a_tuple():
    class Pair(keras.layers.Layer):
        def call(self, x):
            return 2 * x, "more"

    class Model(keras.Model):
        def __init__(self):
            super().__init__()
            self.pair = Pair(name="pair")

        def call(self, x, training=None):
            return self.pair(x=x)

    built, x = Model(), keras.ops.ones((2, 3, 4))
    built(x)
    for at in ("output", "input"):
        with attach(built, NOISE, layer="*/pair", at=at):
            noisy, more = built(x, training=True)
        clean = np.full((2, 3, 4), 2 if at == "output" else 1, np.float32)
        wanted = embnoise.add_noise(clean, NOISE, step=0) * (1 if at == "output" else 2)
        assert np.array_equal(numpy(noisy), wanted)
        assert more == "more"


@pytest.mark.parametrize(
    ("options", "kind", "message"),
    [
        ({"layer": "blok_*"}, ValueError, r"pattern .* got 'blok_\*'; names like it: 'block_"),
        ({"layer": []}, ValueError, r"layer must name at least one layer, got \[\]"),
        ({"at": "inside"}, ValueError, r"at must be one of \['output', 'input'\], got 'inside'"),
        ({"layer": "embed", "at": "input"}, TypeError, "layer must return hidden states"),
    ],
)
def test_wrong_calls(options, kind, message):
    built = model()
    with pytest.raises(kind, match=message), attach(built, NOISE, **options):
        states(built)
