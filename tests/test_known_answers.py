"""The known answers of the noise specification, on every backend, through the public verb."""

import json
from importlib.resources import files

import numpy as np
import pytest

from embnoise import Noise
from embnoise._distributions import resolve_distribution
from embnoise._perturb import _fused_in_float32, _lost, _to_odd
from embnoise._philox import philox4x32
from tests.backends import DTYPES, over_backends

SPEC = json.loads((files("embnoise.testing") / "noise_v1.json").read_text(encoding="utf-8"))


def test_the_copy_is_version_1():
    assert SPEC["spec"] == 1
    assert len(SPEC["philox4x32_10"]) == 3
    assert len(SPEC["lattice"]) == 11


@pytest.mark.parametrize("word", [np.uint32, np.uint64, np.int64])
@pytest.mark.parametrize("answer", SPEC["philox4x32_10"], ids=lambda answer: answer["out"][0])
def test_philox(answer, word):
    counter = tuple(np.array([int(text, 16)], word) for text in answer["counter"])
    key = tuple(int(text, 16) for text in answer["key"])
    words = philox4x32(counter, key, xp=np)
    assert [f"{int(out[0]):08x}" for out in words] == answer["out"]
    assert all(out.dtype == word for out in words)


def lattice(backend, answer):
    """The lattice integers that a uniform noise of magnitude 1 shows."""
    noise = Noise(1.0, scale="absolute", seed=answer["seed"], stream=answer["stream"])
    units = backend.add_noise(
        np.zeros((1, 1, answer["d"]), np.float32),
        noise,
        step=answer["step"],
        sample_ids=np.array([answer["sample"]]),
        positions=np.array([[answer["position"]]]),
    )
    return ((units[0, 0].astype(np.float64) * 65536 + 65535) / 2).tolist()


@over_backends
@pytest.mark.parametrize("case", range(11))
def test_lattice(backend, case):
    answer = SPEC["lattice"][case]
    assert lattice(backend, answer) == answer["lattice"]


@pytest.mark.parametrize("name", SPEC["unit"])
def test_unit_values(name):
    distribution = resolve_distribution(name)
    for k, value in SPEC["unit"][name].items():
        assert distribution.unit(np.array([int(k)]), np).tolist() == [value]
        assert distribution.table[int(k)] == value


@over_backends
@pytest.mark.parametrize("name", SPEC["unit"])
def test_unit_values_in_every_backend(backend, name):
    """The unit values of a backend are the table's at the backend's own lattice integers."""
    x = np.zeros((1, 4, 640), np.float32)  # long rows: a GPU's kernel is interpreted by rows
    uniform = backend.add_noise(x, Noise(1.0, scale="absolute", seed=3), step=0)
    integers = ((uniform.astype(np.float64) * 65536 + 65535) / 2).astype(np.int64)
    drawn = backend.add_noise(x, Noise(1.0, scale="absolute", seed=3, distribution=name), step=0)
    assert (drawn == resolve_distribution(name).table[integers]).all()


@over_backends
@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("name", SPEC["unit"])
def test_outputs_are_within_one_ulp_of_exact(backend, dtype, name):
    """Against a float64 evaluation from the same float32 magnitude.

    One ulp of the result where product and sum are rounded once; otherwise the product has an
    error of its own, so one ulp of the largest of |x|, |noise| and |sum|.
    """
    if dtype not in backend.dtypes:
        pytest.skip(f"{backend.name} does not declare {dtype}")
    rng = np.random.default_rng(0)
    x = rng.standard_normal((2, 3, 203)).astype(DTYPES[dtype])
    noise = Noise(20.0, distribution=name, seed=5)
    units = backend.add_noise(
        np.zeros(x.shape, np.float32),
        Noise(1.0, distribution=name, scale="absolute", seed=5),
        step=0,
    )
    magnitude = np.float32(20) / np.sqrt(np.float32(3 * 203))
    added = np.float64(magnitude) * units.astype(np.float64)
    exact = x.astype(np.float64) + added
    noisy = backend.add_noise(x, noise, step=0)
    assert noisy.dtype == x.dtype
    largest = abs(noisy)
    if not backend.fused:
        largest = np.maximum.reduce([largest, abs(x), abs(added).astype(x.dtype)])
    ulp = np.spacing(largest).astype(np.float64)
    assert (abs(noisy.astype(np.float64) - exact) <= ulp).all()
    # Most sums of this size round to half an ulp, whatever cancels in them.
    assert (abs(noisy.astype(np.float64) - exact) <= 0.501 * ulp).mean() > 0.99


@pytest.mark.parametrize(
    ("x", "noise", "rounded"),
    [
        # A little above or below half-way: rounded to float64 first, it would seem to be half-way.
        (1.0, 2**-24 * (1 + 2**-40), 1 + 2**-23),
        (1 + 2**-23, 2**-24 * (1 - 2**-40), 1 + 2**-23),
        (-1.0, -(2**-24) * (1 + 2**-40), -1 - 2**-23),
        (1.0, 2**-24, 1.0),
    ],
)
def test_the_sum_is_rounded_once(x, noise, rounded):
    x, noise = np.array([x]), np.array([noise])
    total = x + noise
    assert _to_odd(total, _lost(total, x, noise), np).astype(np.float32).tolist() == [rounded]


def test_a_device_without_float64_rounds_once_too():
    random = np.random.default_rng(0)
    count = 200_000
    unit = ((random.integers(0, 65536, count) - 32767.5) / 32768).astype(np.float32)
    scale, x = np.ldexp(
        random.uniform([[1], [-2]], 2, (2, count)), random.integers(-60, 30, (2, count))
    ).astype(np.float32)
    cancels = random.random(count) < 0.3
    x = np.where(cancels, -(scale * unit), x)
    near = random.random(count) < 0.3
    x = np.where(near, x * (1 + random.integers(-4, 5, count) * np.float32(2**-23)), x)
    x = x.astype(np.float32)
    x[:4] = np.inf, -np.inf, np.nan, 0
    noise = scale.astype(np.float64) * unit
    wide = x + noise
    with np.errstate(all="ignore"):
        expected = _to_odd(wide, _lost(wide, x, noise), np).astype(np.float32)
        seen = _fused_in_float32(x, scale, unit, np)
    assert seen.dtype == np.float32
    np.testing.assert_array_equal(seen, expected)
