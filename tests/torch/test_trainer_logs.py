"""What the callback adds to the logs of the Trainer."""

import contextlib
from typing import ClassVar

import pytest
import torch
import transformers
from torch import nn
from transformers.integrations import integration_utils

from embnoise import Noise, linear, neftune
from embnoise_torch import add_noise, attach
from embnoise_torch.transformers import NoiseCallback
from tests.torch.models import Embedder, batch, llama, t5
from tests.torch.training import ROWS, At, trainer


class Writer:
    """A TensorBoard writer that notes its scalars."""

    scalars: ClassVar[list[tuple[str, float, int]]] = []

    def add_scalar(self, *scalar):
        self.scalars.append(scalar)

    def add_text(self, *text):
        pass

    def flush(self):
        pass

    def close(self):
        pass


class Board(integration_utils.TensorBoardCallback):
    """That of transformers, without TensorBoard."""

    def __init__(self):
        self.tb_writer, self._SummaryWriter, self.logging_dir = Writer(), None, None


@pytest.mark.parametrize("late", [False, True])
def test_reporters_see_the_noise(tmp_path, monkeypatch, late):
    """The trainer calls those of ``report_to`` before the callbacks that it is given."""
    monkeypatch.setattr(Writer, "scalars", [])
    monkeypatch.setitem(integration_utils.INTEGRATION_TO_CALLBACK, "board", Board)
    callback = NoiseCallback(neftune(alpha=linear(6.0, 0.0)))
    work = trainer(tmp_path, llama(), *([] if late else [callback]), report_to=["board"])
    if late:
        work.add_callback(callback)
    work.train()
    seen = {(name, step): value for name, value, step in Writer.scalars}
    assert [seen["train/noise_alpha", step] for step in (1, 2, 3)] == [6.0, 4.0, 2.0]
    history = [entry for entry in work.state.log_history if "loss" in entry]
    assert [entry["noise_alpha"] for entry in history] == [6.0, 4.0, 2.0]
    ratios = [entry["noise_ratio"] for entry in history]
    assert ratios == [seen["train/noise_ratio", step] for step in (1, 2, 3)]
    assert ratios[0] > ratios[1] > ratios[2] > 0


def test_several_callbacks_have_names_of_their_own(tmp_path):
    hidden = Noise(0.5, scale="absolute", stream="hidden")
    callbacks = (
        NoiseCallback(neftune(alpha=5.0)),
        NoiseCallback(hidden, layer="model.layers.0", at="input"),
    )
    work = trainer(tmp_path, llama(), *callbacks)
    work.train()
    first, *_ = work.state.log_history
    assert (first["noise_alpha"], first["noise_alpha_hidden"]) == (5.0, 0.5)
    assert first["noise_ratio"] > 0  # there is none of hidden states


def test_other_logs_say_nothing_of_noise(tmp_path):
    callback = NoiseCallback(neftune())
    work = trainer(
        tmp_path, llama(), callback,
        eval_strategy="steps", eval_steps=1, made={"eval_dataset": ROWS[:2]},
    )  # fmt: skip
    work.train()
    work.evaluate()
    others = [entry for entry in work.state.log_history if "loss" not in entry]
    assert len(others) == 5
    assert not any("noise" in name for entry in others for name in entry)


def test_the_ratio_is_that_of_the_tokens_with_noise():
    model, ids = Embedder(), batch(rows=3)
    mask = torch.ones_like(ids)
    mask[:, 5:] = 0
    with attach(model, neftune(alpha=7.0), tokens=lambda: {"mask": mask}) as handle:
        assert handle.noise_ratios() == {"embed": None}
        noisy = model(ids).detach()
        clean = nn.functional.embedding(ids, model.embed.weight).detach()
        expected = (noisy - clean)[:, :5].norm() / clean[:, :5].norm()
        (ratio,) = handle.noise_ratios().values()
        assert ratio == pytest.approx(float(expected), rel=1e-5)
        handle.step = 1  # as it is after the optimizer's step
        assert handle.noise_ratios() == {"embed": ratio}
        assert handle.lookups == 1
        assert model.embed.training
    assert handle.noise_ratios() == {}


