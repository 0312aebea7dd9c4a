"""The undocumented parts of JAX and Flax that ``embnoise_jax._compat`` relies on."""

import jax
import jax.numpy as jnp
import pytest
from flax import nnx

from embnoise_jax._compat import (
    change_class,
    is_mapped,
    seed_words,
    set_property,
    staging_level,
    varying_axes,
)


def test_the_axes_over_which_a_value_varies():
    seen = []

    def local(x, y):
        seen.append((varying_axes(x), varying_axes(y), varying_axes(1)))
        return x + y

    mesh = jax.make_mesh((1,), ("data",), axis_types=(jax.sharding.AxisType.Auto,))
    specs = (jax.P("data"), jax.P())
    jax.shard_map(local, mesh=mesh, in_specs=specs, out_specs=specs[0])(jnp.ones(2), jnp.ones(2))
    assert seen[0] == ({"data"}, set(), set()), (
        "JAX tells the varying axes of a value in another way: adapt "
        "embnoise_jax._compat.varying_axes"
    )
    assert not varying_axes(jnp.ones(2))


class Plain(nnx.Module):
    def __init__(self):
        self.count = nnx.Variable(jnp.array(0))

    def __call__(self):
        return "plain"

    @property
    def settable(self):
        return self.count[...]

    @settable.setter
    def settable(self, value):
        self.count[...] = value


class Special(Plain):
    def __call__(self):
        return "special"


@pytest.mark.parametrize("implementation", ["threefry2x32", "rbg", "unsafe_rbg"])
def test_the_words_of_a_key_are_those_of_its_seed(implementation):
    seed = 2**31 + 7
    low, high = seed_words(jax.random.key(seed, impl=implementation))
    assert (int(low), int(high)) == (seed, 0), (
        f"jax.random.key_data of {implementation} no longer begins with the high and the low word "
        "of the seed: adapt embnoise_jax._compat.seed_words"
    )


def test_the_words_of_a_wide_seed():
    with jax.enable_x64(True):
        low, high = seed_words(jax.random.key(3 * 2**32 + 5))
    assert (int(low), int(high)) == (5, 3), (
        "jax.random.key_data no longer begins with the high and the low word of a 64-bit seed: "
        "adapt embnoise_jax._compat.seed_words"
    )


def test_the_class_of_a_module_can_change():
    module = Plain()
    before = nnx.graphdef(module)
    change_class(module, Special)
    assert module() == "special"
    graphdef, state = nnx.split(module)
    assert type(nnx.merge(graphdef, state)) is Special, (
        "NNX no longer rebuilds a module from the class that it has: adapt "
        "embnoise_jax._compat.change_class"
    )
    seen = []
    nnx.jit(lambda module: seen.append(module()))(module)
    assert seen == ["special"]
    change_class(module, Plain)
    assert nnx.graphdef(module) == before, (
        "NNX now records the class of a module elsewhere too: adapt "
        "embnoise_jax._compat.change_class"
    )


def test_a_property_is_set_without_a_trace():
    module = Plain()
    before = nnx.graphdef(module)
    set_property(module, "settable", 3)
    assert module.settable == 3
    assert nnx.graphdef(module) == before, (
        "NNX now records properties in object.__setattr__ too: adapt "
        "embnoise_jax._compat.set_property"
    )


@pytest.mark.parametrize(("name", "value"), [("__class__", Special), ("settable", 3)])
def test_the_workarounds_are_still_needed(name, value):
    module = Plain()
    before = nnx.graphdef(module)
    setattr(module, name, value)
    setattr(module, name, Plain if name == "__class__" else 0)
    assert nnx.graphdef(module) != before, (
        f"NNX no longer records {name} as an attribute, so a plain assignment will do: simplify "
        "embnoise_jax._compat"
    )


def test_the_compilation_that_records_is_told_from_others():
    levels = [staging_level()]

    @jax.jit
    def inner(x):
        levels.append(staging_level())
        return x

    def loss(x):
        levels.append(staging_level())
        return x

    @jax.jit
    def outer(x):
        levels.append(staging_level())
        return inner(x) + jax.grad(loss)(x)

    outer(1.0)
    outside, around, inside, derived = levels
    message = "JAX keeps the compilation elsewhere: adapt embnoise_jax._compat.trace_of"
    assert outside is None, message
    assert around is derived is not None, message
    assert inside not in (None, around), message


def test_parts_of_what_is_mapped_are_told_from_others():
    seen = []

    def note(x):
        seen.append((is_mapped(x), is_mapped(jnp.ones(3))))
        return x.sum()

    jax.vmap(note)(jnp.ones((2, 3)))
    jax.vmap(jax.grad(note))(jnp.ones((2, 3)))
    assert seen == [(True, False)] * 2, "adapt is_mapped in embnoise_jax/_compat.py"
    for inner in (1, 2):
        jax.vmap(jax.vmap(note))(jnp.ones((3 - inner, inner, 3)))
    jax.vmap(lambda key: note(jax.random.key_data(key)))(jax.random.split(jax.random.key(0), 2))
    assert seen == [(True, False)] * 5, "adapt is_mapped in embnoise_jax/_compat.py"
    jax.jit(jax.grad(note))(jnp.ones(3))
    jax.vmap(note)(jnp.ones((1, 3)))  # of one, nothing is told apart
    assert seen[-2:] == [(False, False)] * 2
