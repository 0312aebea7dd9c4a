"""JAX layers for the kit with faults that JAX invites.

Most are ``Uniform`` with one method as people have written it.
"""

from __future__ import annotations

import functools

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
from flax import linen, nnx

from embnoise.testing import Claims
from tests.testing.jax_layers import (
    DECAY,
    GLOBAL,
    Embedded,
    EquinoxUniform,
    Folded,
    LinenUniform,
    Uniform,
    keyed,
    magnitude,
    of,
    on,
)
from tests.testing.transformation_faults import JAX as UNDER_TRANSFORMATIONS
from tests.testing.zoo import Faulty


class FromNumPy(Uniform):
    """NumPy draws while JAX traces, and what it drew becomes a constant."""

    def __init__(self, alpha, seed):
        super().__init__(alpha, seed)
        self.generator = np.random.default_rng(seed)

    def units(self, x):
        return jnp.asarray(self.generator.uniform(-1, 1, x.shape), jnp.float32)


class CountsInPython:
    """Its count is a Python number, which the compiler reads once."""

    def __init__(self, alpha, seed):
        self.layer, self.calls = Folded(alpha, seed), 0
        self.layer.share = lambda step: 1

    def __call__(self, x, *, training, mask):
        self.calls += training
        return self.layer(x, training=training, mask=mask, step=self.calls)


class CountsInAModule(nnx.Module):
    """The same in an NNX module, of which the compiler reads each count anew."""

    def __init__(self, alpha, seed):
        self.layer, self.calls, self.deterministic = Folded(alpha, seed), 0, False
        self.layer.share = lambda step: 1

    def __call__(self, x, *, mask):
        self.calls += not self.deterministic
        return self.layer(x, training=not self.deterministic, mask=mask, step=self.calls)


class SplitsInPython:
    """It keeps its key on itself, where a traced one must not stay."""

    def __init__(self, alpha, seed):
        self.alpha, self.key = alpha, jax.random.key(seed)

    def __call__(self, x, *, training, mask):
        if not training:
            return x
        self.key, now = jax.random.split(self.key)
        units = jax.random.uniform(now, x.shape, minval=-1, maxval=1)
        return x + (units * magnitude(self.alpha, x, mask)).astype(x.dtype)


class TracedMode(Folded):
    """Compiled without ``static_argnames="training"``."""

    def __call__(self, x, *, training, mask, step):
        return jax.jit(super().__call__)(x, training=training, mask=mask, step=step)


class SameKey(Uniform):
    def __init__(self, alpha, seed):
        super().__init__(alpha, seed)
        self.seed = seed

    def key(self):
        return jax.random.key(self.seed)


class FixedSeed(Uniform):
    def __init__(self, alpha, seed):
        super().__init__(alpha, seed=0)


class KeyForAllRows(EquinoxUniform):
    """A batch made of rows, which share the key."""

    def __call__(self, x, mask, *, key=None):
        row = functools.partial(super().__call__, key=key)
        return jax.vmap(lambda x, mask: row(x[None], mask[None])[0])(x, mask)


class KeyForAllTokens(Uniform):
    """Drawn token by token from one key."""

    def units(self, x):
        keys = jax.random.split(self.key(), len(x))

        def token(x, key):
            return jax.random.uniform(key, x.shape, minval=-1, maxval=1)

        return jax.vmap(jax.vmap(token, in_axes=(0, None)))(x, keys)


class KeyFromData(Uniform):
    """A key made of the embeddings, to do without one."""

    def key(self, x=None):
        return jax.random.fold_in(super().key(), (1e4 * abs(x).sum()).astype(jnp.int32))

    def units(self, x):
        return jax.random.uniform(self.key(x), x.shape, minval=-1, maxval=1)


class OneSided(Uniform):
    """The default range of jax.random.uniform."""

    def units(self, x):
        return jax.random.uniform(self.key(), x.shape)


class Half(Uniform):
    def units(self, x):
        return jax.random.uniform(self.key(), x.shape) - 0.5


class Normal(Uniform):
    def units(self, x):
        return jax.random.normal(self.key(), x.shape)


class Coarse(Uniform):
    """Drawn in bfloat16, whatever the embeddings are."""

    def units(self, x):
        return jax.random.uniform(self.key(), x.shape, jnp.bfloat16, -1, 1)


