"""Distributions and scale rules of users: the kit knows them by their objects alone."""

import contextlib
import functools
import itertools
import math
from unittest import mock

import numpy as np
import pytest

import embnoise
from embnoise import Noise, ScaleRule, register
from embnoise._cli import main
from embnoise._distributions import DISTRIBUTIONS
from embnoise._scales import SCALES
from embnoise.testing import Claims, case, check_layer, iter_checks
from tests.testing.distributions import (
    CLIPPED,
    HALF_DEFINED,
    LAPLACE,
    MOSTLY_ZERO,
    THREE_POINT,
    TRIANGULAR,
)
from tests.testing.zoo import PROFILES, some

# Every second one is always tested: bounded, with few values, and with zeros.
USERS = [TRIANGULAR, LAPLACE, THREE_POINT, CLIPPED, HALF_DEFINED, MOSTLY_ZERO]
NOT_CLAIMED = {
    "kit_triangular": set(),
    "laplace": {"EN30"},
    "three": {"EN28", "EN53"},
    "clipped": set(),
    "mostly_zero": {"EN30"},
    "half_defined": {"EN10", "EN30"},
}
SQUARED = ScaleRule("kit_squared", lambda alpha, length, d: alpha**2 / (length * d) ** 0.5)


@pytest.fixture
def registered():
    """The two rules have names, for one test."""
    registries = [vars(registry)[name] for registry in (DISTRIBUTIONS, SCALES)
                  for name in ("_rules", "_origins")]  # fmt: skip
    with contextlib.ExitStack() as stack:
        for registry in registries:
            stack.enter_context(mock.patch.dict(registry))
        register(TRIANGULAR)
        register(SQUARED)
        yield


def layer_of(factor=1.0, **options):
    """embnoise.add_noise, with a noise of these options and alpha times a factor."""

    def make(*, dim, alpha, seed):
        noise = Noise(factor * alpha, seed=seed, **options)

        def layer(x, *, training, mask, step, segment_ids=None):
            arrays = {"mask": mask, "segment_ids": segment_ids}
            return embnoise.add_noise(x, noise, step=step, training=training, **arrays)

        return layer

    return make


def drawn(distribution):
    """A layer by hand, with continuous draws."""
    quantile = np.vectorize(distribution.quantile, otypes=[float])

    def make(*, dim, alpha, seed):
        def layer(x, *, training, mask, step):
            if not training:
                return x
            draws = np.random.default_rng([seed, step]).uniform(size=x.shape)
            lengths = mask.sum(axis=1, keepdims=True).clip(1)[..., None]
            magnitude = alpha / np.sqrt(lengths * x.shape[2]) * mask[..., None]
            return x + (quantile(draws) * magnitude).astype(x.dtype)

        return layer

    return make


def numpy_case(make, **claims):
    return case("mine", make, driver="numpy", claims=Claims(**claims))


def name(rule):
    return rule.name


def named(rule):
    return getattr(rule, "name", rule)


@pytest.mark.parametrize("distribution", some(USERS, 2), ids=name)
@pytest.mark.parametrize("profile", PROFILES)
def test_a_right_layer_holds(profile, distribution):
    made = numpy_case(layer_of(distribution=distribution), distribution=distribution)
    report = check_layer(made, profile=profile)
    expected = NOT_CLAIMED[distribution.name]
    assert {each.code for each in report.results if each.status == "not_claimed"} == {
        "EN17", "EN18", "EN22", "EN36", "EN37", "EN38", "EN39", "EN13", "EN58", "EN59", "EN60",
        "EN61", "EN62", "EN66", *expected,
    } - {"EN17"}  # fmt: skip


@pytest.mark.parametrize(
    "distribution", some([LAPLACE, TRIANGULAR, THREE_POINT, MOSTLY_ZERO], 4), ids=name
)
def test_a_right_layer_by_hand_holds(distribution):
    made = numpy_case(drawn(distribution), distribution=distribution)
    report = check_layer(made, profile="quick", raises=False)
    assert report.ok, report.table()


@pytest.mark.sweep
@pytest.mark.parametrize("distribution", USERS, ids=name)
def test_no_false_alarm(distribution):
    made = numpy_case(layer_of(distribution=distribution), distribution=distribution)
    for seed in range(1, 41):
        for check in iter_checks(made, profile="quick", seed=seed):
            # What depends on chance only through zeros is declared exact, so it runs too.
            if check.spec.random or check.spec.code in ("EN24", "EN25", "EN26", "EN27", "EN40"):
                result = check.run()
                assert not result.wrong, (seed, result.message)


def failures(made):
    report = check_layer(made, profile="quick", raises=False)
    return {each.code: each.message for each in report.results if each.wrong}


@pytest.mark.parametrize("distribution", some(USERS, 4), ids=name)
def test_a_wrong_scale_is_caught(distribution):
    for factor, codes, said in (
        (0.5, {"EN08"}, "half the amplitude"),
        (2.0, {"EN10", "EN31"}, "twice the amplitude"),  # an unbounded one reaches far anyway
    ):
        made = layer_of(factor, distribution=distribution)
        ((code, message),) = failures(numpy_case(made, distribution=distribution)).items()
        assert code in codes
        assert said in message


OTHERS = ["uniform", "gaussian", "rademacher", TRIANGULAR, LAPLACE]
CONFUSED = [
    pair
    for pair in itertools.product(OTHERS, USERS)
    if pair[0] is not pair[1] and pair != (LAPLACE, HALF_DEFINED)
]


