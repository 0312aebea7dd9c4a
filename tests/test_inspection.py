"""``inspect_table`` and the measurement of recorded lookups, against noise that is really added."""

import json

import numpy as np
import pytest

from embnoise import Noise, add_noise, inspect_table, linear, neftune
from embnoise._inspect.measurement import Lookup, inner_multiplier, measure, outer_multiplier
from embnoise._inspect.table_effects import ROUNDINGS, flipped_shares, root_mean_square
from embnoise._tokens import TokenArrays

DIM = 64
TABLE = np.random.default_rng(0).normal(0, 0.02, (200, DIM)).astype(np.float32)


def at(length, noise, table=TABLE, **options):
    [report] = inspect_table(table, noise, lengths=[length], **options).embeddings
    [found] = report.lengths
    return found


def rms(x):
    return float(np.sqrt(np.square(x, dtype=float).mean()))


@pytest.mark.parametrize(
    "noise",
    [
        neftune(5.0),
        Noise(5.0, "gaussian", match="rms"),
        Noise(0.1, "rademacher", scale="absolute"),
        Noise(3.0, scale="per_token"),
        neftune(5.0, length=300),
        Noise(0.5, scale="relative"),
    ],
)
def test_the_noise_has_the_predicted_size(noise):
    tokens = np.random.default_rng(1).integers(200, size=(1, 2000))
    x = TABLE[tokens] * np.float32(8)
    found = at(2000, noise, multiplier=8.0)
    # 128,000 values, with a kurtosis of at most 3: 1% is five standard deviations, and the RMS of
    # the embeddings of the drawn tokens may be another one by 0.3%.
    assert rms(add_noise(x, noise, step=0) - x) == pytest.approx(found.noise_rms, rel=0.01)
    assert found.ratio == pytest.approx(found.noise_rms / (8 * rms(TABLE)))


@pytest.mark.parametrize("dtype", ["bfloat16", "float16"])
@pytest.mark.parametrize("alpha", [0.005, 0.5])
def test_elements_are_lost_as_in_16_bits(dtype, alpha):
    """All 200 rows are the sample, so the share is that of ``add_noise`` in this very dtype."""
    kind = pytest.importorskip("ml_dtypes").bfloat16 if dtype == "bfloat16" else np.float16
    noise = neftune(alpha, seed=3)
    x = TABLE.astype(kind)[None]
    lost = np.mean(add_noise(x, noise, step=0) == x)
    assert at(200, noise).lost[dtype] == lost
    assert 0.01 < lost < 0.99 or alpha == 0.5


def test_bfloat16_is_rounded_to_even():
    values = np.concatenate([TABLE.ravel(), [1 + 2**-8, 1 + 3 * 2**-8, 0.0, -1e-40, 3e38]])
    values = values.astype(np.float32)
    kind = pytest.importorskip("ml_dtypes").bfloat16
    assert np.array_equal(ROUNDINGS["bfloat16"](values), values.astype(kind).astype(np.float32))


@pytest.mark.parametrize("alpha", [1.0, 12.0, 30.0])
def test_rows_flip_as_by_brute_force(alpha):
    noise, table = neftune(alpha, seed=1), TABLE.astype(np.float64)
    noisy = add_noise(TABLE[None], noise, step=0)[0].astype(np.float64)
    nearest = np.square(noisy[:, None] - table).sum(axis=-1).argmin(axis=1)
    flipped = np.mean(nearest != np.arange(200))
    assert at(200, noise).flipped == flipped
    assert (flipped > 0) == (alpha > 1)


@pytest.mark.parametrize("distance", [0.0, 0.01, 1.0])
def test_rows_are_found_in_every_part_of_a_table(distance):
    """The neighbors are beyond the 4,096 rows that are worked on at a time."""
    draw = np.random.default_rng(0)
    table = draw.normal(0, 1, (5000, 8)).astype(np.float32)
    table[4700:] = table[:300] + np.float32(distance) * np.sign(table[:300])
    rows, draws = np.arange(300), draw.uniform(-1, 1, (300, 8)).astype(np.float32)
    away = (table[:300] + 0.1 * draws).astype(float)[:, None] - table.astype(float)
    distances = np.square(away).sum(axis=-1)
    # A copy of a row is no other row.
    expected = np.mean(distances.min(axis=1) < distances[rows, rows] * (1 - 1e-9))
    assert flipped_shares(table, 1.0, rows, draws, [0.1]) == [expected]
    assert (expected > 0.3) == (distance == 0.01)


