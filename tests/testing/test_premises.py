"""One fault gives one message: checks that build on one that failed are not tested."""

import itertools
import re

import numpy as np
import pytest

import embnoise
from embnoise import Noise, linear, neftune
from embnoise.testing import Claims, case, check_layer, iter_checks
from embnoise.testing.checks import ALL, CHECKS
from embnoise.testing.premises import premises_of
from tests.testing.zoo import some

LENGTH, DIM = 29, 95  # of the quick profile


def report_of(make, *, inputs="embeddings", **claims):
    made = case("mine", make, driver="numpy", inputs=inputs, claims=Claims(**claims))
    return check_layer(made, profile="quick", raises=False)


def failures(make, **options):
    return {each.code: each.message for each in report_of(make, **options).results if each.wrong}


def drawing(change=lambda noise, alpha, seed: noise, *, table=False, always=False, **options):
    """A layer whose noise is changed by a function; it looks ids up in a table if asked."""

    def make(*, dim, alpha, seed):
        weights = np.random.standard_normal((8, dim)).astype(np.float32)  # noqa: NPY002
        settings = Noise(alpha, seed=seed, **options)

        def layer(x, *, training, mask, step):
            x = weights[x] if table else x
            if not (training or always):
                return x
            zeros = np.zeros(x.shape, np.float32)
            noise = embnoise.add_noise(zeros, settings, mask=mask, step=step)
            return x + change(noise, alpha, seed).astype(x.dtype)

        return layer

    return make


def scaled(factor):
    return lambda noise, alpha, seed: factor * noise


def one_sided(noise, alpha, seed):
    return abs(noise)


# Layers that embed ids.


def test_noise_in_evaluation_of_a_layer_with_ids_is_one_failure():
    assert set(failures(drawing(table=True, always=True), inputs="ids")) == {"EN02"}


def test_a_layer_for_embeddings_is_told_from_one_for_ids():
    def make(*, dim, alpha, seed):
        return lambda x, *, training: x

    report = check_layer(case("mine", make, driver="numpy", inputs="ids"), raises=False)
    assert [result.code for result in report.results if result.wrong] == ["EN01"]
    assert "use inputs='embeddings'" in report.results[0].message


def test_a_one_sided_draw_is_seen_although_the_layer_is_noisy_in_evaluation():
    make = drawing(one_sided, table=True, always=True)
    found = failures(make, inputs="ids")
    assert set(found) == {"EN02", "EN08"}
    assert "one-sided" in found["EN08"]


def test_without_a_reference_the_failure_in_evaluation_is_the_only_one():
    """The layer refuses alpha = 0, so its own evaluation is what the noise is measured from."""
    inner = drawing(one_sided, table=True, always=True)

    def make(*, dim, alpha, seed):
        if alpha == 0:
            raise ValueError("alpha must be positive, got 0")
        return inner(dim=dim, alpha=alpha, seed=seed)

    results = {each.code: each for each in report_of(make, inputs="ids").results}
    assert {code for code, each in results.items() if each.wrong} == {"EN02"}
    assert results["EN08"].status == "not_tested"
    assert results["EN08"].message == "EN02 eval_is_identity failed"


def test_without_a_reference_a_right_layer_holds():
    """The tables differ, since none is seeded."""

    def make(*, dim, alpha, seed):
        generator = np.random.default_rng()
        weights = generator.standard_normal((8, dim)).astype(np.float32)
        settings = neftune(alpha, seed=seed)

        def layer(ids, *, training, mask, step):
            x = weights[ids]
            return embnoise.add_noise(x, settings, training=training, mask=mask, step=step)

        return layer

    assert not failures(make, inputs="ids")


def test_the_size_of_the_table_is_not_read_as_a_standard_deviation():
    """sqrt(V * d) for sqrt(L * d)."""

    def change(noise, alpha, seed):
        length = np.maximum((noise != 0).any(axis=-1).sum(axis=1), 1)[:, None, None]
        return noise * np.sqrt(length / 8)

    found = failures(drawing(change, table=True), inputs="ids")
    assert set(found) <= {"EN10", "EN19", "EN47"}
    assert "sqrt(V*d) instead of sqrt(L*d)" in found["EN10"]
    assert "standard deviation" not in found["EN10"]


# Names.


def test_a_scale_fault_is_not_blamed_on_a_size_of_1():
    for factor in (0.5, 1.7):
        results = report_of(drawing(scaled(factor))).results
        found = {each.code for each in results if each.wrong}
        assert {"EN08" if factor < 1 else "EN10"} <= found <= {"EN08", "EN10", "EN47"}
        assert "EN23" in {each.code for each in results if each.status == "not_tested"}


def test_another_distribution_is_not_blamed_on_the_schedule():
    assert "EN21" not in failures(drawing(distribution="gaussian"))
    assert "EN21" not in failures(drawing(distribution="gaussian"), schedule=lambda step: 1.0)