class PerToken(Uniform):
    def magnitude(self, x, mask):
        return self.alpha / x.shape[2] ** 0.5 * mask[..., None]


class BatchCounted(Uniform):
    def magnitude(self, x, mask):
        return self.alpha / (mask.sum().clip(1) * x.shape[2]) ** 0.5 * mask[..., None]


class PaddedLength(Uniform):
    def magnitude(self, x, mask):
        return self.alpha / (x.shape[1] * x.shape[2]) ** 0.5 * mask[..., None]


class HalfOverflow(Uniform):
    """L * d in the embeddings' own dtype, where float16 has none above 65,504."""

    def magnitude(self, x, mask):
        length = mask.sum(axis=1, keepdims=True).clip(1).astype(x.dtype)
        return (self.alpha / jnp.sqrt(length * x.shape[2]) * mask)[..., None]


class NoRowIsEmpty(Uniform):
    """A row of padding divides by 0."""

    def magnitude(self, x, mask):
        length = mask.sum(axis=1, keepdims=True)
        return (self.alpha * mask / jnp.sqrt(length * x.shape[2]))[..., None]


class OnPadding(Uniform):
    def magnitude(self, x, mask):
        return magnitude(self.alpha, x, mask).max(axis=1, keepdims=True)


class Promoted(Uniform):
    """float32 by default, and bfloat16 + float32 is float32."""

    def noise(self, x, mask):
        return self.units(x) * self.magnitude(x, mask)


class Detached(Uniform):
    """The noise should be a constant, not the sum."""

    def __call__(self, x, mask):
        return x if self.deterministic else jax.lax.stop_gradient(x + self.noise(x, mask))


class Multiplied(Uniform):
    def __call__(self, x, mask):
        return x if self.deterministic else x * (1 + self.noise(x, mask))


class SavedAlpha(EquinoxUniform):
    """Alpha is an array, and so a leaf of the module."""

    alpha: jax.Array = eqx.field(converter=jnp.asarray)


class SavedNoise(Uniform):
    """Kept to be logged, in a variable, and so in every checkpoint."""

    def __init__(self, alpha, seed):
        super().__init__(alpha, seed)
        self.last = nnx.Variable(jnp.zeros(()))

    def noise(self, x, mask):
        noise = super().noise(x, mask)
        self.last[...] = abs(noise).mean()
        return noise


class OwnFlag(Uniform):
    """``eval()`` sets ``deterministic``, and knows of no other flag."""

    def __init__(self, alpha, seed):
        super().__init__(alpha, seed)
        self.training = True

    def __call__(self, x, mask):
        return x + self.noise(x, mask) if self.training else x


class AlwaysOn(linen.Module):
    """It takes ``deterministic``, and does not hand it on."""

    alpha: float

    @linen.compact
    def __call__(self, x, mask, deterministic=True):
        return LinenUniform(self.alpha)(x, mask, deterministic=False)


class ClaimedOwn(LinenUniform):
    """Right, had it been claimed to follow the key."""


class Early(Folded):
    """The step after the one that begins, as ``opt_state.count`` has it after the update."""

    def share(self, step):
        return super().share(step + 1)


class OnTheTable(Embedded):
    """The noise goes into the table, and stays there."""

    def __call__(self, ids, mask):
        if not self.deterministic:
            noise = self.noise.noise(self.embed(ids), mask)
            self.embed.embedding[...] = self.embed.embedding[...].at[ids].add(noise)
        return self.embed(ids)


class FrozenTable(Embedded):
    """stop_gradient around the lookup, not around the noise."""

    def __call__(self, ids, mask):
        if self.deterministic:
            return self.embed(ids)
        return self.noise(jax.lax.stop_gradient(self.embed(ids)), mask)


class MultipliedAfter(Embedded):
    """Gemma's: embeddings times sqrt(d), with the noise already in them."""

    def __call__(self, ids, mask):
        return super().__call__(ids, mask) * self.embed.features**0.5


def bad(layer, code, says, fault, claims=None, inputs="embeddings", make=None):
    make = make or (on(layer) if inputs == "ids" else of(layer))
    name = f"jax: {layer.__name__}"
    return Faulty(name, make, "jax", inputs, None, claims or Claims(), code, says, fault)


