"""The kit itself: cases, checks, statuses, reports, misuse. Its layers are NumPy functions."""

import json
import math
import random
import re
import subprocess
import sys
import traceback
from importlib.util import find_spec
from unittest import mock

import numpy as np
import pytest

import embnoise
from embnoise import linear, neftune
from embnoise.testing import (
    CheckFailedError,
    Claims,
    Report,
    case,
    check_layer,
    check_model,
    driver_of,
    iter_checks,
    parametrize_with_checks,
)
from embnoise.testing import examples as kit_examples
from embnoise.testing.checks import ALL
from embnoise.testing.numpy_driver import NumpyDriver
from embnoise.testing.registry import Spec
from tests.frameworks import needs


def right(*, dim, alpha, seed):
    noise = neftune(alpha, seed=seed)

    def layer(x, *, training, mask, step, segment_ids):
        return embnoise.add_noise(
            x, noise, training=training, mask=mask, step=step, segment_ids=segment_ids
        )

    return layer


def wrong(*, dim, alpha, seed):
    """Half of the noise, on padding too."""
    layer = right(dim=dim, alpha=alpha / 2, seed=seed)

    def unmasked(x, *, training, step):
        ones = np.ones(x.shape[:2], bool)
        return layer(x, training=training, mask=ones, step=step, segment_ids=None)

    return unmasked


def numpy_case(make=right, name="mine", **options):
    return case(name, make, driver="numpy", **options)


def results(made, code, **options):
    return [check.run() for check in iter_checks(made, **options) if check.spec.code == code]


# Running a case.


@pytest.mark.parametrize(
    "profile", ["quick", "default", pytest.param("nightly", marks=pytest.mark.sweep)]
)
def test_a_right_layer_holds_in_every_profile(profile):
    report = check_layer(numpy_case(), profile=profile)
    assert report.ok
    assert {result.status for result in report.results} == {"passed", "not_claimed"}
    assert all(result.assertions for result in report.results if result.status == "passed")


def test_one_group_of_all_that_failed():
    with pytest.raises(
        ExceptionGroup, match=r"mine: \d+ passed, 3 failed, 25 not claimed, \d+ not tested"
    ) as caught:
        check_layer(numpy_case(wrong, claims=Claims(length="padded")), profile="quick")
    assert all(isinstance(error, CheckFailedError) for error in caught.value.exceptions)
    assert "half the amplitude" in str(caught.value.exceptions[0])


def test_nothing_of_the_kit_is_in_the_traceback():
    check, *_ = [
        check for check in iter_checks(numpy_case(wrong), profile="quick")
        if check.spec.code == "EN09"
    ]  # fmt: skip
    with pytest.raises(CheckFailedError) as caught:
        check()
    assert caught.value.__cause__ is None
    assert caught.value.__suppress_context__
    frames = traceback.extract_tb(caught.value.__traceback__)
    assert [frame.name for frame in frames[1:]] == ["__call__"]


def test_ids_codes_and_order():
    ids = [check.id for check in iter_checks(numpy_case())]
    assert "mine-EN05_same_seed_same_noise[float32]" in ids
    assert "mine-EN08_support_filled[float16]" in ids
    assert ids == sorted(ids, key=lambda each: each[5:9])
    assert len(set(ids)) == len(ids)
    codes = [check.code for check in ALL]
    assert codes == sorted(set(codes))
    assert set(codes) >= {f"EN{k:02}" for k in range(1, 41)}


def test_a_run_can_be_repeated_and_another_seed_is_another_run():
    def messages(seed):
        found = check_layer(numpy_case(wrong), profile="quick", seed=seed, raises=False)
        return [result.message for result in found.results]

    assert messages(0) == messages(0)
    assert messages(0) != messages(1)


def test_random_state_does_not_matter():
    np.random.seed(1)  # noqa: NPY002
    first = check_layer(numpy_case(wrong), profile="quick", raises=False)
    np.random.seed(2)  # noqa: NPY002
    second = check_layer(numpy_case(wrong), profile="quick", raises=False)
    assert [each.message for each in first.results] == [each.message for each in second.results]


