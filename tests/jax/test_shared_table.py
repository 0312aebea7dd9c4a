"""One table that is looked up twice, as in T5 and BART, and arrays that describe one lookup."""

import re

import equinox as eqx
import flax.linen as nn
import jax
import jax.numpy as jnp
import pytest

import embnoise_jax.equinox
from embnoise import neftune
from embnoise_jax.linen import attach
from tests.jax.models import DIM, IDS, MASK, VOCABULARY, reference, same

OTHER_IDS = jnp.array([[9, 8, 7, 6, 5], [4, 3, 2, 0, 0]])


class Shared(nn.Module):
    recompute: bool = False

    def setup(self):
        self.embed = (nn.remat(nn.Embed) if self.recompute else nn.Embed)(VOCABULARY, DIM)

    def __call__(self, ids, decoder_ids):
        return self.embed(ids.astype(jnp.int32)), self.embed(decoder_ids)


MODEL = Shared()
VARIABLES = MODEL.init(jax.random.key(0), IDS, OTHER_IDS)


def lookups(ids, decoder_ids=None, *, model=MODEL, layer="embed", times=1, **arrays):
    with attach(model, neftune(), step=0, layer=layer, **arrays):
        ids = ids, ids if decoder_ids is None else decoder_ids
        return [model.apply(VARIABLES, *ids) for _ in range(times)][-1]


def compiled(*args, times=1, model=MODEL, layer=None, **arrays):
    def call(args, arrays):
        return lookups(*args, model=model, layer=layer, times=times, **arrays)

    return jax.jit(call)(args, arrays)


over_ways = pytest.mark.parametrize("call", [lookups, compiled])


@over_ways
@pytest.mark.parametrize("name", ["mask", "segment_ids", "positions", "where"])
def test_linen_warns_of_arrays_that_describe_the_other_lookup(call, name):
    with pytest.warns(RuntimeWarning, match=rf"'embed' .* again .* other ids, and {name}= .* both"):
        call(IDS, OTHER_IDS, **{name: MASK.astype(int)})


def test_linen_names_all_of_the_arrays_once():
    expected = re.escape("and mask=, where= of the first lookup went to both")
    with pytest.warns(RuntimeWarning, match=expected) as seen:
        lookups(IDS, OTHER_IDS, times=3, mask=MASK, where=MASK)
    assert len(seen) == 1
    assert seen[0].filename == __file__


@over_ways
def test_linen_says_so_where_the_shapes_tell(call):
    message = r"(?m)mask must be of shape \(2, 3\), got shape \(2, 5\): 'embed' .* again.*its own$"
    with pytest.raises(ValueError, match=message):
        call(IDS, OTHER_IDS[:, :3], mask=MASK)
    message = r"(?m)mask must be of shape \(2, 5\), got shape \(2, 3\)$"
    with pytest.raises(ValueError, match=message):
        call(IDS, mask=MASK[:, :3])


@over_ways
@pytest.mark.parametrize("arrays", [{}, {"sample_ids": jnp.array([3, 4])}])
def test_linen_is_silent_where_arrays_describe_rows(call, arrays):
    first, second = call(IDS, OTHER_IDS, **arrays)
    clean = MODEL.apply(VARIABLES, IDS, OTHER_IDS)
    assert same(first, reference(clean[0], neftune(), **arrays))
    assert same(second, reference(clean[1], neftune(stream="/2"), **arrays))


@over_ways
def test_linen_is_silent_where_the_ids_are_the_same(call):
    """As in R-Drop and SimCSE, which call the model twice."""
    call(IDS, times=2, mask=MASK)
    lookups(IDS, jnp.array(IDS), mask=MASK)


def test_linen_is_silent_where_a_lookup_is_traced_by_itself():
    """A recomputed lookup has its own name for the ids: R-Drop must not be warned of."""
    compiled(IDS, times=2, mask=MASK, model=Shared(recompute=True))
    rows = jax.vmap(lambda ids: MODEL.apply(VARIABLES, ids, ids))
    with attach(MODEL, neftune(), step=0, mask=MASK[0], sample_ids=jnp.zeros(1, jnp.int32)):
        rows(IDS)
        rows(IDS)


class SharedByEquinox(eqx.Module):
    embed: eqx.nn.Embedding

    def __call__(self, ids, decoder_ids):
        return jax.vmap(self.embed)(ids), jax.vmap(self.embed)(decoder_ids)


def test_equinox_says_so_where_the_shapes_tell():
    model = SharedByEquinox(eqx.nn.Embedding(VOCABULARY, DIM, key=jax.random.key(0)))
    noisy = embnoise_jax.equinox.attach(model, neftune(), step=0, mask=MASK)
    with pytest.raises(ValueError, match=r"\(2, 3\), got shape \(2, 5\).*one lookup.*add_noise"):
        jax.vmap(noisy)(IDS, OTHER_IDS[:, :3])
