"""One fault gives one message, which names its cause: layers by hand that draw with NumPy."""

import hashlib
import os
import re
from importlib import import_module

import numpy as np
import pytest

from embnoise.testing import Claims, case, check_layer, iter_checks
from tests.frameworks import params

GAUSSIAN = Claims(distribution="gaussian")


class Uniform:
    """NEFTune by hand, right."""

    def __init__(self, alpha, seed):
        self.alpha, self.seed = alpha, seed
        self.generator = np.random.default_rng(seed)

    def units(self, shape):
        return self.generator.uniform(-1, 1, shape)

    def noise(self, x, mask):
        lengths = np.maximum(mask.sum(axis=1), 1)[:, None, None]
        magnitude = self.alpha / np.sqrt(lengths * x.shape[2])
        return self.units(x.shape) * magnitude * mask[..., None]

    def __call__(self, x, *, training, mask):
        return x + self.noise(x, mask).astype(x.dtype) if training else x


def failures(layer, claims=None, inputs="embeddings"):
    """The messages of the checks that fail, by code."""

    def make(*, dim, alpha, seed):
        made = layer(alpha, seed)
        made.dim = dim
        return made

    mine = case(layer.__name__, make, driver="numpy", inputs=inputs, claims=claims)
    report = check_layer(mine, profile="quick", raises=False)
    return {each.code: each.message for each in report.results if each.wrong}


def result_of(code, mine):
    """The status and the message of a check in float32."""
    checks = iter_checks(mine, profile="quick")
    (check,) = (each for each in checks if (each.spec.code, each.dtype) == (code, "float32"))
    result = check.run()
    return result.status, result.message


def test_the_layer_without_a_fault_holds():
    assert not failures(Uniform)


