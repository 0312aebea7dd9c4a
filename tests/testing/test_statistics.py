"""The bounds: each holds with the probability that it states, and these add up to the budget."""

import functools
import math

import numpy as np
import pytest
from scipy import stats

from embnoise import Distribution
from embnoise._distributions import GAUSSIAN, RADEMACHER, UNIFORM
from embnoise.testing import statistics, tables
from embnoise.testing.checks import ALL
from embnoise.testing.profiles import PROFILES
from tests.testing.distributions import (
    CLIPPED,
    HALF_DEFINED,
    LAPLACE,
    MOSTLY_ZERO,
    THREE_POINT,
    TRIANGULAR,
)

COUNT = 4096
ANY = [
    UNIFORM, RADEMACHER, GAUSSIAN, TRIANGULAR, LAPLACE, THREE_POINT, CLIPPED, MOSTLY_ZERO,
]  # fmt: skip


@functools.cache
def drawn(distribution, shape, seed=0):
    """From the continuous distribution, not from its table."""
    generator = np.random.default_rng(seed)
    if distribution is GAUSSIAN:
        return generator.standard_normal(shape)
    return np.vectorize(distribution.quantile)(generator.uniform(size=shape))


def name(distribution):
    return distribution.name


def test_the_bands_of_the_profiles():
    sizes = {name: math.prod(profile.batch) for name, profile in PROFILES.items()}
    for profile, (least, half_width) in {
        "quick": (2**14, 0.0279), "default": (2**16, 0.0140), "nightly": (2**20, 0.0035),
    }.items():  # fmt: skip
        assert least <= sizes[profile] < 1.02 * least
        assert statistics.band(least) == pytest.approx(half_width, abs=1e-4)


def test_the_chances_of_a_run_add_up_to_the_budget():
    """Four dtypes at most are tested, so this is the worst that a driver can have."""
    most = {"all": 4, "usual": 2, "float32": 1}
    random = sum(most[check.dtypes] for check in ALL if check.random)
    assert random <= statistics.RANDOM_CHECKS
    assert random * statistics.RATE <= 1e-9


@pytest.mark.parametrize("distribution", [UNIFORM, RADEMACHER, GAUSSIAN], ids=name)
@pytest.mark.parametrize("count", [2, 50])
def test_sums_are_below_their_bound_as_seldom_as_it_says(distribution, count):
    samples = drawn(distribution, (2000, 100, count))
    shares = np.square(samples.sum(axis=2)).mean(axis=1) / (count * distribution.rms**2)
    for rate in (0.2, 0.05):
        least = statistics.sums_least(distribution, 100, count, rate)
        assert (shares < least).mean() <= rate
        assert least > 0.3


@pytest.mark.parametrize("table", [False, True], ids=["continuous", "table"])
@pytest.mark.parametrize("distribution", ANY, ids=name)
@pytest.mark.parametrize("rate", [0.2, 0.05])
def test_windows_are_missed_as_seldom_as_they_say(distribution, rate, table):
    """At rates that can be seen: 2,000 samples, and six standard errors."""
    samples = drawn(distribution, (2000, 500))
    if table:
        integers = np.random.default_rng(1).integers(0, 65536, samples.shape)
        samples = distribution.table.astype(float)[integers]
    allowed = rate + 6 * math.sqrt(rate / 2000)
    low, high = statistics.extreme_window(distribution, 500, rate)
    largest = samples.max(axis=1)
    assert (largest < low).mean() <= allowed
    assert (abs(samples).max(axis=1) > high).mean() <= allowed
    for measure, window in (
        (lambda x: np.sqrt(np.square(x).mean()), statistics.rms_window),
        (lambda x: statistics.amplitude(distribution, x), statistics.amplitude_window),
    ):
        if (range_ := window(distribution, 500, rate)) is None:
            assert distribution in (LAPLACE, MOSTLY_ZERO)
            continue
        low, high = range_
        assert low <= 1 <= high or window is statistics.rms_window
        seen = np.array([measure(sample) for sample in samples])
        assert ((seen < low - 1e-6) | (seen > high + 1e-6)).mean() <= allowed
    distances = [statistics.cdf_distance(distribution, x, 1e-6)[0] for x in samples[:500]]
    band = statistics.band(500, rate) + tables.LATTICE
    assert (np.array(distances) > band).mean() <= rate + 6 * math.sqrt(rate / 500)


@pytest.mark.parametrize("distribution", ANY, ids=name)
def test_windows_are_not_wide(distribution):
    """Half of the noise, or twice as much, is outside of what 2**14 values may do."""
    low, high = statistics.amplitude_window(distribution, 2**14)
    assert 0.5 < low <= 1 <= high < 2


def test_a_chance_is_said_in_words():
    assert statistics.once_in() == "once in 6e10 runs"
    assert statistics.once_in(1e-3) == "once in 1e3 runs"


