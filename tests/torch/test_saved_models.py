"""``embnoise check FOLDER``: models of transformers from disk, whole ones and broken ones."""

import inspect
import itertools
import json

import pytest
import torch

from embnoise import Noise
from embnoise._cli import main
from embnoise.testing import check_model
from tests.torch.models import MODELS

transformers = pytest.importorskip("transformers")


@pytest.fixture
def llama(tmp_path):
    MODELS["llama"]().save_pretrained(tmp_path / "llama")
    return tmp_path / "llama"


@pytest.mark.parametrize("name", ["llama", "gemma3", "bert"])
def test_a_model_with_one_input_holds(name, tmp_path, capsys):
    MODELS[name]().save_pretrained(tmp_path / name)
    files = {file.name: file.read_bytes() for file in (tmp_path / name).iterdir()}
    capsys.readouterr()
    assert main(["check", str(tmp_path / name)]) == 0
    seen = capsys.readouterr()
    assert "lengths_padded_left      passed       rows of 12, 7, 3 tokens: L = 12, 7, 3" in seen.out
    assert "documents of 4, 8, 3, 4, 5 tokens: L = 4, 8, 3, 4, 5" in seen.out
    assert "holds: 13 passed" in seen.out
    assert not seen.err
    assert {file.name: file.read_bytes() for file in (tmp_path / name).iterdir()} == files


@pytest.mark.parametrize("name", ["t5", "bart"])
def test_both_inputs_of_an_encoder_decoder_are_checked(name, tmp_path):
    MODELS[name]().save_pretrained(tmp_path)
    messages = {each.name: each.message for each in check_model(tmp_path).results}
    assert messages["noised_once"] == "2 lookups per forward, each with noise"
    assert messages["lengths_padded_right"] == (
        "encoder: rows of 12, 7, 3 tokens: L = 12, 7, 3; "
        "decoder: rows of 2, 9, 5 tokens: L = 2, 9, 5"
    )


@pytest.mark.parametrize(
    ("noise", "says"),
    [
        (Noise(2.0, "gaussian", seed=5), "rows of 12, 7, 3 tokens: L = 12, 7, 3"),
        (Noise(2.0, "rademacher", length="padded"), "rows of 12, 7, 3 tokens: L = 12, 12, 12"),
        (Noise(0.1, scale="absolute"), "rows of 12, 7, 3 tokens: the claimed size, without L"),
        (Noise(0.1, "gaussian", scale="relative", match="rms"), "the claimed size, without L"),
    ],
)
def test_the_noise_may_be_another(noise, says, llama):
    report = check_model(llama, noise)
    assert says in report.results[2].message


def test_as_json_with_options(llama, capsys):
    capsys.readouterr()
    options = [
        "--alpha",
        "3",
        "--scale",
        "per_token",
        "--seed",
        "4",
        "--layer",
        "model.embed_tokens",
    ]
    assert main(["check", str(llama), "--json", *options]) == 0
    found = json.loads(capsys.readouterr().out)
    assert found["ok"]
    assert (found["model"], found["embedding"]) == ("LlamaForCausalLM", "model.embed_tokens")
    assert found["noise"] == str(Noise(3.0, scale="per_token", seed=4))
    assert [each["code"] for each in found["results"]] == [f"MD{n:02}" for n in range(1, 14)]


def forward(change):
    """A forward of Llama whose arguments are changed before the model in it sees them."""
    whole = transformers.LlamaForCausalLM.forward

    def broken(self, input_ids=None, attention_mask=None, position_ids=None, **kwargs):
        call = {"input_ids": input_ids, "attention_mask": attention_mask,
                "position_ids": position_ids, **kwargs}  # fmt: skip
        return whole(self, **{**call, **change(self, input_ids, attention_mask)})

    broken.__signature__ = inspect.signature(whole)
    return broken


def all_ones(model, ids, mask):
    return {"attention_mask": None if mask is None else torch.ones_like(mask)}


def turned_round(model, ids, mask):
    return {"attention_mask": None if mask is None else mask.flip(1)}


def transposed_if_square(model, ids, mask):
    square = mask is not None and mask.shape[0] == mask.shape[1]
    return {"attention_mask": mask.T.contiguous() if square else mask}


def documents_forgotten(model, ids, mask):
    if mask is not None:
        return {}
    return {"position_ids": torch.arange(ids.shape[1]).expand(ids.shape)}


def looked_up_twice(model, ids, mask):
    embed = model.get_input_embeddings()
    return {"input_ids": None, "inputs_embeds": (embed(ids) + embed(ids)) / 2}


def looked_up_elsewhere(model, ids, mask):
    table = model.get_input_embeddings().weight
    return {"input_ids": None, "inputs_embeds": torch.nn.functional.embedding(ids, table)}


def always_training(model, ids, mask):
    model.get_input_embeddings().train()
    return {}


def does_not_run(model, ids, mask):
    raise ArithmeticError("of its own")


