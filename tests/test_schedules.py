"""Schedules: end points, shapes, chains, binding, and JSON."""

import json
import math
from dataclasses import dataclass

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

import embnoise
from embnoise import constant, cosine, exponential, linear, neftune, polynomial, sigmoid
from embnoise._schedules import schedule_from_dict
from tests.frameworks import is_tested
from tests.strategies import schedules

if is_tested("jax"):
    import jax.numpy as jnp
if is_tested("torch"):
    import torch

    from embnoise_torch.namespace import Namespace

CURVES = [linear, cosine, exponential, polynomial, sigmoid]
over_curves = pytest.mark.parametrize("curve", CURVES, ids=lambda curve: curve.__name__)


@over_curves
@given(st.floats(0.1, 100), st.floats(0.1, 100), st.integers(1, 10**6), st.integers(0, 10**6))
def test_end_points_are_exact_and_the_way_is_monotone(curve, start, end, steps, beyond):
    schedule = curve(start, end, steps)
    assert schedule(0) == pytest.approx(start, rel=1e-12)
    assert schedule(steps) == schedule(steps + beyond) == end
    values = [schedule(step) for step in range(0, steps + 1, max(1, steps // 20))]
    ordered = sorted(values, reverse=end < start)
    assert values == pytest.approx(ordered, rel=1e-12)


@pytest.mark.parametrize(
    ("schedule", "step", "alpha"),
    [
        (linear(2, 4, 10), 5, 3.0),
        (linear(2, 4, 10), 1, 2.2),
        (cosine(4, 2, 10), 5, 3.0),
        (cosine(4, 0, 4), 1, 2 + math.sqrt(2)),
        (exponential(1, 16, 4), 1, 2.0),
        (exponential(16, 1, 4), 3, 2.0),
        (polynomial(0, 8, 4), 2, 2.0),
        (polynomial(0, 8, 4, power=3), 2, 1.0),
        (sigmoid(0, 6, 10), 5, 3.0),
        (constant(5), 7, 5.0),
    ],
    ids=str,
)
def test_values_in_between(schedule, step, alpha):
    assert schedule(step) == pytest.approx(alpha, rel=1e-12)


def test_sigmoid_is_steepest_half_way():
    curve = sigmoid(0, 1, 10, steepness=8)
    rises = [curve(step + 1) - curve(step) for step in range(10)]
    assert max(rises) == pytest.approx(rises[4]) == pytest.approx(rises[5])
    assert rises[0] < rises[2] < rises[4]


@given(st.floats(0.01, 100), st.integers(1, 10**6), st.sampled_from([np.float32, np.float64]))
def test_sigmoid_keeps_to_its_end_points(steepness, steps, dtype):
    near = np.arange(min(steps, 50) + 1)
    where = np.concatenate([near, steps - near]).astype(dtype)
    for start, end in ((0, 1), (1, 0)):
        alphas = sigmoid(start, end, steps, steepness).value(where, np)
        assert ((alphas >= 0) & (alphas <= 1)).all()
        assert (alphas[where == 0] == start).all()
        assert (alphas[where == steps] == end).all()


def test_a_chain_counts_each_schedule_from_its_own_start():
    chain = linear(0, 5, 10).then(constant(5, 20)).then(linear(5, 1, 10))
    assert [chain(step) for step in (0, 5, 9, 10, 29, 30, 35, 40, 100)] == [
        0, 2.5, 4.5, 5, 5, 5, 3, 1, 1,
    ]  # fmt: skip
    assert chain.length == 40


@given(schedules(), st.integers(0, 2000))
def test_json_round_trip(schedule, step):
    again = schedule_from_dict(json.loads(json.dumps(schedule.to_dict())))
    assert again == schedule
    assert hash(again) == hash(schedule)
    assert again(step) == schedule(step)


@given(schedules(), st.lists(st.integers(0, 2000), min_size=1, max_size=8))
def test_arrays_of_steps_give_the_values_of_the_ints(schedule, steps):
    expected = [schedule(step) for step in steps]
    close = {"rel": 1e-4, "abs": 1e-4 * max(expected)}
    assert schedule(np.array(steps)).tolist() == pytest.approx(expected, rel=1e-12)
    if is_tested("jax"):
        assert schedule(jnp.array(steps), jnp).tolist() == pytest.approx(expected, **close)
    if is_tested("torch"):
        namespace = Namespace(torch.device("cpu"))
        values = schedule(torch.tensor(steps), namespace).tolist()
        assert values == pytest.approx(expected, **close)


def test_bind_fills_in_the_rest_of_the_run():
    assert linear(5, 0).bind(10) == linear(5, 0, 10)
    assert linear(5, 0, 7).bind(10) == linear(5, 0, 7)
    warm = linear(0, 5, 10)
    assert warm.then(cosine(5, 0)).bind(100) == warm.then(cosine(5, 0, 90))
    assert constant(5).then(linear(5, 0, 30)).bind(100)(70) == 5
    assert constant(5).then(linear(5, 0, 30)).bind(100)(85) == 2.5
    assert neftune(alpha=linear(5, 0)).bind(10) == neftune(alpha=linear(5, 0, 10))
    assert neftune(alpha=5.0).bind(10) == neftune(alpha=5.0)


def test_what_does_not_depend_on_its_length_needs_none():
    warm = linear(0, 5, 10).then(constant(5))
    assert constant(5)(10**9) == 5
    assert warm(10**9) == 5
    for total_steps in (3, 10, 100):  # a run may end while it warms up
        assert warm.bind(total_steps) == warm


def test_what_has_no_steps_comes_last_in_a_chain():
    @dataclass(frozen=True)
    class Endless(embnoise.Schedule):
        def value(self, step, xp):
            return 1 + step * 0

    assert linear(0, 5, 10).then(Endless()).bind(3)(20) == 1
    with pytest.raises(ValueError, match=r"only the last schedule .* got .*Endless\(\) before"):
        Endless().then(constant(5, 10))


@pytest.mark.parametrize(
    "unbound", [linear(5, 0), linear(0, 5, 3).then(cosine(5, 0)), constant(5).then(linear(5, 0, 3))]
)
def test_an_unbound_schedule_says_so(unbound):
    with pytest.raises(ValueError, match=r"unbound schedule .* \.bind\(total_steps\)"):
        unbound(0)
    with pytest.raises(ValueError, match="unbound"):
        neftune(alpha=unbound).alpha_at(3)
