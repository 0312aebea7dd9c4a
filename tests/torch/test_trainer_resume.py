"""A run that the Trainer resumes from a checkpoint has the noise of one that never stopped."""

import json

import pytest
import torch
import transformers

from embnoise import linear, neftune
from embnoise_torch.transformers import NoiseCallback
from tests.torch.models import VOCABULARY, llama
from tests.torch.training import StopAfter, counts, trainer

NOISE = neftune(alpha=linear(20.0, 0.0))

OPTIONS = {
    "plain": {},
    "accumulated": {"gradient_accumulation_steps": 3},
    "bf16": {"bf16": True},
    "checkpointing": {"activation_checkpointing": True},
    "padding-free": {"collator": transformers.DataCollatorWithFlattening()},
    "all": {
        "gradient_accumulation_steps": 2, "bf16": True, "activation_checkpointing": True,
        "collator": transformers.DataCollatorWithFlattening(),
    },
}  # fmt: skip


def rows():
    generator = torch.Generator().manual_seed(3)
    lengths = torch.randint(3, 9, (24,), generator=generator).tolist()
    draws = [torch.randint(3, VOCABULARY, (n,), generator=generator).tolist() for n in lengths]
    return [{"input_ids": ids, "labels": ids} for ids in draws]


def run(folder, *callbacks, resume=None, collator=None, callback=None, **options):
    """One run; returns the weights, the counts and the losses."""
    model = llama(attention_dropout=0.2)
    callback = callback or NoiseCallback(NOISE)
    work = trainer(
        folder, model, callback, *callbacks, rows=rows(), max_steps=5,
        made={"data_collator": collator or padded}, **options,
    )  # fmt: skip
    work.train(resume_from_checkpoint=resume)
    return work, callback, list(model.parameters())


def padded(features):
    width = max(len(each["input_ids"]) for each in features)
    rows = [[each["input_ids"], width - len(each["input_ids"])] for each in features]
    return {
        "input_ids": torch.tensor([ids + [0] * rest for ids, rest in rows]),
        "labels": torch.tensor([ids + [-100] * rest for ids, rest in rows]),
        "attention_mask": torch.tensor([[1] * len(ids) + [0] * rest for ids, rest in rows]),
    }


@pytest.mark.parametrize(
    "name",
    [
        pytest.param(name, marks=[] if name in ("accumulated", "all") else pytest.mark.sweep)
        for name in OPTIONS
    ],
)
def test_a_resumed_run_ends_with_the_same_weights(tmp_path, name):
    options = OPTIONS[name]
    whole, callback, weights = run(tmp_path / "whole", **options)
    run(tmp_path / "parts", StopAfter(2), **options)
    checkpoint = str(tmp_path / "parts" / "checkpoint-2")
    parts, resumed, same = run(tmp_path / "parts", resume=checkpoint, **options)
    assert all(map(torch.equal, weights, same))
    assert counts(resumed.handle) == counts(callback.handle)
    assert counts(callback.handle)[2] == 5 * options.get("gradient_accumulation_steps", 1)
    left, right = ([e for e in work.state.log_history if "loss" in e] for work in (whole, parts))
    assert left == right


def test_the_checkpoint_contains_the_counters(tmp_path):
    run(tmp_path, StopAfter(2), gradient_accumulation_steps=2)
    with open(tmp_path / "checkpoint-2" / "trainer_state.json", encoding="utf-8") as file:
        saved = json.load(file)["stateful_callbacks"]["NoiseCallback"]
    assert saved["counters"] == {
        "model.embed_tokens": {"step": 1, "calls": 2, "samples": 4, "lookups": 4}
    }
    assert saved["args"]["noise"] == NOISE.to_dict()


def test_a_step_that_is_repeated_is_counted_once(tmp_path):
    """A checkpoint that is saved between two micro-batches repeats the step from its beginning."""

    class SaveWithin(transformers.TrainerCallback):
        def on_substep_end(self, args, state, control, **kwargs):
            if state.global_step == 2:
                work._save_checkpoint(work.model, trial=None)
                raise KeyboardInterrupt

    model = llama()
    work = trainer(
        tmp_path, model, NoiseCallback(NOISE), SaveWithin(), gradient_accumulation_steps=2
    )
    with pytest.raises(KeyboardInterrupt):
        work.train()
    callback = NoiseCallback(NOISE)
    work = trainer(tmp_path, llama(), callback, gradient_accumulation_steps=2)
    work.train(resume_from_checkpoint=str(tmp_path / "checkpoint-2"))
    assert counts(callback.handle) == (3, 0.0, 6)


