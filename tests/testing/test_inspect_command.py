"""``embnoise inspect``, as far as no framework is needed: tables, data and what is refused."""

import json
import math

import numpy as np
import pytest

from embnoise import Noise, linear, neftune
from embnoise._cli import main
from embnoise.testing.row_batches import drawn_rows, row_batches
from tests.testing.test_saved_models import Model

TABLE = np.random.default_rng(0).normal(0, 0.02, (50, 16)).astype(np.float32)
OTHER = np.ones((50, 16), np.float32)


def write(path, **arrays):
    """A file as the package safetensors writes it: a header, and the bytes of the tensors."""
    kinds = {"float64": "F64", "float32": "F32", "float16": "F16", "uint16": "BF16", "int8": "I8"}
    header, data = {"__metadata__": {"format": "pt"}}, b""
    for name, array in arrays.items():
        end = len(data) + array.nbytes
        header[name.replace("__", ".")] = {
            "dtype": kinds[array.dtype.name], "shape": array.shape,
            "data_offsets": [len(data), end],
        }  # fmt: skip
        data += array.tobytes()
    text = json.dumps(header).encode()
    path.write_bytes(len(text).to_bytes(8, "little") + text + data)
    return str(path)


@pytest.fixture
def file(tmp_path):
    return write(tmp_path / "model.safetensors", lm_head__weight=OTHER, embed_tokens__weight=TABLE)


def report(capsys, *command):
    assert main(["inspect", *command, "--json"]) == 0
    return json.loads(capsys.readouterr().out)


def found_in(capsys, *command):
    [embedding] = report(capsys, *command)["embeddings"]
    return embedding


def test_the_table_of_a_file(file, capsys):
    found = found_in(capsys, file, "--reference-rms", "0.017", "--alpha", "2")
    assert (found["name"], found["shape"]) == ("embed_tokens.weight", [50, 16])
    assert found["table_rms"] == pytest.approx(np.sqrt(np.square(TABLE).mean()), rel=1e-6)
    assert [each["tokens"] for each in found["lengths"]] == [16, 64, 256, 1024, 4096]
    assert found["lengths"][0]["noise_rms"] == pytest.approx(2 / math.sqrt(16 * 16 * 3))
    wanted = 5 / 64 / 0.017 * found["table_rms"] * math.sqrt(16)
    assert found["lengths"][0]["matched_alpha"] == pytest.approx(wanted)
    assert found["measured"] is None
    assert found_in(capsys, file, "--layer", "lm_head")["table_rms"] == pytest.approx(1)
    four = found_in(capsys, file, "--multiplier", "4")
    assert four["embedding_rms"] == pytest.approx(4 * found["table_rms"])


@pytest.mark.parametrize("dtype", ["float64", "float16", "bfloat16"])
def test_the_dtypes_of_a_table(dtype, tmp_path, capsys):
    kind = pytest.importorskip("ml_dtypes").bfloat16 if dtype == "bfloat16" else dtype
    stored = TABLE.astype(kind)
    arrays = {"wte__weight": stored.view(np.uint16) if dtype == "bfloat16" else stored}
    found = found_in(capsys, write(tmp_path / "x.safetensors", **arrays))
    right = np.sqrt(np.square(stored.astype(float)).mean())
    assert found["table_rms"] == pytest.approx(right, rel=1e-6)


def test_another_noise_and_another_step(file, tmp_path, capsys):
    noise = Noise(linear(0.0, 0.1, 10), "gaussian", scale="absolute")
    (tmp_path / "noise.json").write_text(json.dumps(noise.to_dict()))
    options = (file, "--noise", str(tmp_path / "noise.json"))
    found = found_in(capsys, *options, "--step", "5")
    assert found["lengths"][0]["noise_rms"] == pytest.approx(0.05)
    assert main(["inspect", *options]) == 2
    assert "alpha must be above 0 at step 0" in capsys.readouterr().err


def test_the_lengths_of_the_data(file, tmp_path, capsys):
    rows = [[1] * length for length in (3, 5, 5, 8, 40)]
    lines = [json.dumps({"input_ids": row, "labels": row}) for row in rows]
    (tmp_path / "data.jsonl").write_text("\n\n".join(lines))
    found = found_in(capsys, file, "--data", str(tmp_path / "data.jsonl"))
    # Quartiles over tokens: 40 of the 61 are in the longest row.
    assert [each["tokens"] for each in found["lengths"]] == [3, 8, 40]