@pytest.mark.parametrize("pair", some(CONFUSED, 5), ids=lambda pair: "-".join(map(named, pair)))
def test_another_distribution_is_caught(pair):
    other, distribution = pair
    found = failures(numpy_case(layer_of(distribution=other), distribution=distribution))
    assert found
    assert set(found) <= {"EN08", "EN10", "EN28", "EN30", "EN31"}
    if isinstance(other, str):
        said = f"the noise is {other} rather than {distribution.name}"
        assert any(said in message for message in found.values())


@pytest.mark.usefixtures("registered")
def test_the_distribution_is_named():
    found = failures(numpy_case(layer_of(distribution=TRIANGULAR), distribution="gaussian"))
    assert "the noise is kit_triangular rather than gaussian" in found["EN08"]
    found = failures(numpy_case(layer_of(distribution="uniform"), distribution=THREE_POINT))
    assert "the noise is uniform rather than three" in found["EN08"]


@pytest.mark.usefixtures("registered")
def test_forms_of_the_same_claim():
    assert Claims(distribution="kit_triangular").distribution_rule is TRIANGULAR
    assert Claims(distribution=TRIANGULAR).distribution_rule is TRIANGULAR
    assert Claims(distribution=TRIANGULAR.quantile).distribution_rule.bound == math.inf
    assert Claims(distribution=None).distribution_rule is None
    assert str(Claims(distribution=TRIANGULAR, scale=SQUARED)) == (
        "Claims(distribution=kit_triangular, scale=kit_squared)"
    )
    assert Claims(scale="kit_squared").magnitude(2.0, 4, 16) == 0.5
    assert Claims(scale=lambda alpha, length, d, *, rms: alpha * rms, length=None).magnitude(
        2.0, 4, 16, rms=3.0
    ) == 6  # fmt: skip
    assert Claims(scale=SQUARED).formula == "kit_squared(alpha, L, d)"
    assert Claims(scale=lambda alpha, length, d: alpha).formula == "the claimed magnitude"


@pytest.mark.usefixtures("registered")
def test_a_scale_that_is_not_proportional_to_alpha():
    right = numpy_case(layer_of(scale=SQUARED), scale="kit_squared")
    assert check_layer(right, profile="quick").ok
    found = failures(numpy_case(layer_of(), scale="kit_squared"))
    assert "gives 2 times the noise, expected 4 times" in found["EN11"]
    found = failures(numpy_case(layer_of(scale=SQUARED)))
    assert "gives 4 times the noise, expected 2 times" in found["EN11"]
    assert "alpha enters twice" in found["EN11"]


def test_a_schedule_of_a_scale_that_is_not_proportional_to_alpha():
    def make(*, dim, alpha, seed):
        noise = Noise(embnoise.linear(alpha, 0, 8), scale=SQUARED, seed=seed)

        def layer(x, *, training, mask, step):
            return embnoise.add_noise(x, noise, step=step, training=training, mask=mask)

        return layer

    schedule = embnoise.linear(1, 0, 8)
    assert check_layer(numpy_case(make, scale=SQUARED, schedule=schedule), profile="quick").ok
    found = failures(numpy_case(make, schedule=schedule))
    assert "EN21" in found


def test_a_scale_of_the_users_with_the_rms():
    rule = ScaleRule("half_rms", lambda alpha, length, d, *, rms: alpha * rms / 2)
    made = functools.partial(numpy_case, layer_of(scale=rule))
    assert check_layer(made(scale=rule), profile="quick").ok
    assert "half the amplitude" in failures(made(scale="relative"))["EN08"]


@pytest.mark.parametrize(
    ("claims", "says"),
    [
        ({"distribution": "gausian"}, r"got 'gausian' \(did you mean 'gaussian'\?\)"),
        ({"scale": "neftun"}, r"got 'neftun' \(did you mean 'neftune'\?\)"),
        ({"scale": "kit_squard"}, r"did you mean 'kit_squared'"),
        ({"distribution": lambda p: float(p > 0.95)}, "equal with probability 0.81, above 0.6"),
        ({"scale": SQUARED, "length": None}, "with the scale 'kit_squared', which depends on L"),
    ],
)
@pytest.mark.usefixtures("registered")
def test_wrong_rules_are_refused(claims, says):
    with pytest.raises(ValueError, match=says):
        Claims(**claims)


@pytest.mark.usefixtures("registered")
def test_the_command_line_knows_them_too(tmp_path, monkeypatch, capsys):
    (tmp_path / "rules_for_cli.py").write_text(
        "import embnoise\n"
        "embnoise.register(embnoise.Distribution('cli_two', lambda p: 1.0 if p > 0.5 else -1.0))\n"
        "def make_layer(*, dim, alpha, seed):\n"
        "    noise = embnoise.Noise(alpha, 'cli_two', seed=seed)\n"
        "    def layer(x, *, training, mask, step):\n"
        "        return embnoise.add_noise(x, noise, step=step, training=training, mask=mask)\n"
        "    return layer\n"
    )
    monkeypatch.chdir(tmp_path)
    monkeypatch.syspath_prepend(tmp_path)
    command = ["check", "rules_for_cli:make_layer", "--driver", "numpy", "--profile", "quick"]
    assert main([*command, "--distribution", "cli_two"]) == 0
    assert main([*command, "--distribution", "cli_too"]) == 2
    assert "did you mean 'cli_two'" in capsys.readouterr().err