def test_the_matched_alpha_gives_the_ratio_of_the_paper():
    published = 5 / np.sqrt(100 * 4096) / np.sqrt(3) / 0.017
    for noise in (neftune(1.0), Noise(2.0, "gaussian"), Noise(1.0, scale="relative")):
        alpha = at(100, noise, reference_rms=0.017).matched_alpha
        matched = Noise(alpha, noise.distribution, noise.scale)
        assert at(100, matched).ratio == pytest.approx(published, rel=1e-4)
    assert at(100, neftune(1.0)).matched_alpha is None
    odd = Noise(1.0, scale=lambda alpha, length, dim: alpha**2 / dim)
    assert at(100, odd, reference_rms=0.017).matched_alpha is None


def test_the_text():
    report = inspect_table(TABLE, neftune(5.0), lengths=[16, 4096], name="wte")
    assert "wte, 200 x 64" in report.table()
    assert "pass --reference-rms R (reference_rms=R in Python)" in " ".join(report.table().split())
    assert "taken as 1 in the embedding: no call of a model was measured" in report.table()
    told = inspect_table(TABLE, neftune(5.0), reference_rms=0.017).table()
    alpha = at(16, neftune(5.0), reference_rms=0.017).matched_alpha
    assert f"{alpha:.4g} for the noise ratio of the paper's LLaMA-2-7B setting" in told
    assert max(map(len, told.splitlines()[1:])) <= 100
    by_length = inspect_table(TABLE, Noise(0.1, scale="absolute"), reference_rms=0.017).table()
    assert "at 16 tokens, " in by_length
    odd = Noise(1.0, scale=lambda alpha, length, dim: alpha**2 / dim)
    assert (
        "no alpha gives the noise ratio" in inspect_table(TABLE, odd, reference_rms=0.017).table()
    )
    data = json.loads(report.to_json())
    assert data["embeddings"][0]["lengths"][1]["tokens"] == 4096


def test_alpha_is_that_of_the_step():
    noise = neftune(linear(0.0, 5.0, 10))
    assert at(16, noise, step=10).noise_rms == pytest.approx(at(16, neftune(5.0)).noise_rms)
    with pytest.raises(ValueError, match=r"alpha must be above 0 at step 0, got 0\.0; pass the"):
        at(16, noise)


@pytest.mark.parametrize(
    ("change", "error", "message"),
    [
        ({"table": TABLE[0]}, ValueError, r"table must be an array \[V, d\]"),
        ({"table": TABLE[:0]}, ValueError, r"table must be an array \[V, d\]"),
        ({"table": np.ones((3, 4), int)}, TypeError, "table must be floating-point"),
        ({"table": np.zeros((3, 4))}, ValueError, "not all zeros"),
        ({"table": np.full((3, 4), np.nan)}, ValueError, "table must be finite"),
        ({"noise": 5.0}, TypeError, "did you mean neftune"),
        ({"noise": neftune(linear(5.0, 0.0))}, ValueError, "bind"),
        ({"lengths": []}, ValueError, "lengths must name at least one"),
        ({"lengths": [16, 0]}, ValueError, r"lengths\[1\] must be at least 1, got 0"),
        ({"lengths": ["a"]}, TypeError, r"lengths\[0\] must be an integer, got 'a'"),
        ({"lengths": 5}, TypeError, "lengths must be a list of integers, got 5"),
        ({"step": -1}, ValueError, "step must be at least 0, got -1"),
        ({"multiplier": 0}, ValueError, "multiplier must be above 0"),
        ({"reference_rms": 0}, ValueError, "reference_rms must be above 0"),
        ({"reference_rms": "x"}, TypeError, "reference_rms must be a number"),
    ],
)
def test_what_is_refused(change, error, message):
    with pytest.raises(error, match=message):
        inspect_table(**{"table": TABLE, "noise": neftune(5.0), **change})