def test_the_lines_of_a_failure_repeat_it():
    (result, *_) = results(numpy_case(wrong), "EN08", profile="quick")
    lines = [line.strip() for line in result.message.partition("To repeat it:\n")[2].splitlines()]
    assert "from tests.testing.test_kit import wrong as make_layer" in lines
    names = {}
    exec("\n".join(lines), names)  # noqa: S102, what a user would paste
    _, length, dim = names["x"].shape
    seen = abs(names["y1"]).max() / (5 / np.sqrt(length * dim))
    assert f"largest |noise| is {seen:.4g} of" in result.message


def test_hypothesis_finds_what_the_table_does_not():
    """A layer that is wrong for 20 channels or more; the table has at most 16."""

    def make(*, dim, alpha, seed):
        layer = right(dim=dim, alpha=alpha, seed=seed)

        def noisy(x, *, training, mask, step, segment_ids):
            y = layer(x, training=training, mask=mask, step=step, segment_ids=segment_ids)
            return y + (not training and x.shape[2] in range(20, 34))

        return noisy

    def statuses():
        return [each.status for each in results(numpy_case(make), "EN02")]

    assert statuses() == ["failed"] * 3
    with mock.patch.object(kit_examples, "find_spec", return_value=None):  # not installed
        assert statuses() == ["passed"] * 3
    assert find_spec("hypothesis")


# Statuses.


def test_what_is_not_claimed_is_counted_with_its_reason():
    report = check_layer(numpy_case(wrong, claims=Claims(distribution=None, length="padded")),
                         profile="quick", raises=False)  # fmt: skip
    why = {result.code: result.message for result in report.results
           if result.status == "not_claimed"}  # fmt: skip
    assert why["EN08"] == "distribution=None"
    assert why["EN09"] == "length='padded'"
    assert why["EN22"] == "the driver 'numpy' has no compile"
    assert f"{len([r for r in report.results if r.status == 'not_claimed'])} not claimed" in (
        report.summary()
    )


def test_expected_failures():
    reasons = {"EN09": "padding gets noise, see our issue 12", "EN02": "we thought so"}
    made = numpy_case(wrong, expected_failures=reasons)
    report = check_layer(made, profile="quick", raises=False)
    status = {result.code: result for result in report.results}
    assert status["EN09"].status == "expected_failure"
    assert status["EN09"].message.startswith("padding gets noise, see our issue 12 (EN09 ")
    assert status["EN02"].status == "unexpected_pass"
    assert "Remove EN02 from the expected failures" in status["EN02"].message
    assert not report.ok


def test_a_case_with_nothing_but_expected_failures_holds():
    codes = {
        result.code
        for result in check_layer(numpy_case(wrong), profile="quick", raises=False).results
        if result.wrong
    }
    made = numpy_case(wrong, expected_failures=dict.fromkeys(codes, "known"))
    assert check_layer(made, profile="quick").ok


def test_an_expected_failure_of_one_dtype():
    def make(*, dim, alpha, seed):
        layer = right(dim=dim, alpha=alpha, seed=seed)

        def noisy(x, *, training, mask, step):
            y = layer(x, training=training, mask=mask, step=step, segment_ids=None)
            return y + (x.dtype == np.float16 and not training)

        return noisy

    made = numpy_case(make, expected_failures={"EN02[float16]": "known"})
    assert [each.status for each in results(made, "EN02", profile="quick")] == [
        "passed", "expected_failure", "passed",
    ]  # fmt: skip


def test_what_fails_by_chance_is_told_as_it_was_seen():
    """Hypothesis runs a failing example again, where a layer without a seed may pass."""
    draws = iter(range(10**9))

    def make(*, dim, alpha, seed):
        def layer(x, *, training):
            return x + (not training and x.shape[2] > 16 and next(draws) % 3 == 0)

        return layer

    claims = Claims(seeded=False, distribution=None, length="padded")
    (result, *_) = results(numpy_case(make, claims=claims), "EN02")
    assert result.status == "failed"
    assert "evaluation mode changes the embeddings" in result.message


def test_a_claim_that_raises_is_an_error_of_the_check():
    claims = Claims(scale=lambda alpha, length, dim: 1 / abs(dim - 95))  # the profile's d
    (result, *_) = results(numpy_case(claims=claims), "EN21", profile="quick")
    assert result.status == "error"
    assert result.message.startswith(
        "EN21 schedule_followed[float32]: what the check depends on raised"
    )
    assert "ZeroDivisionError: float division by zero (test_kit.py:" in result.message


