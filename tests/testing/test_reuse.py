"""Noise that is used twice: how a copy is turned is named right, and periods are all found."""

import numpy as np
import pytest

from embnoise._distributions import RADEMACHER, UNIFORM
from embnoise.testing import Claims, case, iter_checks
from embnoise.testing.counts import far_apart
from embnoise.testing.runs import repeated_run, shuffled_slices

UNITS = np.random.default_rng(0).uniform(-1, 1, (5, 19, 37))
ROWS = {
    "": lambda row: row,
    "negated": np.negative,
    "reversed along the tokens": lambda row: row[::-1],
    "reversed along the channels": lambda row: row[:, ::-1],
    "negated, reversed along the channels": lambda row: -row[:, ::-1],
}


@pytest.mark.parametrize("how", ROWS)
def test_a_copy_of_a_row_is_named(how):
    units = UNITS.copy()
    units[3] = ROWS[how](units[1])
    (first, second), said = repeated_run(units, UNIFORM)
    assert {first[0], second[0]} == {1, 3}
    assert said == how


def test_a_transposed_copy_is_named():
    units = UNITS.copy()
    units[4, :, :19] = units[0, :, :19].T
    assert repeated_run(units, UNIFORM)[1] == "with tokens and channels exchanged"


def test_nothing_is_repeated_in_a_draw_or_in_zeros():
    assert repeated_run(UNITS, UNIFORM) is None
    units = UNITS.copy()
    units[1:3] = 0
    assert repeated_run(units, UNIFORM) is None
    assert shuffled_slices(units, UNIFORM) is None


def test_signs_are_not_called_shuffled_whatever_is_claimed():
    assert shuffled_slices(np.sign(UNITS), UNIFORM) is None
    assert shuffled_slices(np.sign(UNITS), RADEMACHER) is None


@pytest.mark.parametrize("code", ["EN41", "EN43"])
def test_rows_without_noise_are_not_called_copies(code):
    def make(*, dim, alpha, seed):
        def layer(x, *, training, step):
            noise = np.random.default_rng([seed, step]).uniform(-1, 1, x.shape)
            noise[::2] = 0  # which other checks report
            return x + training * alpha * noise.astype(x.dtype)

        return layer

    claims = Claims(scale="absolute", length=None)
    made = case("mine", make, driver="numpy", claims=claims)
    (check,) = (each for each in iter_checks(made, profile="quick") if each.spec.code == code)
    assert check.run().message in ("", "EN24 every_token_noised failed"), check.run().message


@pytest.mark.parametrize("most", [1, 2, 10, 576, 4096])
def test_every_period_shows(most):
    numbers = np.array(far_apart(most))
    apart = np.unique(abs(numbers[:, None] - numbers))[1:]
    periods = [*range(1, most + 1), *(2**k for k in range(31)), *(10**k for k in range(10))]
    assert all((apart % period == 0).any() for period in periods)
