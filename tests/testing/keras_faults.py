"""Faulty Keras layers for the kit, on whichever backend Keras runs."""

import keras
import numpy as np
from keras import ops, random

from embnoise import linear
from embnoise.testing import Claims
from tests.testing.keras_layers import COMPILES, FollowsKeras, Neftune, Noise, Padded, of
from tests.testing.zoo import Faulty


class IgnoresTraining(Noise):
    def call(self, x):
        magnitude = self.alpha / (x.shape[1] * x.shape[2]) ** 0.5
        return x + random.uniform(
            ops.shape(x), -magnitude, magnitude, dtype=x.dtype, seed=self.seed_generator
        )


class SameEveryStep(Noise):
    def __init__(self, alpha, seed):
        super().__init__(alpha, seed)
        self.seed = seed

    def call(self, x, training=None):
        if not training:
            return x
        magnitude = self.alpha / (x.shape[1] * x.shape[2]) ** 0.5
        return x + random.uniform(
            ops.shape(x), -magnitude, magnitude, dtype=x.dtype, seed=self.seed
        )


class HardCodedSeed(Padded):
    def __init__(self, alpha, seed):
        super().__init__(alpha, 1337)


class SeedDropped(Padded):
    def __init__(self, alpha, seed):
        super().__init__(alpha, None)


class NoisesPadding(Noise):
    def call(self, x, mask=None, training=None):
        if not training:
            return x
        if mask is None:
            length = ops.cast(x.shape[1], "float32")
        else:
            length = ops.sum(ops.cast(mask, "float32"), axis=1)[:, None, None]
        magnitude = self.alpha / ops.sqrt(ops.maximum(length, 1.0) * x.shape[2])
        noise = random.uniform(ops.shape(x), -1, 1, seed=self.seed_generator)
        return x + ops.cast(noise * magnitude, x.dtype)


class PaddedLength(Noise):
    def call(self, x, mask=None, training=None):
        if not training:
            return x
        magnitude = self.alpha / (x.shape[1] * x.shape[2]) ** 0.5
        noise = random.uniform(
            ops.shape(x), -magnitude, magnitude, dtype=x.dtype, seed=self.seed_generator
        )
        if mask is not None:
            noise = noise * ops.cast(mask, x.dtype)[:, :, None]
        return x + noise


class NumpyDraw(Noise):
    def __init__(self, alpha, seed):
        super().__init__(alpha, seed)
        self.rng = np.random.default_rng(seed)

    def call(self, x, training=None):
        if not training:
            return x
        magnitude = self.alpha / (x.shape[1] * x.shape[2]) ** 0.5
        return x + ops.cast(self.rng.uniform(-magnitude, magnitude, x.shape), x.dtype)


class OneRowForAll(Noise):
    def call(self, x, training=None):
        if not training:
            return x
        magnitude = self.alpha / (x.shape[1] * x.shape[2]) ** 0.5
        return x + random.uniform(
            (1, *x.shape[1:]), -magnitude, magnitude, dtype=x.dtype, seed=self.seed_generator
        )


class NormalForUniform(Noise):
    def call(self, x, training=None):
        if not training:
            return x
        stddev = self.alpha / (x.shape[1] * x.shape[2]) ** 0.5
        return x + random.normal(
            ops.shape(x), stddev=stddev, dtype=x.dtype, seed=self.seed_generator
        )


class HalfAmplitude(Noise):
    def call(self, x, training=None):
        if not training:
            return x
        magnitude = self.alpha / (x.shape[1] * x.shape[2]) ** 0.5
        noise = random.uniform(ops.shape(x), dtype=x.dtype, seed=self.seed_generator) - 0.5
        return x + noise * magnitude


class OneSided(Noise):
    def call(self, x, training=None):
        if not training:
            return x
        magnitude = self.alpha / (x.shape[1] * x.shape[2]) ** 0.5
        noise = random.uniform(ops.shape(x), dtype=x.dtype, seed=self.seed_generator)
        return x + noise * magnitude


class WithoutLength(Noise):
    def call(self, x, training=None):
        if not training:
            return x
        magnitude = self.alpha / x.shape[-1] ** 0.5
        return x + random.uniform(
            ops.shape(x), -magnitude, magnitude, dtype=x.dtype, seed=self.seed_generator
        )


