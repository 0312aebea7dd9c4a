"""Every model type of transformers gets the noise of ``add_noise`` at its lookups, once.

The types and what is expected of them are in ``expectations.py``. A sample runs by default, all of
them with ``pytest -m sweep tests/torch/sweep``.
"""

import warnings

import pytest

from embnoise_torch import attach
from tests.torch.sweep import expectations, table
from tests.torch.sweep.building import build, class_names, looks_tokens_up
from tests.torch.sweep.calls import call_of, packed_call_of, pad_of, takes_positions
from tests.torch.sweep.check import NOISE, check, run

LARGEST = 8_000_000
"""Parameters of a tiny model; most have less than a million."""


def over(names, wrong=()):
    """Each type is one case; the sampled ones run by default."""

    def case(name):
        marks = [] if name in expectations.SAMPLED else [pytest.mark.sweep]
        if name in wrong:
            marks.append(pytest.mark.xfail(reason=wrong[name], raises=AssertionError))
        return pytest.param(name, marks=marks)

    return pytest.mark.parametrize("model_type", [case(name) for name in names])


@pytest.fixture(autouse=True)
def _quiet():
    """What a model of transformers warns of is not ours to mend."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        warnings.filterwarnings("error", message="embnoise")
        yield


def built(model_type):
    if model_type not in class_names():
        pytest.skip(f"this version of transformers has no {model_type}")
    model = build(model_type)
    assert sum(weight.numel() for weight in model.parameters()) < LARGEST
    return model


def arguments_of(model_type, model):
    if model_type in expectations.REFUSED:
        return expectations.REFUSED[model_type].arguments
    if model_type in expectations.WITHOUT_A_MASK:
        return {"tokens": expectations.told(pad_of(model))}
    return {}


@over(expectations.TYPES, expectations.WRONG)
@pytest.mark.parametrize("padding", ["right", "left"])
def test_lookups_of_padded_rows_get_the_noise_of_their_tokens(model_type, padding):
    model = built(model_type)
    call, sides = call_of(model, padding)
    check(model, call, sides, **arguments_of(model_type, model))


@over(expectations.TYPES)
def test_lookups_of_packed_rows_get_the_noise_of_their_documents(model_type):
    model = built(model_type)
    if not takes_positions(model):
        pytest.skip("the model takes no position_ids")
    call, sides = packed_call_of(model)
    told = model_type in expectations.WITHOUT_A_MASK
    check(model, call, sides, **({} if told else arguments_of(model_type, model)))


@over(expectations.KINDS_OF_POSITIONS)
def test_positions_of_several_kinds_tell_the_documents_too(model_type):
    model = built(model_type)
    call, sides = packed_call_of(model, expectations.KINDS_OF_POSITIONS[model_type])
    check(model, call, sides)


@over(expectations.REFUSED)
def test_what_cannot_be_known_is_asked_for(model_type):
    model = built(model_type)
    call, _ = call_of(model, "right")
    with pytest.raises((TypeError, ValueError, RuntimeWarning)) as raised:  # noqa: SIM117
        with attach(model, NOISE):
            run(model, call)
    assert expectations.REFUSED[model_type].message in str(raised.value)


@pytest.mark.parametrize(
    ("arguments", "fault"),
    [
        ({"tokens": lambda ids: {}}, "L is the row's width"),
        ({"where": lambda ids: ids != ids[0, 0]}, "other noise"),
        ({"layer": "model.norm"}, "no noise"),
    ],
)
def test_the_check_finds_wrong_noise(arguments, fault):
    model = built("llama")
    call, sides = call_of(model, "right")
    with pytest.raises(AssertionError, match=fault):
        check(model, call, sides, **arguments)


@pytest.mark.sweep
def test_every_type_that_looks_tokens_up_is_in_a_table():
    transformers = pytest.importorskip("transformers")
    if transformers.__version__ != expectations.VERSION:
        pytest.skip(f"the tables are those of transformers {expectations.VERSION}")
    found = {name for name in class_names() if looks_tokens_up(name)}
    assert found == {*expectations.TYPES, *expectations.NOT_RUN}


@pytest.mark.sweep
@pytest.mark.parametrize("model_type", expectations.NOT_RUN)
def test_what_does_not_run_cannot(model_type):
    """Fails for a type that runs by now: move it to the others."""
    with pytest.raises(Exception):  # noqa: B017, PT011, PT012, whatever keeps it from running
        model = built(model_type)
        run(model, call_of(model, "right")[0])


def test_the_tables_of_the_documentation_are_those_of_the_expectations():
    assert table.PAGE.read_text() == table.page_with_the_tables()
