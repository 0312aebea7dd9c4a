"""Small language models as they are written in Flax and Equinox, in one training step each.

No library of such models is among the tests' requirements, so they are made here: with positions
in a table of their own, logits from the table of the tokens, and layers that are called one by one,
scanned or recomputed. What is checked is the noise of the lookup, that there is no other, the
gradients, and that evaluation is clean.
"""

import equinox as eqx
import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx

import embnoise_jax.equinox
import embnoise_jax.linen
import embnoise_jax.nnx
from embnoise import neftune
from tests.jax.models import DIM, IDS, MASK, VOCABULARY, reference, same

NOISE = neftune(20.0, seed=3)
LAYERS = 2
BODIES = [pytest.param("looped", marks=pytest.mark.sweep), "scanned", "recomputed"]


class LinenBlock(nn.Module):
    @nn.compact
    def __call__(self, x, _):
        self.variable("statistics", "calls", jnp.zeros, (), jnp.int32).value += 1
        return x + nn.Dense(DIM)(nn.tanh(nn.Dense(DIM)(x))), None


class LinenModel(nn.Module):
    body: str

    def setup(self):
        recomputed = self.body == "recomputed"
        self.embed = (nn.remat(nn.Embed) if recomputed else nn.Embed)(VOCABULARY, DIM)
        self.positions = nn.Embed(IDS.shape[1], DIM)
        if self.body == "scanned":
            axes = {"params": 0, "statistics": 0}
            scan = nn.scan(LinenBlock, axes, split_rngs={"params": True}, length=LAYERS)
            self.blocks = [scan()]
        else:
            kind = nn.remat(LinenBlock) if recomputed else LinenBlock
            self.blocks = [kind() for _ in range(LAYERS)]
        self.dropout = nn.Dropout(0.0)

    def __call__(self, ids, deterministic=False):
        x = self.embed(ids)
        return x, self.logits(x, deterministic)

    def logits(self, x, deterministic=False):
        x = self.dropout(x + self.positions(jnp.arange(x.shape[1])), deterministic=deterministic)
        for block in self.blocks:
            x, _ = block(x, None)
        return self.embed.attend(x)


class OfLinen:
    """Noise by a block in the compiled function, which also returns a mutable collection."""

    def __init__(self, body):
        self.model = LinenModel(body)
        variables = self.model.init(jax.random.key(0), IDS)
        self.weights, self.statistics = variables["params"], variables["statistics"]

    def apply(self, weights, *arguments, **keywords):
        variables = {"params": weights, "statistics": self.statistics}
        return self.model.apply(variables, *arguments, mutable=["statistics"], **keywords)

    def forward(self, weights, step):
        with embnoise_jax.linen.attach(self.model, NOISE, step=step, layer="embed", mask=MASK):
            (x, logits), changed = self.apply(weights, IDS)
        assert set(changed) == {"statistics"}
        return x, logits

    def clean(self, weights):
        return self.apply(weights, IDS, deterministic=True)[0]

    def logits(self, weights, x):
        return self.apply(weights, x, method="logits")[0]


class NnxBlock(nnx.Module):
    def __init__(self, rngs):
        self.inner, self.outer = (nnx.Linear(DIM, DIM, rngs=rngs) for _ in range(2))

    def __call__(self, x):
        return x + self.outer(nnx.tanh(self.inner(x)))


def call(module, x):
    return module(x)


class NnxModel(nnx.Module):
    def __init__(self, body):
        rngs = nnx.Rngs(0)
        self.scanned = body == "scanned"
        self.call = nnx.remat(call) if body == "recomputed" else call
        self.embed = nnx.Embed(VOCABULARY, DIM, rngs=rngs)
        self.positions = nnx.Embed(IDS.shape[1], DIM, rngs=rngs)
        if self.scanned:
            self.blocks = nnx.split_rngs(splits=LAYERS)(nnx.vmap(NnxBlock))(rngs)
        else:
            self.blocks = nnx.List([NnxBlock(rngs) for _ in range(LAYERS)])
        self.dropout = nnx.Dropout(0.0, rngs=rngs)

    def __call__(self, ids):
        x = self.call(self.embed, ids)
        return x, self.logits(x)

    def logits(self, x):
        x = self.dropout(x + self.positions(jnp.arange(x.shape[1])))
        if self.scanned:
            scan = nnx.scan(call, in_axes=(0, nnx.Carry), out_axes=nnx.Carry)
            x = scan(self.blocks, x)
        else:
            for block in self.blocks:
                x = self.call(block, x)
        return self.embed.attend(x)


class OfNnx:
    """Noise in the model's state: the step of the call is that of its counter."""

    def __init__(self, body):
        self.model = NnxModel(body)
        self.graph, self.weights, self.others = nnx.split(self.model, nnx.Param, ...)

    def merged(self, weights):
        return nnx.merge(self.graph, weights, self.others, copy=True)

    def forward(self, weights, step):
        model = self.merged(weights)
        calls = []
        handle = embnoise_jax.nnx.attach(
            model, NOISE, layer="embed", tokens=lambda ids: calls.append(None) or {"mask": ids != 0}
        )
        count = model.embed.embedding_noise.count
        count[...] = count[...].at[0].set(step)
        found = model(IDS)
        assert calls == [None]
        handle.remove()
        return found

    def clean(self, weights):
        model = self.merged(weights)
        with embnoise_jax.nnx.attach(model, NOISE, layer="embed"):
            model.eval()
            return model(IDS)

    def logits(self, weights, x):
        return self.merged(weights).logits(x)


