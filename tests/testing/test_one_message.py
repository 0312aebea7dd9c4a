"""A fault gives one message, whatever its place and its size are: families of them, in NumPy."""

import itertools

import numpy as np
import pytest

from embnoise.testing import Claims, case, check_layer
from tests.frameworks import params
from tests.testing.zoo import some


def failed(*, units=lambda units: units, mask=lambda mask: mask, profile="quick"):
    """The codes of the checks that fail for NEFTune by hand with a changed part."""

    def make(*, dim, alpha, seed):
        def layer(x, *, training, mask, step):
            if not training:
                return x
            real = change_mask(mask)
            lengths = np.maximum(real.sum(axis=1), 1)[:, None, None]
            draw = np.random.default_rng([seed, step]).uniform(-1, 1, x.shape)
            noise = units(draw) * alpha / np.sqrt(lengths * x.shape[2]) * real[..., None]
            return x + noise.astype(x.dtype)

        return layer

    change_mask = mask
    report = check_layer(case("mine", make, driver="numpy"), profile=profile, raises=False)
    return {each.code for each in report.results if each.wrong}


PLACES = {
    "first token": np.s_[:, 0], "last token": np.s_[:, -1], "second token": np.s_[:, 1:2],
    "odd tokens": np.s_[:, 1::2], "tokens from 4": np.s_[:, 4:],
    "first row": np.s_[:1], "last row": np.s_[-1:], "odd rows": np.s_[1::2],
    "rows from 2": np.s_[2:],
    "first channel": np.s_[..., 0], "last channel": np.s_[..., -1],
    "odd channels": np.s_[..., 1::2],
}  # fmt: skip

CHANGES = {
    "without noise": lambda part: 0 * part,
    "half": lambda part: part / 2,
    "0.9 times": lambda part: 0.9 * part,
    "twice": lambda part: 2 * part,
    "on one side": abs,
    "signs": np.sign,
}


@pytest.mark.parametrize("part", some(list(itertools.product(PLACES, CHANGES)), 17), ids=", ".join)
def test_a_part_of_another_size_or_sign_is_one_message(part):
    place, change = part

    def units(units):
        units = units.copy()
        if units.size:
            units[PLACES[place]] = CHANGES[change](units[PLACES[place]])
        return units

    code = "EN24" if change == "without noise" else "EN52"
    assert failed(units=units) == {code}


@pytest.mark.parametrize(
    ("units", "code"),
    [
        (lambda units: units * (abs(units) * 1e4 % 100 >= 1), "EN53"),
        pytest.param(
            lambda units: units * (abs(units) * 1e4 % 100 >= 10), "EN53", marks=pytest.mark.sweep
        ),
        (np.sign, "EN30"),
        pytest.param(np.round, "EN28", marks=pytest.mark.sweep),
        pytest.param(lambda units: np.round(2 * units) / 2, "EN28", marks=pytest.mark.sweep),
        pytest.param(
            lambda units: np.sign(units) * abs(units) ** 0.5, "EN30", marks=pytest.mark.sweep
        ),
    ],
    ids=["1% clean", "10% clean", "signs", "three values", "five values", "large ones"],
)
def test_another_distribution_is_one_message(units, code):
    assert failed(units=units) == {code}


@pytest.mark.sweep
@pytest.mark.parametrize("beyond", [np.s_[..., 128:], np.s_[:, 512:], np.s_[512:]])
def test_no_noise_beyond_a_limit_is_one_message(beyond):
    """Slices without noise are not called the same draw, though they are the same."""

    def units(units):
        units = units.copy()
        units[beyond] = 0
        return units

    assert failed(units=units, profile="default") == {"EN50"}


def test_channels_without_noise_are_not_called_the_same_draw():
    units = lambda units: units * (np.arange(units.shape[2]) < 90)  # noqa: E731, of 95
    assert failed(units=units) == {"EN50"}


@pytest.mark.sweep
@pytest.mark.parametrize(
    "change",
    [lambda mask: mask.T, lambda mask: mask[:, ::-1], np.ones_like],
    ids=["transposed", "reversed", "ignored"],
)
def test_a_mask_that_is_changed_if_b_is_l_is_one_message(change):
    def mask(mask):
        return change(mask) if mask.shape[0] == mask.shape[1] else mask

    assert failed(mask=mask, profile="default") == {"EN49"}


@pytest.mark.parametrize("framework", params("torch"))
def test_an_exception_in_the_gradient_is_one_message(framework):
    import torch  # noqa: PLC0415, only if it is tested

    class Refusing(torch.autograd.Function):
        @staticmethod
        def forward(ctx, x):
            return x.clone()

        @staticmethod
        def backward(ctx, gradient):
            raise ZeroDivisionError("no gradient")

    class Layer(torch.nn.Module):
        def __init__(self, alpha, seed):
            super().__init__()
            self.alpha, self.seed = alpha, seed

        def forward(self, x, mask, step):
            if not self.training:
                return x
            draw = np.random.default_rng([self.seed, step]).uniform(-1, 1, x.shape)
            lengths = mask.sum(dim=1).clamp(min=1)[:, None, None]
            magnitude = self.alpha / (lengths * x.shape[2]) ** 0.5 * mask[..., None]
            return Refusing.apply(x + (torch.tensor(draw) * magnitude).to(x.dtype))

    make = lambda *, dim, alpha, seed: Layer(alpha, seed)  # noqa: E731
    mine = case("mine", make, driver=framework, claims=Claims(compilable=False))
    report = check_layer(mine, profile="quick", raises=False)
    wrong = [each for each in report.results if each.wrong]
    assert {each.code for each in wrong} == {"EN13"}
    assert "raised ZeroDivisionError: no gradient" in wrong[0].message