class BatchCounted(Noise):
    def call(self, x, training=None):
        if not training:
            return x
        size = ops.cast(ops.size(x), "float32")
        noise = random.uniform(ops.shape(x), -1, 1, seed=self.seed_generator)
        return x + ops.cast(noise * self.alpha / ops.sqrt(ops.maximum(size, 1)), x.dtype)


class Promotes(Noise):
    def __init__(self, alpha, seed):
        super().__init__(alpha, seed, autocast=False)

    def call(self, x, training=None):
        if not training:
            return x
        magnitude = self.alpha / (x.shape[1] * x.shape[2]) ** 0.5
        noise = random.uniform(ops.shape(x), -magnitude, magnitude, seed=self.seed_generator)
        return ops.add(x, noise)


class SizeInHalf(Noise):
    def call(self, x, training=None):
        if not training:
            return x
        size = ops.cast(x.shape[1] * x.shape[2], x.dtype)
        noise = random.uniform(ops.shape(x), -1, 1, dtype=x.dtype, seed=self.seed_generator)
        return x + noise * (self.alpha / ops.sqrt(size))


class KeepsAlpha(Noise):
    def __init__(self, alpha, seed):
        super().__init__(alpha, seed)
        self.alpha = self.add_weight(
            shape=(), initializer=keras.initializers.Constant(alpha), dtype="float32",
            trainable=False, name="alpha",
        )  # fmt: skip

    def call(self, x, training=None):
        if not training:
            return x
        noise = random.uniform(ops.shape(x), -1, 1, seed=self.seed_generator)
        magnitude = ops.cast(self.alpha, "float32") / (x.shape[1] * x.shape[2]) ** 0.5
        return x + ops.cast(noise * magnitude, x.dtype)


class Detached(Padded):
    def call(self, x, training=None):
        return ops.stop_gradient(super().call(x, training=training))


class Multiplies(Noise):
    def call(self, x, training=None):
        if not training:
            return x
        magnitude = self.alpha / (x.shape[1] * x.shape[2]) ** 0.5
        return x * random.uniform(
            ops.shape(x), 1 - magnitude, 1 + magnitude, dtype=x.dtype, seed=self.seed_generator
        )


class AheadOfSchedule(Noise):
    def __init__(self, alpha, seed):
        super().__init__(alpha, seed)
        self.count = self.add_weight(
            shape=(), initializer="zeros", dtype="int32", trainable=False, name="count"
        )

    def call(self, x, training=None):
        if not training:
            return x
        self.count.assign(self.count + 1)
        left = ops.maximum(8 - self.count, 0) / 8
        noise = random.uniform(ops.shape(x), -1, 1, seed=self.seed_generator)
        magnitude = self.alpha * ops.cast(left, "float32") / (x.shape[1] * x.shape[2]) ** 0.5
        return x + ops.cast(noise * magnitude, x.dtype)


class CountsInPython(Noise):
    def __init__(self, alpha, seed):
        super().__init__(alpha, seed)
        self.seed, self.calls = seed, 0

    def call(self, x, training=None):
        if not training:
            return x
        self.calls += 1
        magnitude = self.alpha / (x.shape[1] * x.shape[2]) ** 0.5
        return x + random.uniform(
            ops.shape(x), -magnitude, magnitude, dtype=x.dtype, seed=self.seed + self.calls
        )


class NoisesTheTable(keras.layers.Embedding):
    def __init__(self, dim, alpha, seed):
        super().__init__(8, dim)
        self.alpha = alpha
        self.seed_generator = random.SeedGenerator(seed)

    def call(self, ids, training=None):
        if training:
            table = self._embeddings
            noise = random.uniform(table.shape, -1, 1, seed=self.seed_generator)
            noise = noise * self.alpha / self.output_dim**0.5
            table.assign(table + ops.cast(noise, table.dtype))
        return super().call(ids)


# Right when they are called; Keras's own test of layers sees what is wrong.


class Saved(Padded):
    """What is right: the padded noise with a configuration."""

    def __init__(self, alpha, seed, **options):
        super().__init__(alpha, seed, **options)
        self.seed = seed

    def get_config(self):
        return {**super().get_config(), "alpha": self.alpha, "seed": self.seed}


class WithoutAlphaInItsConfig(Saved):
    def get_config(self):
        return {**keras.layers.Layer.get_config(self), "seed": self.seed}