@pytest.mark.parametrize(
    ("key", "nearest"),
    [("EN9", "EN09"), ("EN99", "EN59"), ("padding_untouched", "EN09"), ("EN08_support", "EN08")],
)
def test_an_unknown_expected_failure_names_the_nearest(key, nearest):
    with pytest.raises(ValueError, match=f"unknown code '{key}'; the nearest is '{nearest}'"):
        numpy_case(expected_failures={key: "why"})


def test_an_expected_failure_needs_a_code_and_a_reason():
    with pytest.raises(TypeError, match="codes of checks as keys, such as 'EN09', got 9"):
        numpy_case(expected_failures={9: "why"})
    with pytest.raises(TypeError, match=r"expected_failures\['EN09'\] must be the reason"):
        numpy_case(expected_failures={"EN09": ""})


def test_a_check_without_an_assertion_is_an_error():
    empty = Spec("EN99", "empty", lambda subject: None, ("embeddings",), "float32",
                 lambda claims: None, random=False)  # fmt: skip
    (check, *_) = iter_checks(numpy_case())
    result = type(check)(check.case, empty, "float32").run()
    assert (result.status, result.assertions) == ("error", 0)
    assert "made no assertion" in result.message


# Reports.


def test_the_table_and_the_json_say_the_same():
    report = check_layer(numpy_case(wrong), profile="quick", raises=False)
    table, data = report.table(), json.loads(report.to_json())
    assert data["ok"] is False
    assert data["counts"]["failed"] == sum(each.status == "failed" for each in report.results)
    assert sum(data["counts"].values()) == len(data["results"])
    for each in data["results"]:
        assert f"{each['code']} {each['name']}" in table
    assert re.search("EN09 padding_untouched +failed +float32 float16 float64", table)
    assert "The same in float16." in table
    assert table.endswith(f" {report.summary()} in {sum(r.seconds for r in report.results):.1f} s")
    assert "\033[" not in table
    assert "\033[31mfailed" in report.table(color=True)


# Misuse.


def raises(*, dim, alpha, seed):
    raise RuntimeError("no such thing")


def not_a_layer(*, dim, alpha, seed):
    return np.zeros(dim)


ONE = right(dim=8, alpha=1.0, seed=0)


def the_same(*, dim, alpha, seed):
    return ONE


def giving(change):
    def make(*, dim, alpha, seed):
        return lambda x, training: change(x)

    return make


class Foreign:
    """Looks like an array, and is none."""

    def __init__(self, x):
        self.shape, self.dtype = x.shape, x.dtype

    def __array__(self, *args, **kwargs):
        raise TypeError("not NumPy's")


def fails_inside(x):
    return x[..., 99999]


def exits(x):
    sys.exit("no noise today")


MISUSES = {
    "a factory that raises": (
        raises, r"make_layer\(dim=16, alpha=5.0, seed=\d+\) raised RuntimeError: no such thing "
        r"\(test_kit.py:\d+, in raises\)"),
    "no layer": (not_a_layer, r"make_layer returned an array .*, which cannot be called"),
    "the same object": (the_same, "returned the same object twice; it must make a fresh layer"),
    "another shape": (giving(lambda x: x[:, :1]), r"returned an array of shape \(4, 1, 16\) for "
                      r"inputs of shape \(4, 7, 16\); it must be \(4, 7, 16\)"),
    "NaN": (giving(lambda x: x * np.nan), "448 of 448 values that are NaN or infinite"),
    "integers": (giving(lambda x: x.astype(int)), "dtype int64; it must be of a floating-point"),
    "another framework's": (giving(Foreign), "a tests.testing.test_kit.Foreign, which the driver "
                            "'numpy' cannot read: is it a layer of another framework"),
    "a layer that wants more": (
        lambda *, dim, alpha, seed: lambda x, padding_mask: x,
        r"missing 1 required positional argument: 'padding_mask'.*\*, mask: layer\(x, "
        r"padding_mask=~mask\)"),
    "None": (giving(lambda x: None), "returned None; it must return an array"),
    "a layer that exits": (giving(exits), r"raised SystemExit: no noise today \(test_kit.py:\d+"),
    "a layer that raises": (giving(fails_inside), r"in training mode, raised IndexError: .* "
                            r"\(test_kit.py:\d+, in fails_inside\)"),
}  # fmt: skip


