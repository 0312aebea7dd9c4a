"""Noise on layers that are no embeddings, in each of the libraries."""

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
from embnoise import Noise, neftune
from tests.jax.models import DIM, IDS, MASK, VOCABULARY, reference, same

NOISE = Noise(0.3, scale="absolute", seed=3)


class OfNnx:
    """Flax NNX: the mask is an argument of the model's call."""

    SEPARATOR = "."

    class Block(nnx.Module):
        def __call__(self, x):
            return 2 * x, "more"

    class Model(nnx.Module):
        def __init__(self):
            self.embed = nnx.Embed(VOCABULARY, DIM, rngs=nnx.Rngs(0))
            self.blocks = nnx.List([OfNnx.Block(), OfNnx.Block()])

        def __call__(self, ids, mask=None):
            states = [self.embed(ids)]
            for block in self.blocks:
                states.append(block(x=states[-1])[0])
            return states

    def __init__(self):
        self.model = self.Model()
        self.names = ["blocks.0", "blocks.1"]
        self.pattern = "blocks.*"

    def states(self, layer=None, noise=NOISE, **options):
        if layer is None:
            return self.model(IDS, MASK)
        about = {"tokens": lambda mask: {"mask": mask}}
        with embnoise_jax.nnx.attach(self.model, noise, layer=layer, **about, **options):
            return nnx.jit(lambda model, ids, mask: model(ids, mask))(self.model, IDS, MASK)


class OfLinen:
    """Flax Linen."""

    SEPARATOR = "/"

    class Block(nn.Module):
        def __call__(self, x):
            return 2 * x, "more"

    class Model(nn.Module):
        def setup(self):
            self.embed = nn.Embed(VOCABULARY, DIM)
            self.blocks = [OfLinen.Block(), OfLinen.Block()]

        def __call__(self, ids):
            states = [self.embed(ids)]
            for block in self.blocks:
                states.append(block(x=states[-1])[0])
            return states

    def __init__(self):
        self.model = self.Model()
        self.variables = self.model.init(jax.random.key(0), IDS)
        self.names = ["blocks_0", "blocks_1"]
        self.pattern = "blocks_*"

    def states(self, layer=None, noise=NOISE, **options):
        @jax.jit
        def run(variables):
            if layer is None:
                return self.model.apply(variables, IDS)
            with embnoise_jax.linen.attach(
                self.model, noise, step=0, layer=layer, mask=MASK, **options
            ):
                return self.model.apply(variables, IDS)

        return run(self.variables)


class OfEquinox:
    """Equinox: the model is called row by row."""

    SEPARATOR = "."

    class Block(eqx.Module):
        scale: jax.Array

        def __call__(self, x):
            return self.scale * x, "more"

    class Model(eqx.Module):
        embed: eqx.nn.Embedding
        blocks: list

        def __call__(self, ids):
            states = [jax.vmap(self.embed)(ids)]
            for block in self.blocks:
                states.append(block(x=states[-1])[0])
            return states

    def __init__(self):
        embed = eqx.nn.Embedding(VOCABULARY, DIM, key=jax.random.key(0))
        self.model = self.Model(embed, [self.Block(jnp.array(2.0)), self.Block(jnp.array(2.0))])
        self.names = ["blocks.0", "blocks.1"]
        self.pattern = "blocks.*"

    def states(self, layer=None, noise=NOISE, **options):
        @eqx.filter_jit
        def run(model):
            if layer is not None:
                model = embnoise_jax.equinox.attach(
                    model, noise, step=0, layer=layer, mask=MASK, **options
                )
            return jax.vmap(model)(IDS)

        return run(self.model)


@pytest.fixture(params=[OfNnx, OfLinen, OfEquinox])
def library(request):
    return request.param()


def expected(library, noises, at):
    """The states of the model, with noise on the layers of some numbers."""
    [x, *_] = library.states()
    states = [x]
    for number in range(2):
        noise = noises.get(number)
        if noise is not None and at == "input":
            x = reference(x, noise, mask=MASK)
        x = 2 * x
        if noise is not None and at == "output":
            x = reference(x, noise, mask=MASK)
        states.append(x)
    return states


def streams(library):
    """The noise of both blocks. With Linen, names are not known before the modules are called."""
    first, second = (replace(NOISE, stream=f"/{name}") for name in library.names)
    return {0: first if isinstance(library, OfLinen) else NOISE, 1: second}