def test_a_checkpoint_without_the_callback_can_be_resumed_and_saved(tmp_path):
    trainer(tmp_path, llama(), StopAfter(2)).train()
    callback = NoiseCallback(NOISE)
    work = trainer(tmp_path, llama(), callback, save_strategy="steps", save_steps=1)
    work.train(resume_from_checkpoint=str(tmp_path / "checkpoint-2"))
    assert counts(callback.handle) == (3, 0.0, 1)
    assert (tmp_path / "checkpoint-3" / "trainer_state.json").exists()


def test_a_new_run_begins_its_counts_anew(tmp_path):
    callback, model = NoiseCallback(NOISE), llama()
    work = trainer(tmp_path, model, callback)
    work.train()
    work.train()
    assert counts(callback.handle) == (3, 0.0, 3)


@pytest.mark.filterwarnings("ignore:You are adding a")
def test_two_callbacks_find_their_own_counters(tmp_path):
    def nothing_told():
        return {}

    def make():
        model = llama()
        model.model.other = torch.nn.Embedding(50, 16)
        model.model.norm.register_forward_hook(
            lambda module, args, output: output + model.model.other(torch.arange(8)[:5])[:1]
        )
        names = {"model.embed_tokens": {}, "model.other": {"tokens": nothing_told}}
        callbacks = [
            NoiseCallback(neftune(stream=name), layer=name, **more) for name, more in names.items()
        ]
        return model, callbacks

    options = {"save_strategy": "steps", "save_steps": 1, "gradient_accumulation_steps": 2}
    model, callbacks = make()
    trainer(tmp_path, model, *callbacks, StopAfter(2), **options).train()
    model, callbacks = make()
    work = trainer(tmp_path, model, *callbacks, **options)
    work.train(resume_from_checkpoint=str(tmp_path / "checkpoint-2"))
    assert [counts(each.handle) for each in callbacks] == [(3, 5.0, 6)] * 2


def test_a_callback_that_the_trainer_makes_anew(tmp_path):
    """``restore_callback_states_from_checkpoint`` replaces it by one with the saved arguments."""
    noise = neftune(alpha=linear(9.0, 0.0), seed=4)
    run(tmp_path, StopAfter(2), callback=NoiseCallback(noise, where="completion"))
    work, given, _ = run(
        tmp_path, resume=str(tmp_path / "checkpoint-2"),
        restore_callback_states_from_checkpoint=True,
    )  # fmt: skip
    (callback,) = (
        each for each in work.callback_handler.callbacks if isinstance(each, NoiseCallback)
    )
    assert callback is not given
    assert given.handle is None
    assert (callback.noise, callback.where) == (noise, "completion")
    assert counts(callback.handle) == (5, 0.0, 5)


@pytest.mark.parametrize(
    ("made", "message"),
    [
        ({"tokens": lambda ids: {"mask": ids != 0}}, "tokens must be a callable, got '<function"),
        ({"where": lambda ids: ids != 7}, "where must be 'all', .* got '<function"),
    ],
)
def test_a_function_cannot_be_made_anew(tmp_path, made, message):
    run(tmp_path, StopAfter(2), callback=NoiseCallback(NOISE, **made))
    with pytest.raises((TypeError, ValueError), match=message):
        run(
            tmp_path, resume=str(tmp_path / "checkpoint-2"),
            restore_callback_states_from_checkpoint=True,
        )  # fmt: skip


def test_a_schedule_of_ones_own_can_be_saved(tmp_path):
    _, callback, _ = run(tmp_path, StopAfter(2), callback=NoiseCallback(neftune(lambda step: 5.0)))
    assert "lambda" in callback.state()["args"]["noise"]
    _, callback, _ = run(
        tmp_path, callback=NoiseCallback(neftune(lambda step: 5.0)),
        resume=str(tmp_path / "checkpoint-2"),
    )  # fmt: skip
    assert callback.handle.lookups == 5


def test_a_batch_size_that_did_not_fit(tmp_path):
    """``auto_find_batch_size`` begins the run again, with the same callback and half the batch."""
    failed = []

    class OutOfMemory(transformers.TrainerCallback):
        def on_substep_end(self, args, state, control, **kwargs):
            if state.global_step == 1 and not failed:
                failed.append(counts(callback.handle))
                raise RuntimeError("CUDA out of memory.")

    callback = NoiseCallback(NOISE)
    run(
        tmp_path, OutOfMemory(), callback=callback, auto_find_batch_size=True,
        per_device_train_batch_size=4, gradient_accumulation_steps=2,
    )  # fmt: skip
    assert failed[0][::2] == (1, 3)
    assert counts(callback.handle) == (5, 0.0, 10)