class AlphaOfItsDefault(WithoutAlphaInItsConfig):
    def __init__(self, alpha=1.0, seed=None, **options):
        super().__init__(alpha, seed, **options)


class OtherSymbolicShape(Saved):
    def compute_output_shape(self, shape):
        return shape[:-1]

    def compute_output_spec(self, x, **keywords):
        return keras.KerasTensor(self.compute_output_shape(x.shape), self.compute_dtype)


class InTheDtypeOfWeights(Saved):
    """Mixed precision computes in float16 and keeps weights in float32."""

    def compute_output_spec(self, x, **keywords):
        return keras.KerasTensor(x.shape, self.compute_dtype)

    def call(self, x, training=False):
        noise = super().call(ops.zeros_like(x), training=training)
        return ops.cast(x, self.dtype) + ops.cast(noise, self.dtype)


class KeepsTheMask(Neftune):
    def __init__(self, alpha, seed, **options):
        super().__init__(alpha, seed, **options)
        self.seed = seed
        self.supports_masking = False

    def get_config(self):
        return {**super().get_config(), "alpha": self.alpha, "seed": self.seed}


OWN_TEST = Claims(length="padded", framework_test=True)
OF_THE_FRAMEWORK = [
    Faulty(
        "WithoutAlphaInItsConfig", of(WithoutAlphaInItsConfig), "keras", claims=OWN_TEST,
        caught_by="EN61", says="missing 1 required positional argument: 'alpha'",
        fault="alpha not in the configuration: cannot be loaded",
    ),
    Faulty(
        "AlphaOfItsDefault", of(AlphaOfItsDefault), "keras", claims=OWN_TEST,
        caught_by="EN61", says="makes adds other noise",
        fault="loaded with the default alpha",
    ),
    Faulty(
        "OtherSymbolicShape", of(OtherSymbolicShape), "keras", claims=OWN_TEST,
        caught_by="EN61", says="Expected output shapes",
        fault="another shape in symbolic calls",
    ),
    Faulty(
        "InTheDtypeOfWeights", of(InTheDtypeOfWeights), "keras", claims=OWN_TEST,
        caught_by="EN61", says="expected output dtype float16",
        fault="another dtype than in symbolic calls",
    ),
    Faulty(
        "KeepsTheMask", of(KeepsTheMask), "keras", claims=Claims(framework_test=True),
        caught_by="EN61", says="Unexpected supports_masking value",
        fault="the mask not passed on to the layers after it",
    ),
]  # fmt: skip

PADDED = Claims(length="padded")


class OneRowIfPadded(Neftune):
    """One draw for all rows, if there is padding."""

    def call(self, x, mask=None, training=None):
        noisy = super().call(x, mask=mask, training=training)
        if mask is None or not training:
            return noisy
        real = ops.cast(mask, "float32")
        length = ops.maximum(ops.sum(real, axis=1, keepdims=True), 1.0)
        magnitude = self.alpha * real / ops.sqrt(length * x.shape[2])
        units = random.uniform((1, *x.shape[1:]), -1.0, 1.0, seed=self.seed_generator)
        return x + ops.cast(units * magnitude[..., None], x.dtype)


