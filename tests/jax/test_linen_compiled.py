"""Linen's ``attach`` and functions that are compiled inside the block, or outside of it."""

import flax.linen as nn
import jax
import jax.numpy as jnp
import pytest

from embnoise import neftune
from embnoise_jax.linen import attach
from tests.jax import models
from tests.jax.models import DIM, IDS, VOCABULARY, same


class Model(nn.Module):
    def setup(self):
        self.embed = nn.Embed(VOCABULARY, DIM)

    def __call__(self, ids):
        return self.embed(ids)


CompiledEmbed = nn.jit(nn.Embed)


class CompiledLookup(nn.Module):
    @nn.compact
    def __call__(self, ids):
        return CompiledEmbed(VOCABULARY, DIM)(ids)


class Recomputed(nn.Module):
    @nn.compact
    def __call__(self, ids):
        return nn.remat(nn.Embed)(VOCABULARY, DIM)(ids)


def made(kind):
    model = kind()
    variables = model.init(jax.random.key(0), IDS)
    return model, variables, model.apply(variables, IDS)


def test_a_block_around_a_loop_over_a_compiled_step_is_refused():
    model, variables, clean = made(Model)
    apply = jax.jit(model.apply)
    message = r"attach\(\) must be entered inside the compiled function .* step=7"
    with pytest.raises(ValueError, match=message), attach(model, neftune(), step=7):
        apply(variables, IDS)
    assert same(apply(variables, IDS), clean)


@pytest.mark.parametrize("kind", [Model, CompiledLookup])
def test_a_function_that_was_compiled_before_the_block_is_not_used_in_it(kind):
    model, variables, clean = made(kind)
    apply = jax.jit(model.apply)
    apply(variables, IDS)
    with (
        pytest.raises(ValueError, match="must be entered inside the compiled function"),
        attach(model, neftune(), step=0),
    ):
        apply(variables, IDS)
    assert same(apply(variables, IDS), clean)
    assert same(model.apply(variables, IDS), clean)


@pytest.mark.parametrize("kind", [CompiledLookup, Recomputed])
def test_lookups_that_the_model_compiles_need_a_block_in_a_compiled_function(kind):
    model, variables, clean = made(kind)
    with (
        pytest.raises(ValueError, match=r"call such a model in jax\.jit"),
        attach(model, neftune(), step=0),
    ):
        model.apply(variables, IDS)
    assert same(model.apply(variables, IDS), clean)


@pytest.mark.parametrize(("kind", "traced"), [(Model, True), (CompiledLookup, False)])
def test_a_compiled_function_in_the_block_gets_the_noise_of_the_block(kind, traced):
    model, variables, clean = made(kind)
    apply = jax.jit(model.apply)
    apply(variables, IDS)

    @jax.jit
    def steps(first):
        noisy = []
        for step in (first, first + 1) if traced else (3, 4):
            with attach(model, neftune(), step=step):
                noisy += [apply(variables, IDS), apply(variables, IDS)]
        return [*noisy, apply(variables, IDS)]

    for first in (3, 5) if traced else (3,):
        *noisy, after = steps(first)
        assert same(after, clean)
        expected = [
            models.reference(clean, neftune(stream=stream), step=step)
            for step in (first, first + 1)
            for stream in ("", "/2")
        ]
        assert [same(*pair) for pair in zip(noisy, expected, strict=True)] == [True] * 4


def test_transformations_that_compile_nothing_are_accepted_around_a_call():
    model, variables, clean = made(Model)
    with attach(model, neftune(), step=0):
        jax.grad(lambda variables: model.apply(variables, IDS).sum())(variables)
    with attach(model, neftune(), step=0, sample_ids=jnp.zeros(1, jnp.int32)):
        rows = jax.vmap(lambda ids: model.apply(variables, ids[None])[0])(IDS)
    assert same(rows[0], models.reference(clean, neftune(), step=0)[0])


def test_blocks_share_what_is_compiled_in_them():
    model, variables, _ = made(Model)
    traced = []
    other = jax.jit(lambda x: traced.append(None) or 2 * x)
    for step in range(3):
        other(jnp.zeros(3))
        with attach(model, neftune(), step=step):
            other(model.apply(variables, IDS)[0, 0, :3])
    assert len(traced) == 2
