"""``Noise``: the configuration object, its recipes and its JSON form."""

import json

import numpy as np
import pytest
from hypothesis import given

import embnoise
from embnoise import Distribution, Noise, add_noise, exponential, linear, neftune, symnoise
from embnoise.backend import philox_key
from tests.frameworks import needs
from tests.strategies import noises, schedules


def test_recipes():
    assert neftune() == Noise(5.0)
    assert neftune(10, seed=3) == Noise(10.0, seed=3)
    assert symnoise(2) == Noise(2.0, distribution="rademacher", antithetic=True)


@given(noises() | schedules().map(lambda schedule: neftune(alpha=schedule, seed=9)))
def test_json_round_trip(noise):
    again = Noise.from_dict(json.loads(json.dumps(noise.to_dict())))
    assert again == noise
    assert hash(again) == hash(noise)
    assert philox_key(again) == philox_key(noise)


def test_it_is_frozen():
    with pytest.raises(AttributeError):
        neftune().alpha = 3  # type: ignore[misc]


def test_numpy_numbers_become_python_ones():
    noise = Noise(np.float32(0.5), seed=np.int64(3), length=np.uint8(4))
    assert (type(noise.alpha), type(noise.seed), type(noise.length)) == (float, int, int)
    assert json.dumps(noise.to_dict())


def test_the_seed_counts_modulo_64_bits():
    largest = philox_key(neftune(seed=2**64 - 1))
    assert philox_key(neftune(seed=-1)) == largest == (2**32 - 1, 2**32 - 1)
    assert philox_key(neftune(seed=2**64)) == (0, 0)


@needs("jax")
def test_any_callable_is_a_schedule():
    import optax  # noqa: PLC0415

    schedule = optax.linear_schedule(4.0, 2.0, 10)
    assert neftune(alpha=schedule).alpha_at(5) == 3.0
    assert neftune(alpha=lambda step: step).alpha_at(5) == 5.0
    x = np.zeros((1, 2, 8), np.float32)
    here, constant = neftune(alpha=schedule), neftune(alpha=3.0)
    assert (add_noise(x, here, step=5) == add_noise(x, constant, step=5)).all()


@pytest.mark.parametrize("alpha", [-1.0, float("nan"), float("inf")])
def test_a_callable_that_returns_no_amplitude_is_refused_where_it_does(alpha):
    noise = neftune(alpha=lambda step: alpha)
    with pytest.raises(ValueError, match=r"alpha at step 4 must be finite .* got"):
        add_noise(np.zeros((1, 2, 8), np.float32), noise, step=4)


def test_a_distribution_of_your_own():
    laplace = Distribution("laplace", lambda p: -np.log(2 * (1 - p)))
    x = np.zeros((4, 64, 64), np.float32)
    drawn = add_noise(x, Noise(1.0, scale="absolute", distribution=laplace), step=0)
    assert set(np.unique(drawn)) <= set(laplace.table)
    assert abs(drawn).mean() == pytest.approx(1, abs=0.05)
    matched = add_noise(x, Noise(1.0, scale="absolute", distribution=laplace, match="rms"), step=0)
    assert matched == pytest.approx(drawn * np.float32(3**-0.5 / laplace.rms), rel=1e-6)


def test_what_json_cannot_hold_is_not_saved():
    with pytest.raises(TypeError, match="alpha must be a number or a registered schedule"):
        neftune(alpha=lambda step: 1.0).to_dict()
    with pytest.raises(TypeError, match="distribution must be registered to be saved"):
        neftune(distribution=Distribution("odd", lambda p: p)).to_dict()


@pytest.mark.parametrize(
    ("data", "message"),
    [
        ({"alpha": 5.0}, "must be 1, got None"),
        ({"embnoise": 2, "alpha": 5.0}, "must be 1, got 2"),
        ({"embnoise": 1}, "is missing the key 'alpha'"),
        ({"embnoise": 1, "alpha": 5.0, "sede": 1}, r"unknown key 'sede' \(did you mean 'seed'\?\)"),
        (
            {"embnoise": 1, "alpha": {"schedule": "linaer"}},
            r"schedule must be one of .* got 'linaer'",
        ),
        (
            {"embnoise": 1, "alpha": {"schedule": "linear", "start": 1}},
            "linear is missing the key 'end'",
        ),
        (
            {"embnoise": 1, "alpha": {"schedule": "linear", "start": 1, "end": 0, "step": 3}},
            "linear has an unknown key 'step'",
        ),
        ({"embnoise": 1, "alpha": {"schedule": "chain"}}, "chain is missing the key 'parts'"),
    ],
)
def test_json_that_is_not_ours_is_refused(data, message):
    with pytest.raises(ValueError, match=message):
        Noise.from_dict(data)


def test_a_stream_is_text():
    with pytest.raises(ValueError, match=r"stream must be text in Unicode, got '\\ud800'"):
        neftune(stream="\ud800")


def test_what_is_0_in_float32_is_not_above_0():
    with pytest.raises(ValueError, match="start must be finite in float32 and above 0, got 1e-300"):
        exponential(1e-300, 1.0, 10)
    assert exponential(1e-44, 1.0, 10)(0) > 0


def test_a_schedule_and_its_noise_are_hashable():
    assert len({neftune(alpha=linear(5, 0, 10)), neftune(alpha=linear(5, 0, 10)), neftune()}) == 2


def test_tab_completion_shows_what_users_need():
    assert [name for name in dir(Noise(1.0)) if not name.startswith("_")] == [
        "alpha", "alpha_at", "antithetic", "bind", "distribution", "from_dict", "length", "match",
        "scale", "seed", "stream", "to_dict",
    ]  # fmt: skip
    modules = {"backend", "testing"}  # where they have been imported
    public = {name for name in dir(embnoise) if not name.startswith("_")}
    assert public - modules == set(embnoise.__all__)


def test_the_run_fills_in_its_seed():
    assert neftune().seed is None
    assert neftune().bind(seed=7).seed == 7
    assert neftune(seed=3).bind(100, seed=7).seed == 3
    assert neftune().bind(100) == neftune()
    x = np.zeros((1, 2, 8), np.float32)
    unseeded = embnoise.add_noise(x, neftune(), step=0)
    assert (unseeded == embnoise.add_noise(x, neftune(seed=0), step=0)).all()
    assert Noise.from_dict(neftune().to_dict()).seed is None
