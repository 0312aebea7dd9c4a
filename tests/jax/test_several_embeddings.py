"""An encoder-decoder with two tables, in each of the libraries: each has noise of its own."""

from dataclasses import replace

import equinox as eqx
import flax.linen as nn
import jax
import jax.numpy as jnp
import pytest
from flax import nnx

import embnoise_jax.equinox
import embnoise_jax.linen
import embnoise_jax.nnx
from embnoise import linear, neftune
from tests.jax.models import DIM, IDS, MASK, VOCABULARY, reference, same

DECODER_IDS = jnp.array([[9, 8, 0], [7, 6, 5]])
BATCH = {"encoder": IDS, "decoder": DECODER_IDS}
MASKS = {"encoder": MASK, "decoder": DECODER_IDS != 0}
NOISE = neftune(20.0, seed=3)


class OfNnx:
    """Flax NNX: the masks come from a function."""

    SEPARATOR = "."

    class Side(nnx.Module):
        def __init__(self, seed):
            self.embed = nnx.Embed(VOCABULARY, DIM, rngs=nnx.Rngs(seed))

        def __call__(self, ids):
            return self.embed(ids)

    class Model(nnx.Module):
        def __init__(self):
            self.encoder, self.decoder = OfNnx.Side(0), OfNnx.Side(1)

        def __call__(self, ids, decoder_ids):
            return self.encoder(ids), self.decoder(decoder_ids)

    def __init__(self):
        self.model = self.Model()

    def lookups(self, *layers, noises=None, masks=None):
        for layer, noise in zip(layers, noises or [NOISE] * len(layers), strict=True):
            embnoise_jax.nnx.attach(
                self.model, noise, layer=layer, tokens=lambda ids: {"mask": ids != 0}
            )
        return nnx.jit(lambda model: model(IDS, DECODER_IDS))(self.model)


class OfLinen:
    """Flax Linen."""

    SEPARATOR = "/"

    class Side(nn.Module):
        @nn.compact
        def __call__(self, ids):
            return nn.Embed(VOCABULARY, DIM, name="embed")(ids)

    class Model(nn.Module):
        def setup(self):
            self.encoder, self.decoder = OfLinen.Side(), OfLinen.Side()

        def __call__(self, ids, decoder_ids):
            return self.encoder(ids), self.decoder(decoder_ids)

    def __init__(self):
        self.model = self.Model()
        self.variables = self.model.init(jax.random.key(0), IDS, DECODER_IDS)

    def lookups(self, *layers, noises=None, masks=None):
        [noise] = noises or [NOISE]
        about = {} if masks is None else {"mask": masks}

        @jax.jit
        def run(variables):
            if not layers:
                return self.model.apply(variables, IDS, DECODER_IDS)
            [layer] = layers
            with embnoise_jax.linen.attach(self.model, noise, step=0, layer=layer, **about):
                return self.model.apply(variables, IDS, DECODER_IDS)

        return run(self.variables)


class OfEquinox:
    """Equinox."""

    SEPARATOR = "."

    class Side(eqx.Module):
        embed: eqx.nn.Embedding

        def __call__(self, ids):
            return jax.vmap(jax.vmap(self.embed))(ids)

    class Model(eqx.Module):
        encoder: eqx.Module
        decoder: eqx.Module

        def __call__(self, ids, decoder_ids):
            return self.encoder(ids), self.decoder(decoder_ids)

    def __init__(self):
        keys = jax.random.split(jax.random.key(0))
        embeds = [eqx.nn.Embedding(VOCABULARY, DIM, key=key) for key in keys]
        self.model = self.Model(*map(self.Side, embeds))

    def lookups(self, *layers, noises=None, masks=None):
        @eqx.filter_jit
        def run(model):
            for layer, noise in zip(layers, noises or [NOISE] * len(layers), strict=True):
                model = embnoise_jax.equinox.attach(model, noise, step=0, layer=layer, mask=masks)
            return model(IDS, DECODER_IDS)

        return run(self.model)


LIBRARIES = [OfNnx, OfLinen, OfEquinox]


@pytest.fixture(params=LIBRARIES)
def library(request):
    return request.param()


def path(library, side):
    return f"{side}{library.SEPARATOR}embed"


def masks(library):
    return {path(library, side): mask for side, mask in MASKS.items()}


def expected(library, streams):
    """The lookups of both sides, with the noise of the streams that they have."""
    return [
        reference(x, replace(NOISE, stream=streams[side]), mask=MASKS[side])
        if side in streams
        else x
        for side, x in zip(BATCH, library.lookups(), strict=True)
    ]


@pytest.mark.parametrize("sides", [("encoder", "decoder"), ("decoder", "encoder")])
def test_all_but_the_first_have_a_stream_of_their_own(library, sides):
    first, second = sides
    wanted = expected(library, {first: "", second: f"/{path(library, second)}"})
    seen = library.lookups([path(library, side) for side in sides], masks=masks(library))
    assert all(map(same, seen, wanted))