def test_a_wrong_scale_is_not_blamed_on_the_schedule():
    def make(*, dim, alpha, seed):
        settings = neftune(linear(alpha / 2, 0, 8), seed=seed)

        def layer(x, *, training, mask, step):
            return embnoise.add_noise(x, settings, training=training, mask=mask, step=step)

        return layer

    found = failures(make, schedule=linear(1, 0, 8))
    assert "EN08" in found
    assert "EN21" not in found


def test_a_reversed_schedule_is_not_blamed_on_missing_noise():
    def make(*, dim, alpha, seed):
        settings = neftune(linear(0, alpha, 8), seed=seed)

        def layer(x, *, training, mask, step):
            return embnoise.add_noise(x, settings, training=training, mask=mask, step=step)

        return layer

    found = failures(make, schedule=linear(1, 0, 8))
    assert set(found) == {"EN21"}
    assert "the schedule runs backwards" in found["EN21"]


def test_sign_noise_is_not_called_reused():
    found = failures(drawing(distribution="rademacher"))
    assert "EN40" not in found
    assert "rademacher rather than uniform" in " ".join(found.values())
    assert not failures(drawing(distribution="rademacher"), distribution=None)


def test_no_noise_is_one_failure():
    assert set(failures(drawing(scaled(0.0)))) == {"EN24"}


def test_noise_that_is_multiplied_is_one_failure():
    def make(*, dim, alpha, seed):
        inner = drawing()(dim=dim, alpha=alpha, seed=seed)

        def layer(x, *, training, mask, step):
            noise = inner(np.zeros_like(x), training=training, mask=mask, step=step)
            return x + x * noise

        return layer

    assert set(failures(make)) == {"EN12"}


# Scales that are functions.


OF_ALPHA = [
    lambda alpha, length, d: 0.1 / (length * d) ** 0.5,  # a constant
    lambda alpha, length, d: alpha**2 / d,
    lambda alpha, length, d: (alpha + 1) / (length * d) ** 0.5,  # above 0 at alpha = 0
    lambda alpha, length, d: np.tanh(alpha) / (length * d) ** 0.5,
    lambda alpha, length, d: min(alpha, 7.0) / (length * d) ** 0.5,  # flat
]


@pytest.mark.parametrize(
    "claimed", some(list(itertools.product(OF_ALPHA, ["embeddings", "ids"])), 3)
)
def test_a_claimed_function_need_not_be_proportional_to_alpha(claimed):
    function, inputs = claimed

    def change(noise, alpha, seed):
        lengths = (noise != 0).any(axis=-1).sum(axis=1)
        sizes = [function(alpha, int(n), noise.shape[2]) if n else 0.0 for n in lengths]
        return noise * np.array(sizes)[:, None, None]

    def make(*, dim, alpha, seed):
        unit = drawing(scale="absolute")(dim=dim, alpha=1.0, seed=seed)
        weights = np.random.standard_normal((8, dim)).astype(np.float32)  # noqa: NPY002

        def layer(x, *, training, mask, step):
            x = weights[x] if inputs == "ids" else x
            zeros = np.zeros(x.shape, np.float32)
            noise = change(unit(zeros, training=training, mask=mask, step=step), alpha, seed)
            return x + noise.astype(x.dtype)

        return layer

    assert not failures(make, scale=function, inputs=inputs)


def test_another_use_of_alpha_than_claimed_is_named_as_such():
    squared = failures(drawing(), scale=lambda alpha, length, d: alpha**2 / (length * d) ** 0.5)
    assert "EN11" in squared
    assert "gives 2 times the noise, expected 4 times" in squared["EN11"]
    assert "a factor of the noise, but not of the claimed scale" in squared["EN11"]


# Statuses.


def test_not_tested_is_shown_and_counted():
    report = report_of(drawing(scaled(0.5)))
    assert re.search(r"EN23 edge_shapes +not tested +EN08 support_filled failed", report.table())
    assert re.search(r"\d+ passed, \d+ failed, \d+ not claimed, \d+ not tested", report.summary())
    assert not report.ok


def test_a_check_that_is_run_alone_looks_at_what_it_builds_on():
    made = case("mine", drawing(scaled(0.5)), driver="numpy")
    (alone,) = (each for each in iter_checks(made, profile="quick") if each.spec.code == "EN23")
    assert alone.run().message == "EN08 support_filled failed"


def test_an_expected_failure_is_no_reason_to_fail_elsewhere():
    made = case(
        "mine",
        drawing(scaled(0.5)),
        driver="numpy",
        expected_failures={"EN08": "half on purpose", "EN47": "half"},
    )
    assert check_layer(made, profile="quick").ok


def test_premises_are_checks_of_the_same_inputs():
    for spec, antithetic in itertools.product(ALL, (False, True)):
        for inputs in spec.inputs:
            claims = Claims(antithetic=antithetic)
            made = case("mine", drawing(scaled(1.0)), driver="numpy", inputs=inputs, claims=claims)
            premises = premises_of(spec, made)
            assert spec.code not in premises
            assert set(premises) <= set(CHECKS)
