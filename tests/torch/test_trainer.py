"""The Hugging Face Trainer: the callback, and ``attach`` around ``train()``."""

import pytest
import torch
import transformers

from embnoise import linear, neftune
from embnoise_torch import add_noise, attach
from embnoise_torch.transformers import NoiseCallback
from tests.torch.models import batch, llama

ROWS = [{"input_ids": ids, "labels": ids} for ids in batch(rows=12)]


class Watch(transformers.TrainerCallback):
    """Notes every step of the noise that a NoiseCallback attached."""

    def __init__(self, callback):
        self.callback = callback
        self.seen = []

    def on_step_end(self, args, state, control, **kwargs):
        handle = self.callback.handle
        self.seen.append((handle.step, handle.alpha, handle.lookups))


def trainer(tmp_path, model, *callbacks, **options):
    arguments = transformers.TrainingArguments(
        output_dir=str(tmp_path), per_device_train_batch_size=2, report_to=[], max_steps=3,
        disable_tqdm=True, logging_steps=1, save_strategy="no", use_cpu=True,
        dataloader_pin_memory=False, lr_scheduler_type="constant", **options,
    )  # fmt: skip
    return transformers.Trainer(model, arguments, train_dataset=ROWS, callbacks=list(callbacks))


def test_the_callback_follows_the_trainer(tmp_path):
    model = llama()
    callback = NoiseCallback(neftune(alpha=linear(6.0, 0.0)))
    watch = Watch(callback)
    work = trainer(tmp_path, model, callback, watch, gradient_accumulation_steps=2)
    work.train()
    assert watch.seen == [(0, 6.0, 2), (1, 4.0, 4), (2, 2.0, 6)]
    assert callback.handle is None
    assert type(model.model.embed_tokens) is torch.nn.Embedding
    logged = [entry["noise_alpha"] for entry in work.state.log_history if "loss" in entry]
    assert logged == [6.0, 4.0, 2.0]


@pytest.mark.parametrize(("seed", "expected"), [(None, 7), (3, 3)])
def test_the_run_has_the_seed_of_the_trainer(tmp_path, seed, expected):
    """``seed=None``, the default, is the run's own."""
    seeds = []

    class Look(transformers.TrainerCallback):
        def on_step_end(self, args, state, control, **kwargs):
            seeds.append(callback.handle.noise.seed)

    callback = NoiseCallback(neftune(seed=seed))
    trainer(tmp_path, llama(), callback, Look(), seed=7).train()
    assert set(seeds) == {expected}
    assert callback.noise.seed == seed


def test_a_resumed_run_ends_with_the_same_weights(tmp_path):
    def run(name, **options):
        model = llama()
        callback = NoiseCallback(neftune(alpha=linear(20.0, 0.0)))
        work = trainer(tmp_path / name, model, callback, **options)
        return model, work

    whole, work = run("whole")
    work.train()
    _, work = run("parts")
    work.args.save_strategy, work.args.save_steps = "steps", 2
    work.add_callback(StopAfter(2))
    work.train()
    resumed, work = run("parts")
    work.train(resume_from_checkpoint=str(tmp_path / "parts" / "checkpoint-2"))
    for left, right in zip(whole.parameters(), resumed.parameters(), strict=True):
        assert torch.equal(left, right)


class StopAfter(transformers.TrainerCallback):
    def __init__(self, step):
        self.step = step

    def on_step_end(self, args, state, control, **kwargs):
        if state.global_step == self.step:
            control.should_save = control.should_training_stop = True


def test_attach_around_train(tmp_path):
    model = llama()
    work = trainer(tmp_path, model)
    work.create_optimizer()
    noise = neftune(alpha=linear(6.0, 0.0, 3))
    with attach(model, noise, optimizer=work.optimizer) as handle:
        work.train()
        assert (handle.step, handle.lookups, handle.alpha) == (3, 3, 0.0)


def test_an_error_in_one_run_does_not_double_the_noise_of_the_next(tmp_path):
    model, callback = llama(), NoiseCallback(neftune())

    class Fail(transformers.TrainerCallback):
        def on_step_end(self, args, state, control, **kwargs):
            raise RuntimeError("ours")

    with pytest.raises(RuntimeError, match="ours"):
        trainer(tmp_path, model, callback, Fail()).train()
    watch = Watch(callback)
    trainer(tmp_path, model, callback, watch).train()
    assert [lookups for _, _, lookups in watch.seen] == [1, 2, 3]


def test_beside_neftune_noise_alpha_is_an_error(tmp_path):
    work = trainer(tmp_path, llama(), NoiseCallback(neftune()), neftune_noise_alpha=5.0)
    with pytest.raises(ValueError, match=r"neftune_noise_alpha must be None .* got 5\.0"):
        work.train()


@pytest.mark.parametrize("placeholders", [False, True])
def test_placeholders_are_for_attach(tmp_path, placeholders):
    """By default they get no noise and do not count in L."""
    model = llama(image_token_id=7)
    rows = [{"input_ids": ids.index_fill(0, torch.tensor([2, 3]), 7)} for ids in batch(rows=12)]
    rows = [{**row, "labels": row["input_ids"]} for row in rows]
    clean, seen = model.model.embed_tokens.weight.detach().clone(), []

    class Look(transformers.TrainerCallback):
        def on_train_begin(self, args, state, control, **kwargs):
            def note(module, given, output):
                seen.append((given[0], output.detach().clone()))

            model.model.embed_tokens.register_forward_hook(note)

    callback = NoiseCallback(neftune(), placeholders=placeholders)
    work = trainer(tmp_path, model, callback, Look())
    work.train_dataset = rows
    work.train()
    ids, noisy = seen[0]
    hidden = ids == model.config.image_token_id
    assert hidden.any()
    mask = torch.ones_like(ids) if placeholders else ~hidden
    expected = add_noise(clean[ids], neftune(seed=42), step=0, mask=mask)
    assert torch.equal(noisy, expected)


def test_placeholders_are_a_bool():
    with pytest.raises(TypeError, match="placeholders must be True or False, got 'no'"):
        NoiseCallback(neftune(), placeholders="no")
