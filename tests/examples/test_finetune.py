"""The main example, on data and a model small enough for a test."""

import json
import re
from pathlib import Path

import pytest

EXAMPLES = Path(__file__).parent.parent.parent / "examples"


@pytest.fixture(autouse=True)
def _importable(monkeypatch):
    monkeypatch.syspath_prepend(str(EXAMPLES))


@pytest.fixture
def data(tmp_path):
    path = tmp_path / "alpaca.jsonl"
    records = [
        {"instruction": f"What is {n} plus {n}?", "input": "", "output": f"It is {2 * n}."}
        for n in range(40)
    ]
    path.write_text("\n".join(map(json.dumps, records)))
    return path


@pytest.fixture
def model(tmp_path, data):
    """A local folder with a model and its tokenizer, as ``--model`` takes it."""
    import pairs  # noqa: PLC0415
    import small_llama  # noqa: PLC0415

    return small_llama.pretrained(pairs.read_pairs(data), 2, tmp_path / "cache")


def run(*arguments):
    import finetune  # noqa: PLC0415

    return finetune.main([str(argument) for argument in arguments])


@pytest.mark.parametrize("schedule", ["constant", "cosine"])
def test_a_model_and_data_of_your_own(tmp_path, data, model, schedule, capsys, monkeypatch):
    import finetune  # noqa: PLC0415

    small = finetune.Size(train=16, held_out=8, pretraining_steps=2, epochs=2)
    monkeypatch.setattr(finetune, "DEFAULT", small)
    plain, noisy = run(
        "--model", model, "--data", data, "--output", tmp_path / "out", "--steps", 3,
        "--alpha", 50, "--schedule", schedule,
    )  # fmt: skip
    assert (plain.name, noisy.name) == ("plain", "with noise")
    assert plain.train_loss != noisy.train_loss
    assert plain.train_losses[0][1] < noisy.train_losses[0][1] + 10
    printed = capsys.readouterr().out
    for column in ("train loss", "held-out loss", "verbatim", "seconds"):
        assert column in printed
    assert (tmp_path / "out" / "finetune.png").stat().st_size > 10_000
    assert json.loads((tmp_path / "out" / "finetune.json").read_text())


def test_the_second_run_takes_the_pretrained_model_from_the_cache(tmp_path, data, model):
    import pairs  # noqa: PLC0415
    import small_llama  # noqa: PLC0415

    before = {path: path.stat().st_mtime_ns for path in model.rglob("*")}
    again = small_llama.pretrained(pairs.read_pairs(data), 2, tmp_path / "cache")
    assert again == model
    assert {path: path.stat().st_mtime_ns for path in model.rglob("*")} == before
    other = small_llama.pretrained(pairs.read_pairs(data), 3, tmp_path / "cache")
    assert other != model
    assert sorted(path.name for path in (tmp_path / "cache").iterdir()) == sorted(
        [model.name, other.name]
    )


def test_docstrings_make_pairs():
    import pairs  # noqa: PLC0415

    made = pairs.docstring_pairs()
    assert len(made) > 3000
    assert any("os.path.join" in pair.instruction for pair in made)
    assert made == sorted(set(made), key=made.index)
    train, held_out = pairs.split(made, 320, 256, 0)
    assert (len(train), len(held_out)) == (320, 256)
    assert not {pair.output for pair in train} & {pair.output for pair in held_out}


@pytest.mark.parametrize(
    ("record", "message"),
    [
        ('{"instruction": "a"}', r"alpaca\.jsonl.*output"),
        ('["a", "b"]', r"alpaca\.jsonl"),
        ("{broken", r"alpaca\.jsonl"),
    ],
)
def test_data_that_is_not_in_alpacas_form(tmp_path, record, message, capsys):
    path = tmp_path / "alpaca.jsonl"
    path.write_text(record)
    with pytest.raises(SystemExit):
        run("--data", path)
    assert re.search(message, capsys.readouterr().err, re.DOTALL)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--model", "nowhere"], "nowhere"),
        (["--data", "nowhere.json"], "nowhere.json"),
        (["--alpha", "-1"], "alpha must be finite in float32 and at least 0"),
        (["--steps", "0"], "--steps"),
    ],
)
def test_wrong_arguments(arguments, message, capsys):
    with pytest.raises(SystemExit):
        run(*arguments)
    assert message in capsys.readouterr().err