@pytest.mark.parametrize("kind", MISUSES)
def test_misuse_is_one_clear_message(kind):
    make, says = MISUSES[kind]
    report = check_layer(numpy_case(make), profile="quick", raises=False)
    (result,) = report.results  # the other checks would say the same
    assert result.status == ("failed" if kind == "NaN" else "error")
    assert result.message.startswith("EN01 can_be_called[float32]: ")
    with pytest.raises(ExceptionGroup) as caught:
        check_layer(numpy_case(make), profile="quick")
    (error,) = caught.value.exceptions
    assert error.__traceback__ is None
    with pytest.raises(CheckFailedError, match=says):
        raise error


@pytest.mark.parametrize("kind", MISUSES)
def test_every_other_check_says_that_the_first_one_failed(kind):
    make, _ = MISUSES[kind]
    for check in list(iter_checks(numpy_case(make), profile="quick"))[1:]:
        result = check.run()
        assert result.status in ("not_tested", "not_claimed", "passed")
        if result.status == "not_tested":
            assert result.message == "EN01 can_be_called failed"


class Module:
    def forward(self, x):
        return x


@pytest.mark.parametrize(
    ("options", "error", "says"),
    [
        ({"name": ""}, TypeError, "name must be a non-empty string"),
        ({"make_layer": 3}, TypeError, "make_layer must be a function of dim, alpha and seed"),
        ({"make_layer": lambda dim: dim}, TypeError, "must take the keywords dim, alpha and seed"),
        ({"driver": "torhc"}, ValueError, r"got 'torhc' \(did you mean 'torch'\?\)"),
        ({"driver": 3}, TypeError, "driver must be a name or a Driver, got 3"),
        ({"inputs": "tokens"}, ValueError, r"inputs must be one of \['embeddings', 'ids'\]"),
        ({"call": 3}, TypeError, "call must be a function, got 3"),
        ({"call": lambda: 1}, TypeError, r"call must take \(layer, inputs\) and, by name, any of"),
        (
            {"call": lambda layer, x, *, attention_mask: x},
            TypeError,
            r"any of \['training', 'mask', 'step', 'segment_ids'\]; got .*'attention_mask'",
        ),
        (
            {"driver": "keras", "call": lambda layer, x: x},
            TypeError,
            "call must take `training` and pass it on, since the driver 'keras' cannot switch",
        ),
        (
            {"make_layer": Module()},
            TypeError,
            "a function that makes layers, as in .* got the layer",
        ),
        ({"make_layer": Module}, TypeError, "must take the keywords dim, alpha and seed"),
        ({"driver": NumpyDriver}, TypeError, "driver must be a name or a Driver, got <class"),
        ({"expected_failures": ["EN09"]}, TypeError, "expected_failures must map codes to reasons"),
        ({"claims": {}}, TypeError, "claims must be a Claims, got {}"),
        (
            {"claims": Claims(framework_test=True)},
            ValueError,
            "framework_test must be False for the driver 'numpy', .* got True",
        ),
    ],
)
def test_a_wrong_case_is_refused(options, error, says):
    with pytest.raises(error, match=says):
        case(**{"name": "mine", "make_layer": right, "driver": "numpy", **options})