@pytest.mark.parametrize("suffix", [".png", ".svg"])
def test_the_picture(suffix, file, tmp_path, capsys):
    pytest.importorskip("matplotlib")
    assert main(["inspect", file, "--plot", str(tmp_path / f"x{suffix}")]) == 0
    assert (tmp_path / f"x{suffix}").read_bytes()[:5] in (b"\x89PNG\r", b"<?xml")
    assert "embed_tokens.weight, 50 x 16" in capsys.readouterr().out


@pytest.fixture
def loaded(monkeypatch):
    """The command loads this model."""

    def load(model):
        monkeypatch.setattr("embnoise._cli.inspect.load_model", lambda *_: model)

    return load


def test_a_model_is_measured(loaded, capsys):
    loaded(Model())
    found = found_in(capsys, "here")
    measured = found["measured"]
    lengths = np.array([64, 32, 16, 8])
    right = math.sqrt(sum(lengths * 25 / (lengths * 16)) / lengths.sum() / 3)
    assert measured["lengths"] == [8, 32, 64]
    assert measured["predicted"] == pytest.approx(right, rel=2e-3)  # the last batch is cut off
    assert abs(measured["measured"] / measured["predicted"] - 1) < 0.01
    assert 5 * measured["chance"] < 0.01
    assert main(["inspect", "here", "--multiplier", "2"]) == 2
    assert "--multiplier must be left out" in capsys.readouterr().err


def test_rows_of_the_data_are_what_the_model_is_called_with(loaded, tmp_path, capsys):
    (tmp_path / "data.jsonl").write_text('{"input_ids": [1, 2, 3]}\n{"input_ids": [4]}\n')
    loaded(Model())
    found = found_in(capsys, "here", "--data", str(tmp_path / "data.jsonl"))
    assert found["measured"]["lengths"] == [1, 3]
    right = math.sqrt((3 * 25 / 3 + 25) / 4 / 16 / 3)
    assert found["measured"]["predicted"] == pytest.approx(right, rel=2e-3)


def test_lines_end_at_newlines_alone(loaded, tmp_path, capsys):
    """Not at what `str.splitlines` takes for the end of a line, nor does a mark begin one."""

    class Counted(Model):
        def tokenize(self, texts):
            return [[1] * len(text) for text in texts]

    lines = ['{"text": "a\u2028b"}\r\n', '{"text": "c\u0085"}\n', '{"input_ids": [1]}']
    (tmp_path / "data.jsonl").write_bytes("".join(lines).encode("utf-8-sig"))
    loaded(Counted())
    found = found_in(capsys, "here", "--data", str(tmp_path / "data.jsonl"))
    assert [each["tokens"] for each in found["lengths"]] == [1, 2, 3]


def test_a_schedule_as_long_as_the_run(file, tmp_path, capsys):
    noise = tmp_path / "noise.json"
    noise.write_text(json.dumps(neftune(alpha=linear(5.0, 0.0)).to_dict()))
    at = ["--noise", str(noise), "--step", "50"]
    halfway = found_in(capsys, file, *at, "--steps", "100")
    assert halfway == found_in(capsys, file, "--alpha", "2.5")
    for more, says in (([], "--steps, the length of the run"), (["--steps", "0"], "at least 1")):
        assert main(["inspect", str(file), *at, *more]) == 2
        assert says in capsys.readouterr().err


def test_text_is_tokenized(loaded, tmp_path, capsys):
    class Spelling(Model):
        def tokenize(self, texts):
            return [[ord(letter) - 96 for letter in text] for text in texts]

    (tmp_path / "data.jsonl").write_text(
        '{"text": "abc"}\n{"input_ids": [7, 7]}\n{"text": "x", "label": 1}\n'
    )
    loaded(Spelling())
    found = found_in(capsys, "here", "--data", str(tmp_path / "data.jsonl"))
    assert [each["tokens"] for each in found["lengths"]] == [1, 2, 3]


def test_batches_hold_every_row_with_its_padding():
    model = Model(padding_id=0, width=9, inputs=2)
    rows = [[1, 2], [3] * 9]
    batches = row_batches(model, rows)
    assert {batch.ids.shape[1] for batch in batches[0]} == {9}
    assert len(batches[0]) == 2
    ids = np.concatenate([batch[0].ids for batch in batches])
    assert np.array_equal(ids[:2], [[1, 2, 0, 0, 0, 0, 0, 0, 0], [3] * 9])
    assert np.concatenate([batch[0].mask for batch in batches]).sum() * 16 >= 400_000
    assert all(batch[0].ids.size <= 4096 for batch in batches)
    assert [len(row) for row in drawn_rows(model)] == [9, 9, 9, 8]
    with pytest.raises(ValueError, match="rows of at most 9 tokens for Model, and row 2 has 10"):
        row_batches(model, [[1], [1] * 10])


