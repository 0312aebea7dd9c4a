"""Layers that embed ids take the padding that `padding_id` names, and that one only."""

import numpy as np
import pytest

import embnoise
from embnoise._cli import main
from embnoise.testing import case, check_layer
from embnoise.testing.inputs import inputs_of, right_mask
from embnoise.testing.starter import starter


def embedding(padding, vocabulary=None):
    """A factory for a layer that takes an id for padding."""

    def make(*, dim, alpha, seed):
        size = vocabulary or max(8, padding + 1)
        table = np.random.default_rng(0).standard_normal((size, dim)).astype(np.float32)
        noise = embnoise.neftune(alpha, seed=seed)

        def layer(ids, *, training, step):
            mask = ids != padding
            return embnoise.add_noise(table[ids], noise, step=step, training=training, mask=mask)

        return layer

    return make


def report_of(make, **options):
    made = case("mine", make, driver="numpy", inputs="ids", **options)
    return check_layer(made, profile="quick", raises=False)


@pytest.mark.parametrize("padding", [0, 1, 7, 9, 50])
def test_a_layer_holds_with_the_padding_that_it_has(padding):
    report = report_of(embedding(padding), padding_id=padding)
    assert report.ok, report.table()


def test_padding_that_the_kit_is_not_told_of_is_one_failure_which_says_what_to_pass():
    [failed] = [each for each in report_of(embedding(1)).results if each.wrong]
    assert failed.code == "EN24"
    assert "real tokens of the ids [1] get no noise" in failed.message
    assert "case(..., padding_id=1)" in failed.message


def test_padding_outside_of_the_ids_of_the_kit_is_hinted_at():
    [failed] = [
        each for each in report_of(embedding(9, vocabulary=20)).results if each.code == "EN09"
    ]
    assert "padding has another id than 0 (pass padding_id=)" in failed.message


@pytest.mark.parametrize("padding", [0, 1, 4, 7, 8, 50])
def test_ids_are_those_of_padding_and_seven_others(padding):
    mask = right_mask([300, 7], 300)
    inputs = inputs_of("ids", (2, 300, 4), mask=mask, padding_id=padding)
    assert set(inputs.values[~mask]) == {padding}
    real = set(inputs.values[mask])
    assert len(real) == 7
    assert padding not in real
    assert max(real) <= max(7, padding)
    for made in (inputs, inputs.with_mask_of("int64").with_equal_rows()):
        repeated = eval(made.source, {"np": np, "mask": mask.astype(made.mask_dtype)})  # noqa: S307
        np.testing.assert_array_equal(repeated, made.values)


@pytest.mark.parametrize(
    ("options", "error", "says"),
    [
        ({"padding_id": -1}, ValueError, "padding_id must be at least 0, got -1"),
        ({"padding_id": 1.0}, TypeError, "padding_id must be an integer, got 1.0"),
        (
            {"padding_id": 1, "inputs": "embeddings"},
            ValueError,
            "padding_id=1 is for inputs='ids', got inputs='embeddings'",
        ),
    ],
)
def test_a_padding_id_that_cannot_be_is_refused(options, error, says):
    with pytest.raises(error, match=says):
        case("mine", embedding(1), **{"driver": "numpy", "inputs": "ids"} | options)


def test_the_command_takes_a_padding_id(capsys):
    target = f"{__name__}:padded_with_1"
    run = [target, "--driver", "numpy", "--profile", "quick"]
    assert main(["check", *run, "--padding-id", "1"]) == 0
    assert main(["check", *run, "--inputs", "ids"]) == 1
    assert "padding_id=1" in capsys.readouterr().out


def test_a_starter_file_keeps_the_padding_id():
    made = case("mine", embedding(1), driver="numpy", inputs="ids", padding_id=1)
    assert "\n    padding_id=1,\n" in starter(made, "mine:make_layer", None)


padded_with_1 = embedding(1)