class MaskedSteps(Folded):
    """With padding, the key is not folded."""

    share = staticmethod(lambda step: 1)

    def __call__(self, x, *, training, mask, step):
        ragged = jnp.where(mask.all(), step, 0)
        return super().__call__(x, training=training, mask=mask, step=ragged)


class ReadsTheMask(Folded):
    share = staticmethod(lambda step: 1)

    def __call__(self, x, *, training, mask, step):
        if bool(mask.all()):
            mask = jnp.ones_like(mask)
        return super().__call__(x, training=training, mask=mask, step=step)


FAULTY = [
    bad(FromNumPy, "EN22", "while tracing", "drawn by NumPy: frozen while compiling"),
    bad(CountsInPython, "EN22", "treats as a constant",
        "steps counted in Python: frozen while compiling"),
    bad(CountsInAModule, "EN22", "compiled anew",
        "steps counted in an attribute of an NNX module: compiled in every call"),
    bad(SplitsInPython, "EN22", "treats as a constant", "a key kept on self: frozen by jit"),
    bad(TracedMode, "EN01", "TracerBoolConversionError", "training traced, not static"),
    bad(SameKey, "EN06", "seeded again in every call", "the same key at every step"),
    bad(FixedSeed, "EN07", "seed is not used", "nnx.Rngs(0), whatever the seed"),
    bad(KeyForAllRows, "EN25", "shared by rows", "one key for all rows under vmap", GLOBAL,
        make=keyed(KeyForAllRows)),
    bad(KeyForAllTokens, "EN26", "shared by tokens", "one key for all tokens"),
    bad(KeyFromData, "EN12", "depends on the embeddings", "a key made of the embeddings"),
    bad(OneSided, "EN08", "one-sided", "noise on one side of 0"),
    bad(Half, "EN08", "half the amplitude", "half the amplitude"),
    bad(Normal, "EN10", "gaussian rather than uniform", "a Gaussian claimed as uniform"),
    bad(Coarse, "EN08", "coarse grid.*bfloat16", "drawn in bfloat16 for float32"),
    bad(PerToken, "EN10", r"sqrt\(d\) instead of sqrt\(L\*d\)", "sqrt(d) for sqrt(L*d)"),
    bad(BatchCounted, "EN08", "the batch is counted", "sqrt(B*L*d) for sqrt(L*d)"),
    bad(PaddedLength, "EN19", "padding included", "padded length used"),
    bad(HalfOverflow, "EN08", "overflows in float16", "L*d overflows in float16: no noise"),
    bad(NoRowIsEmpty, "EN09", "all padding", "an all-padding row divides by 0"),
    bad(OnPadding, "EN09", "padding gets noise", "padding noised"),
    bad(Promoted, "EN04", "promoted", "dtype promoted"),
    bad(Detached, "EN13", "stop_gradient", "gradient blocked"),
    bad(Multiplied, "EN12", "multiplied with the embeddings", "noise multiplied in"),
    bad(SavedNoise, "EN18", "'last'", "noise kept in a Variable"),
    bad(SavedAlpha, "EN18", r"'alpha'.*eqx\.field\(static=True\)", "alpha in an array",
        GLOBAL, make=keyed(SavedAlpha)),
    bad(OwnFlag, "EN02", "in evaluation mode too", "a flag that eval() does not know"),
    bad(AlwaysOn, "EN02", "in evaluation mode too", "deterministic not handed on", GLOBAL,
        make=keyed(AlwaysOn)),
    bad(ClaimedOwn, "EN05", "from the key that it is given", "make_rng claimed as its own seed",
        make=keyed(ClaimedOwn)),
    bad(Early, "EN21", "one step ahead", "alpha's schedule one step ahead", DECAY),
    bad(OnTheTable, "EN17", "added to the table", "noise written into the table", inputs="ids"),
    bad(FrozenTable, "EN13", "stop_gradient", "the table does not train", inputs="ids"),
    bad(MultipliedAfter, "EN10", r"multiplied by sqrt\(d\) after", "embeddings multiplied after",
        inputs="ids"),
    bad(MaskedSteps, "EN63", "one draw", "the same noise at every step, if there is padding"),
    bad(ReadsTheMask, "EN22", "cannot be traced", "a mask that is read: not traced"),
    *UNDER_TRANSFORMATIONS,
]  # fmt: skip