def test_the_rms_of_a_large_table():
    table = np.full((9000, 16), 0.1, np.float32)
    table[5000:] = 0.2
    assert root_mean_square(table) == pytest.approx(rms(table), rel=1e-6)


def recorded(noise, change=lambda noise: noise, **tokens):
    """64 rows of 60 tokens, of which half of the rows have 20."""
    ids = np.random.default_rng(0).integers(200, size=(64, 60))
    mask = np.arange(60) < np.where(np.arange(64) < 32, 20, 60)[:, None]
    x = TABLE[ids]
    tokens = {"mask": mask, **tokens}
    added = change(add_noise(x, noise, step=0, **tokens) - x)
    return Lookup(ids, x, x + added, TokenArrays(**tokens))


@pytest.mark.parametrize("distribution", ["uniform", "gaussian", "rademacher"])
def test_predicted_and_measured(distribution):
    noise = neftune(5.0, distribution=distribution)
    found = measure(noise, [recorded(noise)])
    assert (found.tokens, found.lengths) == (32 * 80, (20, 60))
    right = np.sqrt((20 * 25 / (20 * 64) + 60 * 25 / (60 * 64)) / 80)
    right *= {"uniform": 3**-0.5}.get(distribution, 1)
    assert found.predicted == pytest.approx(right, rel=1e-4)
    assert abs(found.measured / right - 1) <= 5 * found.chance + 1e-4
    assert found.chance < 0.0025
    assert (found.chance == 0) == (distribution == "rademacher")


def test_noise_that_is_wrong_is_measured():
    noise = neftune(5.0)
    assert measure(noise, [recorded(noise, lambda n: 2 * n)]).measured == pytest.approx(
        2 * measure(noise, [recorded(noise)]).measured, rel=1e-3
    )
    # On padding too: as much on 1,280 more elements of short rows.
    everywhere = measure(noise, [recorded(noise, lambda n: np.where(n == 0, n.max(), n))])
    assert everywhere.measured > 1.2 * everywhere.predicted


def test_lengths_are_of_those_tokens_that_get_noise():
    noise, packed = neftune(5.0), np.repeat([[1] * 40 + [2] * 20], 64, axis=0)
    where = packed == 2
    found = measure(noise, [recorded(noise, mask=None, segment_ids=packed, where=where)])
    assert (found.tokens, found.lengths) == (64 * 20, (20,))
    assert found.predicted == pytest.approx(5 / np.sqrt(20 * 64 * 3), rel=1e-4)
    wide = neftune(5.0, length="padded")
    assert measure(wide, [recorded(wide)]).lengths == (60,)


def test_a_batch_without_tokens():
    noise = neftune(5.0)
    with pytest.raises(ValueError, match="batch must have tokens that get noise, got none"):
        measure(noise, [recorded(noise, where=np.zeros((64, 60), bool))])


def test_multipliers():
    draw = np.random.default_rng(2)
    one, other = draw.normal(size=(2, 3, 4, 8)).astype(np.float32)
    zero = np.zeros_like(one)
    ids = np.array([[0, 1, 250]])  # the last is a placeholder, beyond the table
    clean = np.concatenate([5 * TABLE[ids[:, :2]], np.ones((1, 1, DIM), np.float32)], axis=1)
    assert inner_multiplier(TABLE, [Lookup(ids, clean, clean)]) == pytest.approx(5)
    assert inner_multiplier(TABLE, [Lookup(ids, clean + 1, clean)]) is None
    assert outer_multiplier(one, [one, 12 * one, other, 3 * one]) == pytest.approx(12)
    assert outer_multiplier(one, [zero, 12 * one, zero]) == pytest.approx(12)
    assert outer_multiplier(one, [other]) is None