@pytest.mark.parametrize(
    ("command", "says"),
    [
        (["nothing/there"], "there is no file or folder 'nothing/there'"),
        (["{folder}/none.safetensors"], "there is no file or folder"),
        (["{folder}/broken.safetensors"], "is no .safetensors file: "),
        (["{folder}/short.safetensors"], "ends before its tensor 'wte.weight' does"),
        (["{folder}/two.safetensors"], "found 2 arrays that are called like a token embedding; "
         "pass --layer. Candidates: 'wte.weight' (50, 16), 'embed.weight' (50, 16)"),
        (["{folder}/whole.safetensors"], "'wte.weight' of '{folder}/whole.safetensors' has the "
         "dtype I8"),
        (["{file}", "--layer", "embed_tokenz"], "did you mean 'embed_tokens.weight'?"),
        (["{file}", "--alpha", "-1"], "alpha must be finite in float32 and at least 0, got -1.0"),
        (["{file}", "--alpha", "nan"], "alpha must be finite in float32 and at least 0, got nan"),
        (["{file}", "--alpha", "0"], "alpha must be above 0 at step 0, got 0.0"),
        (["{file}", "--step", "-1"], "step must be at least 0, got -1"),
        (["{file}", "--reference-rms", "0"], "reference_rms must be above 0, got 0.0"),
        (["{file}", "--step", "500", "--steps", "10"], "--step must be below --steps 10, got 500"),
        (["{file}", "--driver", "nump"], "--driver must be one of "),
        (["{file}", "--noise", "none.json"], "--noise: there is no file 'none.json'"),
        (["{file}", "--noise", "{folder}"], "--noise must be a file, and '{folder}' is a folder"),
        (["{file}", "--plot", "no/x.png"], "--plot: there is no folder 'no'"),
        (["{file}", "--noise", "{folder}/broken.json"], "broken.json does not describe a noise"),
        (["{file}", "--noise", "{folder}/n.json", "--alpha", "1"], "--alpha must be left out"),
        (["{file}", "--plot", "x.jpg"], "--plot must end in .png or .svg, got x.jpg"),
        (["{file}", "--data", "none.jsonl"], "--data: there is no file 'none.jsonl'"),
        (["{file}", "--data", "{folder}/broken.json"], "broken.json, line 1 is not JSON"),
        (["{file}", "--data", "{folder}/empty"], "empty has no lines; each must be "
         '{{"input_ids": [1, 2, 3]}} or {{"text": "..."}}'),
        (["{file}", "--data", "{folder}/list"], "list, line 1 must be "),
        (["{file}", "--data", "{folder}/float"], "float, line 1 must be "),
        (["{file}", "--data", "{folder}/no"], "no, line 2 has no token"),
        (["{file}", "--data", "{folder}/far"], "far, line 1 has the token id 50, and the embedding "
         "table has 50 rows; use the tokenizer of this model"),
        (["{file}", "--data", "{folder}/text"], "embed_tokens.weight has no tokenizer for text"),
    ],
)  # fmt: skip
def test_what_is_refused_takes_one_line(command, says, file, tmp_path, capsys):
    write(tmp_path / "two.safetensors", wte__weight=TABLE, embed__weight=TABLE)
    write(tmp_path / "whole.safetensors", wte__weight=np.ones((50, 16), np.int8))
    short = write(tmp_path / "short.safetensors", wte__weight=TABLE)
    with open(short, "rb+") as cut:
        cut.truncate(1000)
    files = {
        "broken.safetensors": "hello, hello", "broken.json": "{", "empty": "\n", "list": "[1, 2]",
        "n.json": json.dumps(neftune().to_dict()), "float": '{"input_ids": [1.5]}',
        "no": '{"input_ids": [1]}\n{"input_ids": []}', "far": '{"input_ids": [1, 50]}',
        "text": '{"text": "hello"}',
    }  # fmt: skip
    for name, content in files.items():
        (tmp_path / name).write_text(content)
    filled = [text.format(file=file, folder=tmp_path) for text in command]
    assert main(["inspect", *filled]) == 2
    seen = capsys.readouterr()
    assert says.format(folder=tmp_path) in seen.err
    assert seen.err.count("\n") == 1
    assert not seen.out


def test_a_table_cannot_be_checked(file, capsys):
    assert main(["check", file]) == 2
    assert "holds arrays and no model to call; `embnoise inspect` shows" in capsys.readouterr().err
