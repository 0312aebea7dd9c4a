"""The bounds: each holds with the chance that it states, and the chances add up to the budget."""

import math

import numpy as np
import pytest
from scipy import stats

from embnoise.testing import statistics
from embnoise.testing.checks import ALL
from embnoise.testing.claims import DISTRIBUTIONS
from embnoise.testing.profiles import PROFILES

COUNT = 4096


def drawn(distribution, shape, seed=0):
    generator = np.random.default_rng(seed)
    return {
        "uniform": lambda: generator.uniform(-1, 1, shape),
        "rademacher": lambda: generator.choice([-1.0, 1.0], shape),
        "gaussian": lambda: generator.standard_normal(shape),
    }[distribution]()


def test_the_bands_of_the_profiles():
    sizes = {name: math.prod(profile.batch) for name, profile in PROFILES.items()}
    for name, (least, half_width) in {
        "quick": (2**14, 0.0276), "default": (2**16, 0.0138), "nightly": (2**20, 0.0034),
    }.items():  # fmt: skip
        assert least <= sizes[name] < 1.02 * least
        assert statistics.band(least) == pytest.approx(half_width, abs=1e-4)


def test_the_chances_of_a_run_add_up_to_the_budget():
    """Four dtypes at most are tested, so this is the worst that a driver can have."""
    random = sum(4 if check.dtypes == "all" else 1 for check in ALL if check.random)
    assert random <= statistics.RANDOM_CHECKS
    assert random * statistics.RATE <= 1e-9


@pytest.mark.parametrize("distribution", DISTRIBUTIONS)
@pytest.mark.parametrize("rate", [0.2, 0.05])
def test_windows_are_missed_as_seldom_as_they_say(distribution, rate):
    """At rates that can be seen: 2,000 samples, and six standard errors."""
    samples = drawn(distribution, (2000, 500))
    allowed = rate + 6 * math.sqrt(rate / 2000)
    low, high = statistics.extreme_window(distribution, 500, rate)
    largest = samples.max(axis=1)
    assert (largest < low).mean() <= allowed
    assert (abs(samples).max(axis=1) > high).mean() <= allowed
    for measure, window in (
        (lambda x: np.sqrt(np.square(x).mean()), statistics.rms_window),
        (lambda x: statistics.amplitude(distribution, x), statistics.amplitude_window),
    ):
        low, high = window(distribution, 500, rate)
        seen = np.array([measure(sample) for sample in samples])
        assert ((seen < low) | (seen > high)).mean() <= allowed
    distances = [statistics.cdf_distance(distribution, sample)[0] for sample in samples]
    assert (np.array(distances) > statistics.band(500, rate)).mean() <= allowed


def test_a_chance_is_said_in_words():
    assert statistics.once_in() == "once in 3e10 runs"
    assert statistics.once_in(1e-3) == "once in 1e3 runs"


def test_the_extremes_have_their_closed_form():
    rate = 1e-3
    low, _ = statistics.extreme_window("uniform", 100, rate)
    assert stats.uniform(-1, 2).cdf(low) ** 100 == pytest.approx(rate)
    low, high = statistics.extreme_window("gaussian", 100, rate)
    assert stats.norm.cdf(low) ** 100 == pytest.approx(rate, rel=1e-6)
    assert 2 * 100 * stats.norm.sf(high) == pytest.approx(rate, rel=1e-6)
    assert statistics.amplitude_window("uniform", 100, rate)[0] ** 100 == pytest.approx(rate)


def test_the_distance_is_that_of_kolmogorov_and_smirnov():
    uniform = drawn("uniform", COUNT) * 0.9
    expected = stats.kstest(uniform, stats.uniform(-1, 2).cdf).statistic
    assert statistics.cdf_distance("uniform", uniform)[0] == pytest.approx(expected)
    normal = drawn("gaussian", COUNT) + 0.1
    expected = stats.kstest(normal, "norm").statistic
    assert statistics.cdf_distance("gaussian", normal)[0] == pytest.approx(expected)


def test_the_distance_of_two_values_counts_both_ends_of_a_jump():
    assert statistics.cdf_distance("rademacher", np.array([-1.0, 1.0]))[0] == 0
    assert statistics.cdf_distance("rademacher", np.array([-1.0, 1.0, 1.0, 1.0]))[0] == 0.25
    assert statistics.cdf_distance("rademacher", np.array([-0.5, 1.0]))[0] == 0.5


def test_distinct_values_of_a_grid():
    for bits in (7, 10, 16):
        grid = np.random.default_rng(bits).integers(0, 2**bits, 2**14)
        assert np.unique(grid).size >= statistics.distinct_least(2**14, bits)
        coarser = np.random.default_rng(bits).integers(0, 2 ** (bits - 3), 2**14)
        assert np.unique(coarser).size < statistics.distinct_least(2**14, bits)