@pytest.mark.parametrize(
    ("options", "error", "says"),
    [
        ({"distribution": "normal"}, ValueError, r"one of .*\(did you mean 'gaussian'\?\)"),
        ({"scale": "neftun"}, ValueError, "scale must be one of .* got 'neftun'"),
        ({"scale": 3}, TypeError, "scale must be one of .* got 3"),
        ({"scale": lambda a: a}, TypeError, r"function \(alpha, L, d\) -> magnitude, which may"),
        ({"scale": lambda a, n, d: 1 / 0}, ValueError, "alpha=1, L=8, d=64, .* ZeroDivisionError"),
        ({"length": "token"}, ValueError, "length must be 'tokens', 'padded' or None"),
        ({"length": None}, ValueError, "with the scale 'neftune', which depends on L"),
        ({"seeded": 1}, ValueError, "seeded must be True, False or 'global', got 1"),
        ({"schedule": 3}, TypeError, "schedule must be a function step -> share of alpha"),
        ({"schedule": linear(1, 0)}, ValueError, "schedule must be bound"),
        ({"schedule": lambda step: 0.0}, ValueError, "above 0 at one of its first 1000 steps"),
        ({"schedule": lambda step: -1.0}, ValueError, "schedule at step 0 must be finite"),
        ({"schedule": math.cos}, ValueError, "schedule at step 2 must be finite"),
        ({"schedule": lambda: 1}, TypeError, "schedule must be a function step -> share of alpha"),
        ({"schedule": [1, 0].__getitem__}, ValueError, "for any step; at step 2, .* IndexError"),
        ({"distribution": lambda: 0}, TypeError, "quantile of distribution '<lambda>' must be a"),
        ({"distribution": lambda p: "a"}, ValueError, "quantile of distribution '<lambda>' must"),
        (
            {"distribution": lambda p: p},
            ValueError,
            r"must be symmetric, .* quantile\(0\.25\) = 0\.25 and quantile\(0\.75\) = 0\.75",
        ),
        ({"antithetic": 1}, TypeError, "antithetic must be True or False"),
        ({"saved_names": None}, TypeError, "saved_names must be a tuple of names, got None"),
        ({"saved_names": 3}, TypeError, "saved_names must be a tuple of names, got 3"),
        ({"saved_names": "count"}, TypeError, "saved_names must be a tuple of names"),
    ],
)
def test_wrong_claims_are_refused(options, error, says):
    with pytest.raises(error, match=says):
        Claims(**options)


def test_wrong_options_of_a_run_are_refused():
    with pytest.raises(ValueError, match="profile must be one of"):
        check_layer(numpy_case(), profile="fast")
    with pytest.raises(TypeError, match="seed must be an integer"):
        check_layer(numpy_case(), seed="random")
    with pytest.raises(TypeError, match=r"case must be what case\(\.\.\.\) returned"):
        check_layer(right)
    with pytest.raises(TypeError, match="raises must be True or False, got 'no'"):
        check_layer(numpy_case(), raises="no")
    with pytest.raises(TypeError, match="progress must be a callable, got 3"):
        check_layer(numpy_case(), progress=3)
    with pytest.raises(TypeError, match="cases must be a list of cases, got None"):
        parametrize_with_checks(None)
    with pytest.raises(TypeError, match="put it in a list"):
        parametrize_with_checks(numpy_case())
    with pytest.raises(ValueError, match="cases must be at least one case, got none"):
        parametrize_with_checks([])
    with pytest.raises(TypeError, match="path must be a string or a path, got 5"):
        check_model(5)
    with pytest.raises(ValueError, match="different names"):
        parametrize_with_checks([numpy_case(), numpy_case()])


def test_a_check_that_passed_says_what_it_did_not_look_at():
    class Counting:
        def __init__(self, alpha, seed):
            self.noise, self.calls = neftune(linear(alpha, 0, 5000), seed=seed), 0

        def __call__(self, x, training, mask=None):
            step = self.calls
            self.calls += training
            return embnoise.add_noise(x, self.noise, training=training, mask=mask, step=step)

    counting = lambda *, dim, alpha, seed: Counting(alpha, seed)  # noqa: E731
    made = numpy_case(counting, claims=Claims(schedule=linear(1, 0, 5000)))
    (result,) = results(made, "EN21", profile="quick")
    assert result.status == "passed"
    assert result.message == "up to step 1001, since the layer takes no step"
    assert result.message in Report(made, "quick", 0, (result,)).table()


# How a layer is called.


def test_call_is_given_the_keywords_that_it_names():
    seen = set()

    def call(layer, x, *, training, step):
        seen.update({type(training), type(step)})
        mask = np.ones(x.shape[:2], bool)
        return layer(x, training=training, mask=mask, step=step, segment_ids=None)

    report = check_layer(
        numpy_case(call=call, claims=Claims(length="padded")), profile="quick", raises=False
    )
    assert seen == {bool, int}
    assert [each.code for each in report.results if each.wrong] == []


def test_what_cannot_be_called_is_tested_by_its_call():
    pair = lambda *, dim, alpha, seed: (None, right(dim=dim, alpha=alpha, seed=seed))  # noqa: E731
    assert "or the case needs call=" in results(numpy_case(pair), "EN01")[0].message

    def call(layer, x, *, training, mask, step, segment_ids):
        return layer[1](x, training=training, mask=mask, step=step, segment_ids=segment_ids)

    assert check_layer(numpy_case(pair, call=call), profile="quick").ok