def test_the_extremes_have_their_closed_form():
    rate = 1e-3
    low, high = statistics.extreme_window(UNIFORM, 100, rate)
    assert stats.uniform(-1, 2).cdf(low) ** 100 == pytest.approx(rate)
    assert high == 1
    low, high = statistics.extreme_window(GAUSSIAN, 100, rate)
    assert stats.norm.cdf(low) ** 100 == pytest.approx(rate, rel=1e-6)
    assert 2 * 100 * stats.norm.sf(high) == pytest.approx(rate, rel=1e-6)
    assert statistics.amplitude_window(UNIFORM, 100, rate)[0] ** 100 == pytest.approx(rate)
    assert statistics.extreme_window(RADEMACHER, 100, rate) == (1, 1)
    assert statistics.rms_window(RADEMACHER, 100, rate) == (1, 1)


def test_far_tails_come_from_the_lower_side_if_that_is_right():
    _, high = statistics.extreme_window(LAPLACE, 1000, 1e-20)
    assert 2 * 1000 * stats.laplace.sf(high) == pytest.approx(1e-20)
    assert statistics.extreme_window(HALF_DEFINED, 1000, 1e-20)[1] == math.inf
    assert tables.upper_quantile(HALF_DEFINED, 0.01) == pytest.approx(stats.laplace.isf(0.01))


def test_the_distance_is_that_of_kolmogorov_and_smirnov():
    uniform = drawn(UNIFORM, COUNT) * 0.9
    expected = stats.kstest(uniform, stats.uniform(-1, 2).cdf).statistic
    assert statistics.cdf_distance(UNIFORM, uniform)[0] == pytest.approx(expected)
    normal = drawn(GAUSSIAN, COUNT) + 0.1
    expected = stats.kstest(normal, "norm").statistic
    assert statistics.cdf_distance(GAUSSIAN, normal)[0] == pytest.approx(expected)
    laplace = drawn(LAPLACE, COUNT) * 1.1
    expected = stats.kstest(laplace, "laplace").statistic
    assert statistics.cdf_distance(LAPLACE, laplace)[0] == pytest.approx(expected, abs=2**-15)


def test_the_distance_of_few_values_counts_both_ends_of_a_jump():
    def distance(distribution, *values, tolerance=0.0):
        return statistics.cdf_distance(distribution, np.array(values), tolerance)[0]

    assert distance(RADEMACHER, -1.0, 1.0) == 0
    assert distance(RADEMACHER, -1.0, 1.0, 1.0, 1.0) == 0.25
    assert distance(RADEMACHER, -0.5, 1.0) == 0.5
    assert distance(THREE_POINT, -1.0, 0.0, 0.0, 1.0) == 0
    rounded = (-1 - 1e-7, 0.0, 0.0, 1 - 1e-7)
    assert distance(THREE_POINT, *rounded) == 0.25
    assert distance(THREE_POINT, *rounded, tolerance=1e-6) == 0


def test_distinct_values_of_a_grid():
    for bits in (7, 10, 16):
        grid = np.random.default_rng(bits).integers(0, 2**bits, 2**14)
        least = statistics.distinct_least(UNIFORM, 2**14, bits)
        assert np.unique(grid).size >= least
        coarser = np.random.default_rng(bits).integers(0, 2 ** (bits - 3), 2**14)
        assert np.unique(coarser).size < least


@pytest.mark.parametrize("distribution", [GAUSSIAN, TRIANGULAR, LAPLACE, CLIPPED], ids=name)
def test_distinct_values_of_a_draw_in_low_precision(distribution):
    ml_dtypes = pytest.importorskip("ml_dtypes")
    for dtype, bits in ((ml_dtypes.bfloat16, 7), (np.float16, 10), (np.float32, 16)):
        grid = np.random.default_rng(bits).integers(0, 2**bits, 2**14)
        values = distribution.table[(grid * 2 + 1) * 2 ** (15 - bits)] if bits < 16 else (
            distribution.table[grid]
        )  # fmt: skip
        found = np.unique((values * np.float32(0.0937)).astype(dtype)).size
        assert found >= statistics.distinct_least(distribution, 2**14, bits)


def test_a_run_has_160_bits():
    many, signs = np.arange(2**14), np.arange(2**14) % 2
    assert statistics.run_length(UNIFORM, many) == statistics.run_length(GAUSSIAN, many) == 12
    assert statistics.run_length(RADEMACHER, many) == statistics.run_length(None, many) == 160
    assert statistics.run_length(THREE_POINT, many) == math.ceil(160 / -math.log2(0.375))
    assert statistics.run_length(UNIFORM, signs) in (160, 161)  # what is seen has fewer bits


def test_facts_of_a_table():
    assert tables.is_two_point(RADEMACHER)
    assert not tables.is_two_point(THREE_POINT)
    assert tables.is_two_point(Distribution("half", lambda p: 0.5 if p > 0.5 else -0.5))
    assert [tables.value_count(each) for each in (RADEMACHER, THREE_POINT, UNIFORM)] == [
        2, 3, 65536,
    ]  # fmt: skip
    assert tables.zero_share(THREE_POINT) == 0.5
    assert tables.agreement(RADEMACHER) == 0.5
    assert all(tables.splits_at_median(each) for each in (UNIFORM, GAUSSIAN, LAPLACE, THREE_POINT))
    assert not any(tables.splits_at_median(each) for each in (RADEMACHER, CLIPPED))
