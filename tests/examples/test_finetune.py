"""The main example, on data and a model small enough for a test."""

import dataclasses
import json
import re
import subprocess
import sys
from importlib import import_module
from pathlib import Path

import numpy as np
import pytest

from tests.frameworks import needs, params

EXAMPLES = Path(__file__).parent.parent.parent / "examples"


@pytest.fixture(autouse=True)
def _importable(monkeypatch):
    monkeypatch.syspath_prepend(str(EXAMPLES))


@pytest.fixture(scope="module")
def data(tmp_path_factory):
    path = tmp_path_factory.mktemp("data") / "alpaca.jsonl"
    records = [
        {"instruction": f"What is {n} plus {n}?", "input": "", "output": f"It is {2 * n}."}
        for n in range(40)
    ]
    path.write_text("\n".join(map(json.dumps, records)))
    return path


@pytest.fixture
def model(data, cache):
    """A local folder with a model and its tokenizer, as ``--model`` takes it."""
    import pairs  # noqa: PLC0415
    import small_llama  # noqa: PLC0415

    return small_llama.pretrained(pairs.read_pairs(data), 2, cache)


def run(*arguments):
    import finetune  # noqa: PLC0415

    return finetune.main([str(argument) for argument in arguments])


@pytest.fixture(scope="module")
def cache(tmp_path_factory):
    """What one test has pretrained, the next one takes."""
    return tmp_path_factory.mktemp("cache")


@pytest.fixture
def small(monkeypatch):
    """Sizes for a test, of the data and of the decoders."""
    import finetune  # noqa: PLC0415
    import small_decoder  # noqa: PLC0415

    size = finetune.Size(train=20, held_out=8, pretraining_steps=2, epochs=2)
    monkeypatch.setattr(finetune, "DEFAULT", size)
    shape = small_decoder.Shape(width=32, hidden=32, layers=1, heads=2)
    monkeypatch.setenv("KERAS_BACKEND", "tensorflow")
    for decoder in ("small_decoder_nnx", "small_decoder_keras"):
        monkeypatch.setattr(import_module(decoder), "SHAPE", shape)


@pytest.mark.usefixtures("small")
@pytest.mark.parametrize(
    "backend",
    [pytest.param("jax", marks=[needs("jax"), pytest.mark.sweep]), *params("keras")],
)
def test_other_backends(tmp_path, data, cache, backend, capsys):
    plain, noisy = run(
        "--backend", backend, "--data", data, "--cache", cache, "--output", tmp_path / "out",
        "--steps", 3, "--alpha", 50, "--schedule", "linear",
    )  # fmt: skip
    assert [step for step, _ in plain.train_losses] == [1]
    assert [step for step, _ in plain.held_out_losses] == [2, 3]
    assert plain.train_loss != noisy.train_loss
    assert plain.train_losses != noisy.train_losses
    assert plain.train_losses[0][1] == pytest.approx(np.log(2048), rel=0.2)
    check_results(capsys.readouterr().out, tmp_path / "out", backend)


@pytest.mark.usefixtures("small")
@pytest.mark.parametrize(
    "backend",
    # The others take the same way through the script.
    params("torch")
    + [
        pytest.param(*each.values, marks=[*each.marks, pytest.mark.sweep])
        for each in params("jax", "keras")
    ],
)
def test_only_the_noise_differs(tmp_path, data, cache, backend):
    plain, noisy = run(
        "--backend", backend, "--data", data, "--cache", cache, "--output", tmp_path / "out",
        "--steps", 3, "--alpha", 0,
    )  # fmt: skip
    same = dataclasses.replace(noisy, name=plain.name, seconds=plain.seconds)
    assert same == plain


@needs("torch")
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
    check_results(capsys.readouterr().out, tmp_path / "out", "torch")


def check_results(printed, folder, backend):
    for column in ("train loss", "held-out loss", "verbatim", "seconds"):
        assert column in printed
    assert (folder / "finetune.png").stat().st_size > 10_000
    content = json.loads((folder / "finetune.json").read_text())
    assert content["arguments"]["backend"] == backend
    assert [arm["name"] for arm in content["arms"]] == ["plain", "with noise"]


@needs("torch")
def test_the_second_run_takes_the_pretrained_model_from_the_cache(data, model, cache):
    import pairs  # noqa: PLC0415
    import small_llama  # noqa: PLC0415

    before = {path: path.stat().st_mtime_ns for path in model.rglob("*")}
    again = small_llama.pretrained(pairs.read_pairs(data), 2, cache)
    assert again == model
    assert {path: path.stat().st_mtime_ns for path in model.rglob("*")} == before
    other = small_llama.pretrained(pairs.read_pairs(data), 3, cache)
    assert other != model
    assert {model, other} <= set(cache.iterdir())


@needs("jax", "keras")
def test_other_backends_import_neither_torch_nor_transformers():
    code = "import sys, finetune_jax, finetune_keras\n"
    code += "assert not {'torch', 'transformers'} & sys.modules.keys()"
    done = subprocess.run(
        [sys.executable, "-c", code], cwd=EXAMPLES, capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stderr


def test_padded_rows_and_batches_of_one_shape():
    import batches  # noqa: PLC0415
    from task import IGNORED, Example  # noqa: PLC0415

    examples = [Example([5, 6], [7, 1]), Example([8], [9, 10, 1]), Example([11, 12, 13], [1])]
    ids, labels = batches.rows(examples, 5)
    ignored = IGNORED
    assert ids.tolist() == [[5, 6, 7, 1, 0], [8, 9, 10, 1, 0], [11, 12, 13, 1, 0]]
    assert labels.tolist() == [
        [ignored, 7, 1, ignored, ignored],
        [9, 10, 1, ignored, ignored],
        [ignored, ignored, 1, ignored, ignored],
    ]
    first, last = batches.batches((ids, labels), 2)
    assert first[0].tolist() == ids[:2].tolist()
    assert last[0].tolist() == [ids[2].tolist(), [0] * 5]
    assert last[1].tolist() == [labels[2].tolist(), [ignored] * 5]


def test_greedy_replies_follow_each_prompt():
    import batches  # noqa: PLC0415
    from task import RECITED_TOKENS, Example, verbatim_rate  # noqa: PLC0415

    examples = [Example([3], [4, 5, 6]), Example([7, 8, 9], [10, 10])]
    replies = batches.replies(lambda ids: ids + 1, examples)
    count = range(RECITED_TOKENS)
    assert replies == [[4 + i for i in count], [10 + i for i in count]]
    assert verbatim_rate(examples, replies) == 0.5


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
        (["--backend", "mxnet"], "mxnet"),
        (["--backend", "jax", "--model", "."], "--backend must be torch, got jax"),
    ],
)
def test_wrong_arguments(arguments, message, capsys):
    with pytest.raises(SystemExit):
        run(*arguments)
    assert message in capsys.readouterr().err