def test_a_layer_without_a_step_advances_by_being_called():
    def make(*, dim, alpha, seed):
        steps = iter(range(1000))
        layer = right(dim=dim, alpha=alpha, seed=seed)
        decay = linear(1, 0, 6)

        def noisy(x, *, training, mask):
            if not training:
                return x
            step = next(steps)
            noise = neftune(alpha * decay(step), seed=seed)
            return embnoise.add_noise(x, noise, mask=mask, step=step)

        assert layer
        return noisy

    assert check_layer(numpy_case(make, claims=Claims(schedule=linear(1, 0, 6)))).ok


def test_a_layer_may_have_a_mode_of_its_own():
    class Layer:
        training = None

        def __init__(self, alpha, seed):
            self.layer = right(dim=0, alpha=alpha, seed=seed)

        def __call__(self, x, *, mask, step):
            return self.layer(x, training=self.training, mask=mask, step=step, segment_ids=None)

    assert check_layer(numpy_case(lambda *, dim, alpha, seed: Layer(alpha, seed))).ok


# Drivers.


@pytest.mark.sweep  # check_adapter runs it too
def test_a_third_party_brings_its_driver():
    assert driver_of("lists").name == "lists"

    def make(*, dim, alpha, seed):
        import embnoise_lists  # noqa: PLC0415

        noise = neftune(alpha, seed=seed)

        def layer(x, training, mask, step):
            return embnoise_lists.add_noise(x, noise, training=training, mask=mask, step=step)

        return layer

    made = case("lists", make, driver="lists")
    report = check_layer(made, profile="quick", raises=False)
    assert report.ok, report.table()
    assert {each.message for each in report.results if each.code == "EN18"} == {
        "the driver 'lists' has no state"
    }


def test_a_driver_gets_contiguous_arrays():
    class Strict(NumpyDriver):
        def from_numpy(self, array, dtype=None):
            assert array.flags.c_contiguous
            return super().from_numpy(array, dtype)

    made = case("mine", right, driver=Strict())
    assert check_layer(made).ok  # the default profile has batches that are padded on the left


@needs("torch")
def test_extra_state_of_a_torch_module_is_no_weight():
    import torch  # noqa: PLC0415

    class Counting(torch.nn.Linear):
        def get_extra_state(self):
            return torch.zeros(4)

        def set_extra_state(self, state):
            pass

    model = torch.nn.Sequential(Counting(2, 2))
    assert "0._extra_state" in model.state_dict()
    assert set(driver_of("torch").state(model)) == {"0.weight", "0.bias"}


def test_a_framework_that_is_not_installed_is_named():
    code = (
        "import sys; sys.modules['keras'] = None\n"
        "from embnoise.testing import driver_of\ndriver_of('keras')"
    )
    ran = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert "driver 'keras' needs keras, which is not installed" in ran.stderr
    assert 'pip install "embnoise[keras]"' in ran.stderr


@needs("torch")
def test_global_random_state_is_left_as_it_was():
    import torch  # noqa: PLC0415

    def make(*, dim, alpha, seed):
        return lambda x, training: x + torch.rand_like(x) * training

    np.random.seed(3)  # noqa: NPY002
    random.seed(3)
    torch.manual_seed(3)
    before = [np.random.get_state()[1].tobytes(), random.getstate(), torch.initial_seed()]  # noqa: NPY002
    state = torch.get_rng_state()
    check_layer(case("mine", make, driver="torch"), profile="quick", raises=False)
    after = [np.random.get_state()[1].tobytes(), random.getstate(), torch.initial_seed()]  # noqa: NPY002
    assert after == before
    assert torch.equal(torch.get_rng_state(), state)


@needs("torch")
def test_a_layer_is_switched_also_where_call_does_not_hand_training_on():
    from tests.testing.torch_layers import Uniform  # noqa: PLC0415

    def make(*, dim, alpha, seed):
        return Uniform(alpha, seed)

    def call(layer, inputs, *, mask):
        return layer(inputs, mask)

    made = case("mine", make, driver="torch", call=call)
    report = check_layer(made, profile="quick", raises=False)
    assert report.ok, report.table()