def test_one_of_them(library):
    wanted = expected(library, {"decoder": ""})
    given = {path(library, "decoder"): MASKS["decoder"]}
    seen = library.lookups(path(library, "decoder"), masks=given)
    assert all(map(same, seen, wanted))


def test_a_name_that_is_given_twice_counts_once(library):
    wanted = expected(library, {"decoder": ""})
    given = {path(library, "decoder"): MASKS["decoder"]}
    seen = library.lookups([path(library, "decoder")] * 2, masks=given)
    assert all(map(same, seen, wanted))


def test_the_default_does_not_choose(library):
    with pytest.raises(ValueError, match=r"pass layer=, one of them or a list\. Candidates: "):
        library.lookups(None)


def test_an_empty_list_is_refused(library):
    with pytest.raises(ValueError, match=r"layer must name at least one layer, got \[\]"):
        library.lookups([])


@pytest.mark.parametrize("library", [OfNnx, OfEquinox], indirect=True)
def test_attaching_again_would_repeat_the_noise(library):
    """In Linen a block inside a block of the same model is refused."""
    layers = [path(library, side) for side in BATCH]
    with pytest.raises(ValueError, match=r"of the stream '' at 'encoder.embed' already"):
        library.lookups(*layers)
    wanted = expected(type(library)(), {"encoder": "", "decoder": "other"})
    noises = [NOISE, replace(NOISE, stream="other")]
    seen = type(library)().lookups(*layers, noises=noises, masks=None)
    assert same(seen[0][1], wanted[0][1])  # the rows without padding
    assert same(seen[1][1], wanted[1][1])


@pytest.mark.parametrize("library", [OfLinen, OfEquinox], indirect=True)
def test_arrays_of_a_layer_that_is_not_named(library):
    with pytest.raises(ValueError, match=r"mask has an array for .*, which layer= does not name"):
        library.lookups(path(library, "encoder"), masks=masks(library))


def test_linen_says_which_layer_was_not_called():
    library = OfLinen()
    with pytest.warns(RuntimeWarning, match="embnoise: decoder/embeds was not called"):
        library.lookups(["encoder/embed", "decoder/embeds"])


class Around(nn.Module):
    inner: nn.Module

    def __call__(self, *ids):
        return self.inner(*ids)


@pytest.mark.parametrize("layer", ["encoder/embed", "inner/encoder/embed", "*coder/embed"])
def test_linen_knows_paths_in_the_model_and_in_those_around_it(layer):
    model = OfLinen().model
    around = Around(model)
    params = around.init(jax.random.key(0), IDS, DECODER_IDS)
    clean, other = around.apply(params, IDS, DECODER_IDS)
    with embnoise_jax.linen.attach(model, NOISE, step=0, layer=layer):
        noisy, other_noisy = around.apply(params, IDS, DECODER_IDS)
    own = replace(NOISE, stream="/encoder/embed") if "*" in layer else NOISE
    assert same(noisy, reference(clean, own))
    assert same(other_noisy, other) == ("*" not in layer)


class TestTheHandleOfNnx:
    def test_it_stands_for_both(self):
        model, layers = OfNnx().model, ["encoder.embed", "decoder.embed"]
        before = nnx.graphdef(model)
        handle = embnoise_jax.nnx.attach(model, neftune(linear(5.0, 0.0, 4)), layer=layers)
        model(IDS, DECODER_IDS)
        assert (handle.step, handle.alpha, handle.lookups) == (1, 3.75, 2)
        saved = handle.state_dict()
        assert list(saved) == layers
        handle.step = 3
        assert {each["step"] for each in handle.state_dict().values()} == {3}
        handle.load_state_dict(saved)
        with handle.paused():
            model(IDS, DECODER_IDS)
        assert handle.state_dict() == saved
        handle.remove()
        assert nnx.graphdef(model) == before

    def test_it_is_all_or_nothing(self):
        model = OfNnx.Model()
        layers = ["encoder.embed", "decoder.embed"]
        with embnoise_jax.nnx.attach(model, NOISE, layer=layers[1]):
            before = nnx.graphdef(model)
            with pytest.raises(ValueError, match=r"attached to 'decoder.embed' already"):
                embnoise_jax.nnx.attach(model, NOISE, layer=layers)
            assert nnx.graphdef(model) == before


def test_tables_that_are_not_looked_up_equally_often():
    model = OfNnx.Model()
    noise = neftune(alpha=linear(5, 0, 10))
    handle = embnoise_jax.nnx.attach(model, noise, layer=["encoder.embed", "decoder.embed"])
    for _ in range(3):
        model.decoder(DECODER_IDS)
    assert (handle.step, handle.alpha) == (3, 3.5)
    state = handle.state_dict()
    handle.step = 0
    assert {counter["step"] for counter in handle.state_dict().values()} == {0}
    handle.load_state_dict(state)
    assert (handle.step, handle.state_dict()) == (3, state)