def test_the_ratio_in_lower_precision_and_compiled():
    model, ids = Embedder().bfloat16(), batch(rows=3)
    clean = nn.functional.embedding(ids, model.embed.weight).detach().float()
    exact = add_noise(clean, neftune(), step=0) - clean
    with attach(model, neftune()) as handle:
        torch.compile(model, backend="eager")(ids)
        assert handle.noise_ratios()["embed"] == pytest.approx(float(exact.norm() / clean.norm()))


def test_measuring_changes_no_row():
    model = Embedder()
    model.embed = nn.Embedding(50, 8, max_norm=0.5)
    with attach(model, neftune()) as handle:
        model(batch())
        with torch.no_grad():
            model.embed.weight.mul_(3)
        rows = model.embed.weight.clone()
        assert handle.noise_ratios()["embed"] > 0
        assert torch.equal(model.embed.weight, rows)


def test_measuring_draws_no_random_number():
    class Noisy(nn.Embedding):
        def forward(self, ids):
            return nn.functional.dropout(super().forward(ids), 0.5, self.training)

    model = Embedder()
    model.embed = Noisy(50, 8)
    with attach(model, neftune()) as handle:
        model(batch())
        state = torch.get_rng_state()
        assert handle.noise_ratios()["embed"] > 0
        assert torch.equal(torch.get_rng_state(), state)
        assert model.embed.training


def test_a_table_that_is_elsewhere_is_not_measured():
    model = Embedder()
    with attach(model, neftune()) as handle:
        model(batch())
        whole = model.embed.weight.data
        model.embed.weight.data = torch.empty(0)  # as ZeRO 3 leaves it
        assert handle.noise_ratios() == {"embed": None}
        model.embed.weight.data = whole
        assert handle.noise_ratios()["embed"] > 0


def test_every_embedding_has_a_ratio(tmp_path):
    rows = [{**row, "labels": row["labels"][:4]} for row in ROWS]
    work = trainer(tmp_path, t5(), NoiseCallback(neftune()), rows=rows)
    work.train()
    names = [name for name in work.state.log_history[0] if "ratio" in name]
    assert names == ["noise_ratio_decoder.embed_tokens", "noise_ratio_encoder.embed_tokens"]


def test_alpha_zero_has_no_ratio(tmp_path):
    work = trainer(tmp_path, llama(), NoiseCallback(neftune(alpha=0.0)))
    work.train()
    assert work.state.log_history[0]["noise_alpha"] == 0.0
    assert "noise_ratio" not in work.state.log_history[0]


def test_a_step_without_noise_has_no_ratio(tmp_path):
    callback, pause = NoiseCallback(neftune()), contextlib.ExitStack()

    class Pauses(transformers.TrainerCallback):
        def on_step_begin(self, args, state, control, **kwargs):
            if state.global_step == 1:
                pause.enter_context(callback.handle.paused())

        def on_step_end(self, args, state, control, **kwargs):
            pause.close()

    work = trainer(tmp_path, llama(), callback, Pauses())
    work.train()
    history = [entry for entry in work.state.log_history if "loss" in entry]
    assert ["noise_ratio" in entry for entry in history] == [True, False, True]


def test_logging_does_not_change_the_run(tmp_path):
    def run(every):
        model, ends = llama(attention_dropout=0.3), []
        watch = At(lambda step: ends.append(torch.get_rng_state()))
        trainer(tmp_path, model, NoiseCallback(neftune()), watch, logging_steps=every).train()
        return [*model.parameters(), *ends]

    assert all(map(torch.equal, run(1), run(10)))


def test_the_callback_is_no_reporter(tmp_path):
    """A trainer that is not found, as in a test of the callback alone, costs the place in front."""
    callback, model = NoiseCallback(neftune()), llama()
    args = transformers.TrainingArguments(output_dir=str(tmp_path), report_to=[], use_cpu=True)
    state, control = transformers.TrainerState(max_steps=3), transformers.TrainerControl()
    callback.on_train_begin(args, state, control, model=model)
    model(batch())
    logs = {"loss": 1.0}
    callback.on_log(args, state, control, logs=logs)
    callback.on_train_end(args, state, control)
    assert logs["noise_alpha"] == 5.0
    assert callback.handle.lookups == 1
