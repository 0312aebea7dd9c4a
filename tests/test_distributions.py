"""Distributions: their tables against independent evaluations."""

import math

import mpmath
import numpy as np
import pytest
from scipy import stats

from embnoise import Distribution, add_noise, neftune
from embnoise._distributions import (
    GAUSSIAN,
    LATTICE_SIZE,
    RADEMACHER,
    UNIFORM,
    resolve_distribution,
)


def test_uniform_is_exact_and_open():
    k = np.arange(LATTICE_SIZE)
    assert (UNIFORM.unit(k, np) == UNIFORM.table).all()
    assert (UNIFORM.table.astype(np.float64) == (2 * k - 65535) / 65536).all()
    assert abs(UNIFORM.table).max() < 1


def test_gaussian_is_rounded_once_from_the_true_quantile():
    k = np.arange(LATTICE_SIZE // 2, LATTICE_SIZE)
    quantile = stats.norm.isf((LATTICE_SIZE - k - 0.5) / LATTICE_SIZE)
    rms = np.sqrt((quantile**2).mean())
    assert (
        GAUSSIAN.table[LATTICE_SIZE // 2 :] == (quantile / rms).astype(np.float32)
    ).mean() > 0.9999
    with mpmath.workdps(40):
        for index in (32768, 32769, 50000, 65000, 65534, 65535):
            p = (mpmath.mpf(index) + 0.5) / LATTICE_SIZE
            exact = mpmath.sqrt(2) * mpmath.erfinv(2 * p - 1) / mpmath.mpf(float(rms))
            assert GAUSSIAN.table[index] == np.float32(float(exact))


@pytest.mark.parametrize("law", [UNIFORM, RADEMACHER, GAUSSIAN], ids=lambda law: law.name)
def test_tables_are_symmetric_and_sorted(law):
    assert law.table.dtype == np.float32
    assert law.table.shape == (LATTICE_SIZE,)
    assert (law.table == -law.table[::-1]).all()
    assert (np.diff(law.table) >= 0).all()
    assert not law.table.flags.writeable


@pytest.mark.parametrize(("law", "rms"), [(UNIFORM, 3**-0.5), (RADEMACHER, 1.0), (GAUSSIAN, 1.0)])
def test_rms(law, rms):
    assert law.rms == pytest.approx(rms, rel=1e-8)


@pytest.mark.parametrize(
    ("name", "cdf"), [("uniform", stats.uniform(-1, 2).cdf), ("gaussian", stats.norm.cdf)]
)
def test_the_noise_follows_its_distribution(name, cdf):
    """Within the Dvoretzky-Kiefer-Wolfowitz band of false-alarm rate 1e-10 and a lattice step."""
    drawn = add_noise(
        np.zeros((16, 64, 64), np.float32),
        neftune(1.0, scale="absolute", distribution=name),
        step=0,
    )
    values = np.sort(drawn.ravel().astype(np.float64))
    band = np.sqrt(np.log(2 / 1e-10) / (2 * values.size)) + 1 / LATTICE_SIZE
    expected = cdf(values)
    ranks = np.arange(values.size)
    assert (abs(expected - (ranks + 0.5) / values.size) <= band).all()


@pytest.mark.parametrize("quantile", [lambda p: -p, lambda p: float("inf"), lambda p: 0.0])
def test_a_quantile_function_that_is_none_is_refused(quantile):
    with pytest.raises(ValueError, match="quantile of distribution 'odd' must be finite"):
        _ = Distribution("odd", quantile).table


@pytest.mark.parametrize("quantile", [lambda p: p, lambda p: -math.log(1 - p)])
def test_a_distribution_that_is_not_symmetric_is_refused(quantile):
    """U(0, 1) and the exponential one: half of either, mirrored, would be something else."""
    with pytest.raises(ValueError, match="quantile of distribution 'odd' must be symmetric"):
        add_noise(np.zeros((1, 2, 3)), neftune(distribution=Distribution("odd", quantile)), step=0)


def test_a_name_or_the_thing_itself():
    assert resolve_distribution("gaussian") is resolve_distribution(GAUSSIAN) is GAUSSIAN