class EquinoxBlock(eqx.Module):
    inner: eqx.nn.Linear
    outer: eqx.nn.Linear

    def __init__(self, key):
        self.inner, self.outer = (
            eqx.nn.Linear(DIM, DIM, key=each) for each in jax.random.split(key)
        )

    def __call__(self, x):
        return x + jax.vmap(self.outer)(jnp.tanh(jax.vmap(self.inner)(x)))


def rows(embed, ids):
    return jax.vmap(embed)(ids)


class EquinoxModel(eqx.Module):
    embed: eqx.nn.Embedding
    positions: eqx.nn.Embedding
    blocks: EquinoxBlock
    dropout: eqx.nn.Dropout
    body: str = eqx.field(static=True)

    def __init__(self, body):
        one, two, three = jax.random.split(jax.random.key(0), 3)
        self.body = body
        self.embed = eqx.nn.Embedding(VOCABULARY, DIM, key=one)
        self.positions = eqx.nn.Embedding(IDS.shape[1], DIM, key=two)
        self.blocks = eqx.filter_vmap(EquinoxBlock)(jax.random.split(three, LAYERS))
        self.dropout = eqx.nn.Dropout(0.0)

    def __call__(self, ids):  # one row
        look_up = eqx.filter_checkpoint(rows) if self.body == "recomputed" else rows
        x = look_up(self.embed, ids)
        return x, self.logits(x)

    def logits(self, x):
        x = self.dropout(x + jax.vmap(self.positions)(jnp.arange(len(x))))
        arrays, rest = eqx.partition(self.blocks, eqx.is_array)

        def layer(x, arrays):
            return eqx.combine(arrays, rest)(x), None

        if self.body == "recomputed":
            layer = eqx.filter_checkpoint(layer)
        if self.body == "looped":
            for number in range(LAYERS):
                x, _ = layer(x, jax.tree.map(lambda each, at=number: each[at], arrays))
        else:
            x, _ = jax.lax.scan(layer, x, arrays)
        return x @ self.embed.weight.T


class OfEquinox:
    """Noise in a copy that the loss function makes; the model is called row by row."""

    def __init__(self, body):
        self.weights, self.others = eqx.partition(EquinoxModel(body), eqx.is_array)

    def merged(self, weights):
        return eqx.combine(weights, self.others)

    def attached(self, weights, step):
        return embnoise_jax.equinox.attach(
            self.merged(weights), NOISE, step=step, layer="embed", mask=MASK
        )

    def forward(self, weights, step):
        return jax.vmap(self.attached(weights, step))(IDS)

    def clean(self, weights):
        return jax.vmap(eqx.nn.inference_mode(self.attached(weights, 0)))(IDS)

    def logits(self, weights, x):
        return jax.vmap(self.merged(weights).logits)(x)


@pytest.fixture(params=[OfLinen, OfNnx, OfEquinox])
def library(request):
    return request.param


def table_of(weights):
    """The table of the tokens, among a model's weights."""
    [table] = [leaf for leaf in jax.tree.leaves(weights) if leaf.shape == (VOCABULARY, DIM)]
    return table


@pytest.mark.parametrize("body", BODIES)
def test_the_lookup_gets_its_noise_and_nothing_else_does(library, body):
    model = library(body)
    clean, clean_logits = jax.jit(model.clean)(model.weights)
    assert same(clean, table_of(model.weights)[IDS])
    forward, logits = jax.jit(model.forward), jax.jit(model.logits)
    for step in (0, 4):
        x, seen = forward(model.weights, step)
        expected = reference(clean, NOISE, step=step, mask=MASK)
        assert same(x, expected)
        np.testing.assert_allclose(seen, logits(model.weights, expected), atol=1e-4)
        assert not np.allclose(seen, clean_logits, atol=1e-2)


@pytest.mark.sweep
@pytest.mark.parametrize("body", BODIES)
def test_the_gradients_are_those_of_a_constant_sum(library, body):
    model = library(body)
    noise = reference(jnp.zeros((*IDS.shape, DIM)), NOISE, step=4, mask=MASK)

    def noisy(weights):
        return (model.forward(weights, 4)[1] ** 2).sum()

    def summed(weights):
        return (model.logits(weights, table_of(weights)[IDS] + noise) ** 2).sum()

    for one, other in zip(
        *(jax.tree.leaves(jax.jit(jax.grad(each))(model.weights)) for each in (noisy, summed)),
        strict=True,
    ):
        np.testing.assert_allclose(one, other, rtol=1e-3, atol=1e-2)


class Bridged(nnx.Module):
    """A module around one of Linen's, which is made for NNX."""

    def __init__(self):
        linen = nnx.bridge.ToNNX(nn.Embed(VOCABULARY, DIM), rngs=nnx.Rngs(0))
        self.embed = nnx.bridge.lazy_init(linen, IDS)

    def __call__(self, ids):
        return self.embed(ids)


@pytest.mark.parametrize("at", ["output", "input"])
def test_a_linen_embedding_in_an_nnx_model_needs_a_module_around_it(at):
    model = nnx.Sequential(Bridged(), nnx.relu)
    clean = model.layers[0](IDS)
    with pytest.raises(ValueError, match=r"ToNNX, got 'layers.0.embed': wrap it in an nnx.Module"):
        embnoise_jax.nnx.attach(model, NOISE, layer="layers.0.embed", at=at)
    assert same(model.layers[0](IDS), clean)
    with embnoise_jax.nnx.attach(model, NOISE, layer="layers.0"):
        assert same(model.layers[0](IDS), reference(clean, NOISE))