@pytest.mark.parametrize("at", ["input", "output"])
def test_every_layer_has_noise_of_its_own(library, at):
    wanted = expected(library, streams(library), at)
    assert all(map(same, library.states(library.pattern, at=at), wanted))


def test_some_layers_by_a_range(library):
    wanted = expected(library, {1: streams(library)[1]}, "output")
    seen = library.states(library.pattern.replace("*", "[1-9]"))
    if not isinstance(library, OfLinen):
        wanted = expected(library, {1: NOISE}, "output")
    assert all(map(same, seen, wanted))


def test_the_magnitude_is_that_of_the_tokens(library):
    noise = neftune(20.0)
    x, noisy, _ = library.states(library.names[0], noise=noise)
    assert same(noisy, reference(2 * x, noise, mask=MASK))


def test_a_pattern_that_matches_nothing(library):
    layer = f"block{library.SEPARATOR}*"
    if isinstance(library, OfLinen):
        with pytest.warns(RuntimeWarning, match=r"block/\* was not called inside attach"):
            library.states(layer)
        return
    with pytest.raises(ValueError, match=r"pattern .* got 'block\.\*'; names like it: 'blocks"):
        library.states(layer)


@pytest.mark.parametrize(
    ("options", "kind", "message"),
    [
        ({"at": "inside"}, ValueError, r"at must be one of \['output', 'input'\], got 'inside'"),
        ({"layer": "embed", "at": "input"}, TypeError, "layer must return hidden states"),
    ],
)
def test_wrong_calls(library, options, kind, message):
    with pytest.raises(kind, match=message):
        library.states(**{"layer": library.pattern, **options})


class TestNnx:
    def test_a_layer_that_is_called_again_has_other_noise(self):
        class Twice(nnx.Module):
            def __init__(self):
                self.block = OfNnx.Block()

            def __call__(self, x):
                return self.block(x)[0], self.block(x)[0]

        model, x = Twice(), jnp.zeros((2, 3, 4))
        with embnoise_jax.nnx.attach(model, neftune(), layer="block", calls_per_step=2) as handle:
            first, second = model(x)
            assert handle.step == 1
        assert same(first, reference(2 * x, neftune()))
        assert same(second, reference(2 * x, neftune(), sample_ids=jnp.array([2, 3])))

    def test_the_class_comes_back_with_the_last_handle(self):
        library = OfNnx()
        wanted, kind = library.states(), type(library.model)
        options = {"tokens": lambda mask: {"mask": mask}}
        first = embnoise_jax.nnx.attach(library.model, NOISE, layer="blocks.0", **options)
        other = replace(NOISE, stream="other")
        second = embnoise_jax.nnx.attach(library.model, other, layer="blocks.1", **options)
        first.remove()
        wanted[2] = reference(wanted[2], other, mask=MASK)
        assert all(map(same, library.model(IDS, MASK), wanted))
        second.remove()
        assert type(library.model) is kind

    def test_a_function_may_name_the_arguments_of_the_model(self):
        library = OfNnx()
        with (
            embnoise_jax.nnx.attach(
                library.model, NOISE, layer="blocks.0", tokens=lambda other: {"mask": other}
            ),
            pytest.raises(ValueError, match=r"tokens must name .* \['ids', 'mask'\], got 'other'"),
        ):
            library.model(IDS, MASK)


class TestLinen:
    def test_a_layer_in_a_layer_has_noise_too(self):
        class Outer(nn.Module):
            @nn.compact
            def __call__(self, x):
                return OfLinen.Block(name="inner")(x)[0]

        class Model(nn.Module):
            @nn.compact
            def __call__(self, x):
                return Outer(name="outer")(x)

        x = jnp.zeros((2, 3, 4))
        with embnoise_jax.linen.attach(Model(), NOISE, step=0, layer=["outer", "outer/*"]):
            noisy = Model().apply({}, x)
        inner = reference(2 * x, replace(NOISE, stream="/outer/inner"))
        assert same(noisy, reference(inner, NOISE))


class TestEquinox:
    def test_a_layer_in_a_layer_has_noise_too(self):
        model = OfEquinox().model
        nested = OfEquinox.Model(model.embed, [eqx.nn.Sequential([eqx.nn.Lambda(lambda x: 2 * x)])])
        noisy = embnoise_jax.equinox.attach(
            nested, NOISE, step=0, layer=["blocks.0", "blocks.0.layers.0"]
        )
        x = jnp.zeros((3, 4))
        inner = reference(2 * x, replace(NOISE, stream="/blocks.0.layers.0"))
        assert same(noisy.blocks[0](x), reference(inner, NOISE))
