"""One noise everywhere: hundreds of cases, each on NumPy, PyTorch, JAX and TensorFlow."""

import itertools
import random

import numpy as np
import pytest

import embnoise
from embnoise import Noise
from tests.backends import BACKENDS, DTYPES
from tests.strategies import embeddings

FRAMEWORKS = ["torch-numba", "jax", "keras-tensorflow"]
COMPARED = [each for each in BACKENDS if each.name in FRAMEWORKS]
# What a compiler has to know comes in few forms, and what it need not in many.
FORMS, CASES_PER_FORM = 13, 40
SCHEDULES = ["linear", "cosine", "exponential", "polynomial", "sigmoid"]
SHAPES = [(2, 5, 19), (1, 9, 8), (3, 4, 1), (2, 6, 33), (4, 3, 64)]


def forms():
    draw = random.Random(0)  # noqa: S311
    for number in range(FORMS):
        yield {
            "seed": number,
            "shape": SHAPES[number % len(SHAPES)],
            "dtype": draw.choice(sorted(DTYPES)),
            "distribution": ["uniform", "rademacher", "gaussian"][number % 3],
            "scale": draw.choice(["neftune", "neftune", "per_token", "absolute", "relative"]),
            "length": draw.choice(["tokens", "padded", 7]),
            "match": draw.choice(["support", "rms"]),
            "antithetic": draw.random() < 0.3,
            "given": [
                name
                for name in ("mask", "segment_ids", "positions", "sample_ids", "where")
                if draw.random() < 0.5
            ],
        }


def cases(form):
    draw = np.random.default_rng(form["seed"])
    batch, length, _ = form["shape"]
    for number in range(CASES_PER_FORM):
        schedule = getattr(embnoise, SCHEDULES[number % len(SCHEDULES)])
        alpha = schedule(*draw.uniform(0.5, 9.0, 2), int(draw.integers(1, 50)))
        rows = draw.integers(0, 2**31, batch)
        about = {
            "mask": draw.random((batch, length)) < 0.7,
            "segment_ids": np.sort(draw.integers(0, 4, (batch, length)), axis=1),
            "positions": draw.integers(0, 2**31, (batch, length)),
            "sample_ids": rows if form["seed"] % 2 else np.repeat(rows[:, None], length, axis=1),
            "where": draw.integers(0, 2, (batch, length)),
        }
        options = {
            name: form[name] for name in ("distribution", "scale", "length", "match", "antithetic")
        }
        noise = Noise(alpha, seed=int(draw.integers(2**62)), stream=str(number % 3), **options)
        arguments = {name: about[name] for name in form["given"]}
        yield noise, {"step": int(draw.integers(0, 60)), **arguments}


def within_tolerance(seen, expected, x, units):
    """An ulp of the largest of x, noise and sum; four of the noise where it has more bits to round.

    The relative scale takes its mean square in float32 in JAX: a few more of the noise.
    """
    wide, exact = np.asarray(x, np.float64), np.asarray(expected, np.float64)
    noise = abs(exact - wide)
    largest = np.max([abs(wide), abs(exact), noise], axis=0)
    allowed = np.spacing(largest.astype(x.dtype)).astype(np.float64)
    allowed = allowed + units * np.spacing(noise.astype(np.float32)).astype(np.float64)
    return (abs(np.asarray(seen, np.float64) - exact) <= allowed).all()


@pytest.mark.skipif(not COMPARED, reason=f"none of {FRAMEWORKS} is tested")
@pytest.mark.filterwarnings("ignore:embnoise. segment_ids and positions")  # which differ here
def test_the_same_noise_on_every_framework():
    compared = 0
    for form in forms():
        x = embeddings(form["shape"], form["dtype"], seed=compared)
        units = {"uniform": 0, "rademacher": 0, "gaussian": 4}[form["distribution"]]
        units += 16 if form["scale"] == "relative" else 0
        for noise, arguments in cases(form):
            expected = embnoise.add_noise(x, noise, **arguments)
            for backend in COMPARED:
                seen = backend.add_noise(x, noise, **arguments)
                assert seen.dtype == expected.dtype, backend.name
                assert within_tolerance(seen, expected, x, units), (backend.name, form, arguments)
            compared += 1
    assert compared >= 500


@pytest.mark.skipif(not COMPARED, reason=f"none of {FRAMEWORKS} is tested")
def test_the_same_lattice_integers_on_every_framework():
    """A uniform noise of magnitude 1 on zeros shows them, and every bit of its sum is exact."""
    compared = 0
    draw = np.random.default_rng(0)
    for shape, number in itertools.product(SHAPES, range(100)):
        batch, length, _ = shape
        noise = Noise(1.0, scale="absolute", seed=int(draw.integers(2**62)), stream=str(number))
        arguments = {
            "step": int(draw.integers(2**32)),
            "sample_ids": draw.integers(0, 2**32, batch),
            "positions": draw.integers(0, 2**32, (batch, length)),
        }
        zeros = np.zeros(shape, np.float32)
        expected = embnoise.add_noise(zeros, noise, **arguments)
        for backend in COMPARED:
            seen = backend.add_noise(zeros, noise, **arguments)
            assert (seen == expected).all(), (backend.name, shape, arguments)
        compared += 1
    assert compared >= 500