@pytest.mark.parametrize(
    ("seed", "code"),
    [
        (lambda seed: 7, "EN07"),
        (lambda seed: seed // 1000, "EN44"),
        (lambda seed: seed >> 13 << 13, "EN44"),
        (lambda seed: int(np.float32(seed)), "EN44"),
    ],
    ids=["fixed", "divided", "without low bits", "float32"],
)
def test_seeds_that_draw_alike_are_not_blamed_on_sizes(seed, code):
    class Layer(Uniform):
        def __init__(self, alpha, given):
            super().__init__(alpha, seed(given))

    assert set(failures(Layer)) == {code}


def test_a_generator_that_is_seeded_in_every_call_is_one_failure():
    class Layer(Uniform):
        def units(self, shape):
            self.generator = np.random.default_rng(self.seed)
            return super().units(shape)

    found = failures(Layer)
    assert set(found) == {"EN06"}
    assert "the generator is seeded again in every call" in found["EN06"]


def test_a_period_is_named():
    class Layer(Uniform):
        def __call__(self, x, *, training, mask, step):
            self.generator = np.random.default_rng([self.seed, step % 10])
            return super().__call__(x, training=training, mask=mask)

    found = failures(Layer)
    assert set(found) == {"EN06"}
    assert "modulo 10" in found["EN06"]


def test_one_state_for_both_halves_of_the_rows_is_one_failure():
    """As in JAX, if one key is used for both."""

    class Layer(Uniform):
        def units(self, shape):
            batch, width, dim = shape
            seed = self.generator.integers(2**31)
            halves = [
                np.random.default_rng(seed).uniform(-1, 1, (batch, part, dim))
                for part in (-(-width // 2), width // 2)
            ]
            return np.concatenate(halves, axis=1)

    assert set(failures(Layer)) == {"EN40"}


def test_a_part_of_a_draw_for_both_halves_of_the_rows_is_one_failure():
    class Layer(Uniform):
        def units(self, shape):
            units = super().units(shape)
            _, width, dim = shape
            half = width // 2
            if half > 1:
                units[:, half : 2 * half, : dim - 1] = units[:, :half, 1:]
            return units

    found = failures(Layer)
    assert set(found) == {"EN40"}
    assert "tokens and 1 channel apart" in found["EN40"]


def test_a_generator_that_is_seeded_for_each_shape_is_named():
    class Layer(Uniform):
        shape = None

        def units(self, shape):
            if shape != self.shape:
                self.generator, self.shape = np.random.default_rng(self.seed), shape
            return super().units(shape)

    found = failures(Layer)
    assert set(found) == {"EN43"}
    assert "seeded again when the size of the batches changes" in found["EN43"]


def raising(when, message):
    """A layer that refuses some inputs with an error."""

    class Layer(Uniform):
        def __call__(self, x, *, training, mask):
            if when(x, mask):
                raise ValueError(message)
            return super().__call__(x, training=training, mask=mask)

    return Layer


@pytest.mark.parametrize(
    ("when", "said"),
    [
        (lambda x, mask: x.dtype == np.float16, "raised ValueError: not taken"),
        (lambda x, mask: not mask.all(), "a batch with padding, .* raised ValueError: not taken"),
        (lambda x, mask: (mask[:, 1:] & ~mask[:, :-1]).any(), "on the left.*If .* padding='right'"),
        (lambda x, mask: not mask.any(axis=1).all(), "a row that is all padding"),
    ],
    ids=["float16", "padding", "left padding", "empty rows"],
)
def test_what_a_layer_refuses_is_one_failure(when, said):
    found = failures(raising(when, "not taken"))
    assert set(found) == {"EN01"}
    assert re.search(said, found["EN01"])
    assert "inputs='ids'" not in found["EN01"]


def test_a_layer_that_takes_right_padding_only_may_claim_that():
    left = raising(lambda x, mask: (mask[:, 1:] & ~mask[:, :-1]).any(), "not taken")
    assert not failures(left, Claims(padding="right"))


def test_a_mask_that_is_inverted_is_one_failure():
    class Layer(Uniform):
        def noise(self, x, mask):
            return super().noise(x, ~mask)

    found = failures(Layer)
    assert set(found) == {"EN09"}
    assert "invert it" in found["EN09"]


@pytest.mark.parametrize("framework", params("torch"))
def test_noise_that_asks_for_a_gradient_is_named(framework):
    layers = import_module(f"tests.testing.{framework}_layers")

    class Layer(layers.Uniform):
        def forward(self, x, mask):
            return super().forward(x, mask) if x.requires_grad else x

    mine = case("mine", layers.of(Layer), driver=framework)
    assert "only where a gradient is tracked" in result_of("EN24", mine)[1]


@pytest.mark.parametrize("framework", params("torch"))
@pytest.mark.parametrize("kept", [None, "5"])
def test_a_layer_may_read_its_rank_from_the_environment(framework, kept, monkeypatch):
    """As under torchrun, which sets it before the process group is made."""
    layers = import_module(f"tests.testing.{framework}_layers")

    def make(*, dim, alpha, seed):
        own = hashlib.sha256(f"{seed}/{os.environ.get('RANK', '0')}".encode()).digest()
        return layers.Uniform(alpha, int.from_bytes(own[:6], "little"))

    if kept is None:
        monkeypatch.delenv("RANK", raising=False)
    else:
        monkeypatch.setenv("RANK", kept)
    mine = case("mine", make, driver=framework, claims=Claims(distinct_ranks=True))
    assert result_of("EN38", mine)[0] == "passed"
    assert os.environ.get("RANK") == kept


def drawing(change):
    """A layer whose units are made by a function of a generator and a shape."""

    class Layer(Uniform):
        def units(self, shape):
            return change(self.generator, shape)

    return Layer


def summed(draw, shape):
    """The sum of three uniform draws, with the RMS of one Gaussian draw."""
    return sum(draw.uniform(-1, 1, shape) for _ in range(3))


def with_outliers(draw, shape):
    return np.where(draw.random(shape) < 2e-4, 9.2, draw.standard_normal(shape))


def truncated(draw, shape):
    units = draw.standard_normal(shape)
    while (abs(units) > 2).any():
        units = np.where(abs(units) > 2, draw.standard_normal(shape), units)
    return units


@pytest.mark.parametrize(
    ("draw", "code", "said"),
    [
        (summed, "EN08", "lighter tails than a Gaussian|the tails are too light"),
        (with_outliers, "EN10", "the tails are too heavy|heavier tails than a Gaussian"),
        (truncated, "EN08", "lighter tails than a Gaussian"),
    ],
)
def test_tails_are_not_called_a_scale(draw, code, said):
    found = failures(drawing(draw), GAUSSIAN)
    assert code in found
    for message in found.values():
        assert re.search(said, message)
        assert "rather than gaussian" not in message


@pytest.mark.parametrize(
    ("draw", "claims"),
    [
        (lambda draw, shape: 0.998 * draw.uniform(-1, 1, shape), Claims()),
        (lambda draw, shape: 1.02 * draw.standard_normal(shape), GAUSSIAN),
    ],
    ids=["uniform", "gaussian"],
)
def test_a_scale_that_is_a_little_off_is_not_blamed_on_sizes(draw, claims):
    (message,) = failures(drawing(draw), claims).values()
    assert "another scale than claimed: usual batches have" in message


def test_a_draw_that_is_a_little_off_center_is_named():
    found = failures(drawing(lambda draw, shape: draw.uniform(-0.98, 1.02, shape)))
    assert all("off center" in message for message in found.values())
    assert "EN08" in found


def test_noise_for_each_entry_of_the_vocabulary_is_named():
    class Layer(Uniform):
        def __call__(self, ids, *, training, mask):
            table = np.random.default_rng(0).standard_normal((8, self.dim))
            noise = self.units(table.shape)[ids] * self.magnitude(mask) if training else 0
            return (table[ids] + noise).astype(np.float32)

        def magnitude(self, mask):
            lengths = np.maximum(mask.sum(axis=1), 1)[:, None, None]
            return self.alpha / np.sqrt(lengths * self.dim) * mask[..., None]

    found = failures(Layer, inputs="ids")
    assert set(found) == {"EN12"}
    assert "tokens of the same id have the same noise" in found["EN12"]


def test_noise_that_is_cut_from_a_pool_is_not_called_a_period():
    class Layer(Uniform):
        calls = 0

        def units(self, shape):
            # In blocks of four values; after 101 calls almost the first one.
            start = self.calls * (2**22 // 101 + 1) % 2**22
            self.calls += 1
            pool = np.random.Philox(key=self.seed).advance(start)
            return np.random.Generator(pool).uniform(-1, 1, shape)

    make = lambda *, dim, alpha, seed: Layer(alpha, seed)  # noqa: E731
    assert "cut from one draw (a pool)" in result_of("EN46", case("mine", make, driver="numpy"))[1]


def test_noise_that_follows_the_standard_deviation_is_not_called_silent():
    class Layer(Uniform):
        def noise(self, x, mask):
            x = x.astype(np.float64)
            return self.alpha * x.std(axis=(1, 2), keepdims=True) * self.units(x.shape)

    found = failures(Layer, Claims(scale="relative", length=None))
    assert set(found) == {"EN24"}
    assert "the standard deviation of the embeddings" in found["EN24"]


def test_noise_of_one_size_that_is_wrong_is_not_blamed_on_single_channels():
    def normalized(draw, shape):
        units = draw.uniform(-1, 1, shape)
        return units / np.sqrt(3 * np.square(units).mean(axis=(1, 2), keepdims=True))

    assert set(failures(drawing(normalized))) == {"EN10"}