FAULTY = [
    *OF_THE_FRAMEWORK,
    Faulty(
        "IgnoresTraining", of(IgnoresTraining), "keras", claims=PADDED, caught_by="EN02",
        says="does not look at its mode", fault="noise in evaluation",
    ),
    Faulty(
        "SameEveryStep", of(SameEveryStep), "keras", claims=PADDED, caught_by="EN06",
        says="seeded again in every call", fault="an int as the seed of keras.random: one draw",
    ),
    Faulty(
        "HardCodedSeed", of(HardCodedSeed), "keras", claims=PADDED, caught_by="EN07",
        says="fixed in the code", fault="SeedGenerator(1337), whatever the seed",
    ),
    Faulty(
        "SeedDropped", of(SeedDropped), "keras", claims=PADDED, caught_by="EN05",
        says="claim seeded='global'", fault="SeedGenerator() without the seed",
    ),
    Faulty(
        "FollowsKeras", of(FollowsKeras), "keras", claims=PADDED, caught_by="EN14",
        says="changes the global random state", fault="keras.random without a seed",
    ),
    Faulty(
        "NoisesPadding", of(NoisesPadding), "keras", caught_by="EN09",
        says="not multiplied with the mask", fault="padding noised",
    ),
    Faulty(
        "PaddedLength", of(PaddedLength), "keras", caught_by="EN19",
        says="L is the row's width, padding included", fault="padded length used",
    ),
    Faulty(
        "OneRowForAll", of(OneRowForAll), "keras", claims=PADDED, caught_by="EN25",
        says="one draw is shared by rows", fault="one draw for all rows",
    ),
    Faulty(
        "GaussianNoise_for_uniform",
        lambda *, dim, alpha, seed: keras.layers.GaussianNoise(alpha, seed=seed),
        "keras", claims=Claims(scale="absolute", length=None), caught_by="EN10",
        says="gaussian rather than uniform", fault="a Gaussian claimed as uniform",
    ),
    Faulty(
        "NormalForUniform", of(NormalForUniform), "keras", claims=PADDED, caught_by="EN10",
        says="gaussian rather than uniform", fault="alpha/sqrt(L*d) as a standard deviation",
    ),
    Faulty(
        "HalfAmplitude", of(HalfAmplitude), "keras", claims=PADDED, caught_by="EN08",
        says=r"a draw on \[-1/2, 1/2\]", fault="half the amplitude",
    ),
    Faulty(
        "OneSided", of(OneSided), "keras", claims=PADDED, caught_by="EN08",
        says="one-sided", fault="noise on one side of 0",
    ),
    Faulty(
        "WithoutLength", of(WithoutLength), "keras", claims=PADDED, caught_by="EN10",
        says=r"sqrt\(d\) instead of sqrt\(L\*d\)", fault="sqrt(d) for sqrt(L*d)",
    ),
    Faulty(
        "BatchCounted", of(BatchCounted), "keras", claims=PADDED, caught_by="EN08",
        says="the batch is counted", fault="sqrt(B*L*d) for sqrt(L*d)",
    ),
    Faulty(
        "Promotes", of(Promotes), "keras", claims=PADDED, caught_by="EN04",
        says="the sum promoted", fault="dtype promoted",
    ),
    Faulty(
        "SizeInHalf", of(SizeInHalf), "keras", claims=PADDED, caught_by="EN08",
        says="overflows in float16", fault="L*d overflows in float16: no noise",
    ),
    Faulty(
        "KeepsAlpha", of(KeepsAlpha), "keras", claims=PADDED, caught_by="EN18",
        says=r"entry '\w+\.alpha'", fault="alpha in a weight that is saved",
    ),
    Faulty(
        "Detached", of(Detached), "keras", claims=PADDED, caught_by="EN13",
        says="the output is detached", fault="gradient blocked",
    ),
    Faulty(
        "Multiplies", of(Multiplies), "keras", claims=Claims(distribution=None, length="padded"),
        caught_by="EN12", says="multiplied with the embeddings", fault="noise multiplied in",
    ),
    Faulty(
        "AheadOfSchedule", of(AheadOfSchedule), "keras",
        claims=Claims(length="padded", schedule=linear(1, 0, 8), saved_names=("count",)),
        caught_by="EN21", says="one step ahead", fault="alpha's schedule one step ahead",
    ),
    Faulty(
        "OneRowIfPadded", of(OneRowIfPadded), "keras",
        caught_by="EN63", says="one draw", fault="one draw for all rows, if there is padding",
    ),
    Faulty(
        "NoisesTheTable", lambda *, dim, alpha, seed: NoisesTheTable(dim, alpha, seed), "keras",
        inputs="ids",
        claims=Claims(distribution=None, scale="per_token", length=None, compilable=False),
        caught_by="EN17", says="added to the table", fault="noise written into the table",
    ),
]  # fmt: skip

if COMPILES:  # what only a compiler shows
    FAULTY += [
        Faulty(
            "NumpyDraw", of(NumpyDraw), "keras", claims=PADDED, caught_by="EN22",
            says="drawn while tracing", fault="drawn by NumPy: frozen while compiling",
        ),
        Faulty(
            "CountsInPython", of(CountsInPython), "keras", claims=PADDED, caught_by="EN22",
            says="treats as a constant",
            fault="steps counted in Python: frozen while compiling",
        ),
    ]  # fmt: skip