@pytest.mark.parametrize(
    ("change", "caught", "says"),
    [
        (all_ones, {"MD03", "MD04", "MD05", "MD07"},
         "padding on the right: 7 real tokens in row 1, of width 12, get the noise "
         "of L = 12, 0.764 times as much as they should. Likely: L is the row's width"),
        (turned_round, {"MD02", "MD03", "MD04", "MD05", "MD07"}, "real tokens get no noise"),
        (transposed_if_square, {"MD05", "MD07"}, "the mask is read as [L, B]"),
        (documents_forgotten, {"MD06"},
         "4 tokens of a document in row 0, of width 12, get the noise of L = 12"),
        (looked_up_twice, {"MD02"}, "looks the same tokens up 2 times"),
        (looked_up_elsewhere, {"MD01"}, "no embedding with noise looks up the ids of input 1 of 1"),
        (always_training, {"MD08"}, "in evaluation mode the embeddings are other ones"),
        (does_not_run, {"MD01"}, "the model raised ArithmeticError: of its own"),
    ],
)  # fmt: skip
def test_a_broken_model_is_found(change, caught, says, llama, monkeypatch, capsys):
    monkeypatch.setattr(transformers.LlamaForCausalLM, "forward", forward(change))
    report = check_model(llama, raises=False)
    wrong = {each.code: each.message for each in report.results if each.wrong}
    assert caught <= set(wrong)
    assert any(says in message for message in wrong.values()), wrong
    assert main(["check", str(llama)]) == 1
    assert says in capsys.readouterr().out
    with pytest.raises(ExceptionGroup, match=r"llama: "):
        check_model(llama)


def test_noise_that_is_added_twice_is_found(llama, monkeypatch):
    from embnoise_torch.tracing import custom_op  # noqa: PLC0415

    add_ = custom_op.add_

    def twice(*arguments):
        add_(*arguments)
        add_(*arguments)

    monkeypatch.setattr(custom_op, "add_", twice)
    report = check_model(llama, raises=False)
    (wrong,) = [each for each in report.results if each.wrong]
    assert wrong.code == "MD02"
    assert "the noise of every sequence is 2 times as large" in wrong.message


def test_noise_that_is_saved_is_found(llama, monkeypatch):
    from embnoise_torch import saved_model  # noqa: PLC0415

    attach, numbers = saved_model.attach, itertools.count()

    def attach_and_keep(model, noise, **options):
        model.register_buffer(f"noise_{next(numbers)}", torch.tensor(noise.alpha))
        return attach(model, noise, **options)

    monkeypatch.setattr(saved_model, "attach", attach_and_keep)
    (wrong,) = [each for each in check_model(llama, raises=False).results if each.wrong]
    assert wrong.code == "MD12"
    assert "would be saved: noise_" in wrong.message


def test_statistics_of_the_model_are_its_own(llama, monkeypatch):
    def counting(model, ids, mask):
        model.register_buffer("calls", getattr(model, "calls", torch.tensor(0)) + model.training)
        return {}

    monkeypatch.setattr(transformers.LlamaForCausalLM, "forward", forward(counting))
    assert check_model(llama).ok


def test_a_model_with_noise_of_its_own_is_found(llama, monkeypatch):
    lookup = torch.nn.Embedding.forward

    def noisy(self, ids):
        return lookup(self, ids) + torch.rand(()) * self.training

    monkeypatch.setattr(torch.nn.Embedding, "forward", noisy)
    (wrong,) = check_model(llama, raises=False).results
    assert "two training calls look up different embeddings" in wrong.message


def test_what_a_model_does_not_take_is_not_claimed(llama, monkeypatch):
    model = transformers.LlamaForCausalLM

    def plain(self, input_ids):
        return self.lm_head(self.model(input_ids=input_ids).last_hidden_state)

    monkeypatch.setattr(model, "forward", plain)
    report = check_model(llama)
    skipped = {each.code for each in report.results if each.status == "not_claimed"}
    assert skipped == {"MD03", "MD04", "MD05", "MD06", "MD07"}
    assert "takes no attention_mask: padding counts as tokens" in report.table()


def test_a_class_that_is_not_in_transformers_is_loaded_as_its_type(llama):
    config = json.loads((llama / "config.json").read_text())
    config["architectures"] = ["LlamaOfMine"]
    (llama / "config.json").write_text(json.dumps(config))
    report = check_model(llama)
    assert (report.model, report.embedding) == ("LlamaModel", "embed_tokens")


def test_a_length_is_typed_as_a_number(llama, capsys):
    assert main(["check", str(llama), "--length", "7"]) == 0
    assert "length=7" in capsys.readouterr().out


def folder(tmp_path, **config):
    (tmp_path / "config.json").write_text(json.dumps(config))
    return str(tmp_path)


@pytest.mark.parametrize(
    ("config", "says"),
    [
        ({}, "no model found in"),
        ({"model_type": "lama"}, "is a model of type 'lama', which transformers "),
        ({"model_type": "llama"}, "cannot be loaded: "),
    ],
)
def test_a_folder_without_a_model_says_so_in_one_line(config, says, tmp_path, capsys):
    assert main(["check", folder(tmp_path, **config)]) == 2
    seen = capsys.readouterr()
    assert says in seen.err
    assert seen.err.count("\n") == 1
    assert not seen.out


def test_transformers_may_be_missing(tmp_path, capsys, monkeypatch):
    import sys  # noqa: PLC0415

    monkeypatch.setitem(sys.modules, "transformers", None)
    assert main(["check", folder(tmp_path, model_type="llama")]) == 2
    assert 'which is not installed: pip install "embnoise[transformers]"' in capsys.readouterr().err


@pytest.mark.parametrize(
    ("options", "says"),
    [
        (["--layer", "embed"], "or a pattern that matches some, got 'embed'; names like it:"),
        (["--alpha", "0"], "alpha must be above 0"),
        (["--scale", "neftun"], "did you mean 'neftune'?"),
        (["--seeded", "global"], "--seeded is for layers"),
        (["--driver", "numpy"], "--driver must be one of"),
    ],
)
def test_wrong_options_are_one_line(options, says, llama, capsys):
    capsys.readouterr()
    assert main(["check", str(llama), *options]) == 2
    seen = capsys.readouterr()
    assert says in seen.err
    assert seen.err.count("\n") == 1
