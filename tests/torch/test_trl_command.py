"""``embnoise trl``: TRL's command line with noise, in one process and in two."""

import json
import tomllib
from importlib.metadata import EntryPoint, EntryPoints
from pathlib import Path

import pytest

from embnoise import _cli, linear, neftune
from tests.torch.models import llama

pytest.importorskip("trl")
ROOT = Path(__file__).parent.parent.parent
WORDS = ["<pad>", "<s>", "</s>", "<unk>", *(f"w{number}" for number in range(46))]


@pytest.fixture(autouse=True)
def _installed(monkeypatch):
    """The entry points of pyproject.toml, whatever has been installed."""
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    commands = project["entry-points"]["embnoise.commands"]
    entries = [EntryPoint(name, value, "embnoise.commands") for name, value in commands.items()]
    monkeypatch.setattr(_cli, "entry_points", lambda group: EntryPoints(entries))


@pytest.fixture
def _here(tmp_path, monkeypatch):
    """A folder with a model, its tokenizer, data, and noise.json."""
    import tokenizers  # noqa: PLC0415, may be missing
    import transformers  # noqa: PLC0415

    words = tokenizers.models.WordLevel(dict(zip(WORDS, range(50), strict=True)), "<unk>")
    tokenizer = tokenizers.Tokenizer(words)
    tokenizer.pre_tokenizer = tokenizers.pre_tokenizers.Whitespace()
    names = {"pad_token": "<pad>", "bos_token": "<s>", "eos_token": "</s>", "unk_token": "<unk>"}
    transformers.PreTrainedTokenizerFast(tokenizer_object=tokenizer, **names).save_pretrained(
        tmp_path / "model"
    )
    llama().save_pretrained(tmp_path / "model")
    (tmp_path / "data").mkdir()
    rows = [{"text": " ".join(f"w{row * 5 + i}" for i in range(3 + row))} for row in range(8)]
    (tmp_path / "data" / "train.jsonl").write_text("\n".join(map(json.dumps, rows)))
    noise = neftune(alpha=linear(6.0, 0.0))
    (tmp_path / "noise.json").write_text(json.dumps(noise.to_dict()))
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("HF_HOME", str(tmp_path / "cache"))
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    monkeypatch.setenv("OMP_NUM_THREADS", "1")


def run(*more):
    """Two steps of TRL's script; returns what was logged of the noise, and its state."""
    code = _cli.main([
        "trl", "sft", "--model_name_or_path", "model", "--noise", "noise.json",
        "--dataset_name", "data", "--output_dir", "out", "--max_steps", "2", "--save_steps", "2",
        "--per_device_train_batch_size", "2", "--logging_steps", "1", "--report_to", "none",
        "--use_cpu", "--bf16", "false", *more,
    ])  # fmt: skip
    assert code == 0
    state = json.loads(Path("out/checkpoint-2/trainer_state.json").read_text())
    return [entry["noise_alpha"] for entry in state["log_history"]]


@pytest.mark.usefixtures("_here")
@pytest.mark.filterwarnings("ignore:.gradient_checkpointing. is deprecated:FutureWarning")
@pytest.mark.parametrize(
    "more",
    [
        ("--num_processes", "1"),
        pytest.param(("--num_processes", "2", "--multi_gpu"), marks=pytest.mark.sweep),
    ],
)
def test_the_script_of_trl_runs_with_noise(more):
    assert run(*more, "--noise_where", "completion") == [6.0, 3.0]


@pytest.mark.parametrize(
    ("command", "says"),
    [
        ((), "the first argument must be one of distillation, dpo, grpo, kto, reward, rloo, sft, "),
        (("env", "--noise", "noise.json"), "got env"),
        (("sft",), "--noise must name a JSON file that describes the noise, got none"),
        (("sft", "--noise", "none.json"), "there is no file 'none.json'"),
        (("sft", "--noise", "bad.json"), "bad.json does not describe a noise: Expecting value"),
        (("sft", "--noise", "odd.json"), "odd.json does not describe a noise: alpha must be "),
    ],
)
def test_what_is_wrong_is_one_line(command, says, tmp_path, monkeypatch, capsys):
    (tmp_path / "bad.json").write_text("alpha: 5")
    (tmp_path / "odd.json").write_text(json.dumps({"embnoise": 1, "alpha": -1.0}))
    monkeypatch.chdir(tmp_path)
    assert _cli.main(["trl", *command]) == 2
    (line,) = capsys.readouterr().err.splitlines()
    assert line.startswith("embnoise trl: ")
    assert says in line


def test_help_is_ours_and_that_of_trl(capsys):
    with pytest.raises(SystemExit) as ended:
        _cli.main(["trl", "sft", "--help"])
    assert ended.value.code == 0
    text = capsys.readouterr().out
    assert "--noise FILE" in text
    assert "--dataset_name" in text
