"""The Hugging Face Trainer: the callback, and ``attach`` around ``train()``."""

import gc
import weakref

import pytest
import torch
import transformers

from embnoise import linear, neftune
from embnoise_torch import add_noise, attach
from embnoise_torch.transformers import NoiseCallback
from tests.torch.models import batch, llama
from tests.torch.training import ROWS, At, counts, trainer


def test_the_callback_follows_the_trainer(tmp_path):
    model = llama()
    callback, seen = NoiseCallback(neftune(alpha=linear(6.0, 0.0))), []
    watch = At(lambda step: seen.append(counts(callback.handle)))
    work = trainer(tmp_path, model, callback, watch, gradient_accumulation_steps=2)
    work.train()
    assert seen == [(0, 6.0, 2), (1, 4.0, 4), (2, 2.0, 6)]
    assert counts(callback.handle) == (3, 0.0, 6)
    assert type(model.model.embed_tokens) is torch.nn.Embedding
    assert "forward" not in vars(model.model.embed_tokens)


def test_the_counts_of_a_run_do_not_keep_its_model(tmp_path):
    callback, model = NoiseCallback(neftune()), llama()
    work = trainer(tmp_path, model, callback)
    work.train()
    model = weakref.ref(model)
    del work
    gc.collect()
    assert model() is None
    assert callback.handle.lookups == 3


@pytest.mark.parametrize(("seed", "expected"), [(None, 7), (3, 3)])
def test_the_run_has_the_seed_of_the_trainer(tmp_path, seed, expected):
    """``seed=None``, the default, is the run's own."""
    callback = NoiseCallback(neftune(seed=seed))
    trainer(tmp_path, llama(), callback, seed=7).train()
    assert callback.handle.noise.seed == expected
    assert callback.noise.seed == seed


def test_data_and_dropout_are_those_of_a_run_without_noise(tmp_path):
    def run(*callbacks):
        model, seen = llama(attention_dropout=0.5), []

        def note(module, args, output):
            if module.training:
                seen.append((args[0].clone(), torch.get_rng_state()))

        model.model.embed_tokens.register_forward_hook(note)
        trainer(tmp_path, model, *callbacks).train()
        return model, seen

    (clean, left), (noisy, right) = run(), run(NoiseCallback(neftune(alpha=50.0)))
    assert len(left) == len(right) == 3
    for (ids, state), (same_ids, same_state) in zip(left, right, strict=True):
        assert torch.equal(ids, same_ids)
        assert torch.equal(state, same_state)
    assert not torch.equal(clean.lm_head.weight, noisy.lm_head.weight)


def test_attach_around_train(tmp_path):
    """The trainer makes its optimizer inside of ``train()``."""
    model = llama()
    work = trainer(tmp_path, model, gradient_accumulation_steps=2)
    noise = neftune(alpha=linear(6.0, 0.0, 3))
    with attach(model, noise, optimizer=lambda: work.optimizer) as handle:
        work.train()
        assert counts(handle) == (3, 0.0, 6)


def interrupt(work, error, step=2):
    def fail(at):
        if at == step:
            raise error

    work.add_callback(At(fail))
    with pytest.raises(type(error)):
        work.train()


@pytest.mark.parametrize(
    ("again", "error"),
    [
        ("the trainer", RuntimeError("ours")),
        ("the callback", KeyboardInterrupt()),
        ("another callback", KeyboardInterrupt()),
    ],
)
def test_a_run_takes_over_from_one_that_was_interrupted(tmp_path, error, again):
    model, callback = llama(), NoiseCallback(neftune())
    work = trainer(tmp_path, model, callback)
    interrupt(work, error)
    stale = callback.handle
    if again == "another callback":
        callback = NoiseCallback(neftune())
    if again == "the trainer":
        work.pop_callback(At)
    else:
        work = trainer(tmp_path, model, callback)
    work.train()
    assert callback.handle is not stale
    assert counts(callback.handle) == (3, 5.0, 3)
    assert counts(stale) == (1, 5.0, 2)
    assert "forward" not in vars(model.model.embed_tokens)


def test_noise_that_the_user_attached_is_not_taken_over(tmp_path):
    model = llama()
    with attach(model, neftune()) as handle:
        with pytest.raises(ValueError, match=r"noise attached to 'model.embed_tokens' already"):
            trainer(tmp_path, model, NoiseCallback(neftune())).train()
        model(batch())
        assert handle.lookups == 1


def test_a_run_inside_of_another_does_not_take_over(tmp_path):
    model = llama()

    def inner(step):
        with pytest.raises(ValueError, match="already"):
            trainer(tmp_path / "inner", model, NoiseCallback(neftune())).train()

    callback = NoiseCallback(neftune())
    trainer(tmp_path, model, callback, At(inner)).train()
    assert callback.handle.lookups == 3


@pytest.mark.filterwarnings("ignore:You are adding a")
def test_two_callbacks_for_two_embeddings(tmp_path):
    model = llama()
    model.model.other = torch.nn.Embedding(50, 16)
    model.model.norm.register_forward_hook(
        lambda module, args, output: output + model.model.other(torch.arange(8))
    )
    callbacks = [
        NoiseCallback(neftune(stream=name), layer=f"model.{name}")
        for name in ("embed_tokens", "other")
    ]
    work = trainer(tmp_path, model, *callbacks)
    work.train()
    assert [each.handle.lookups for each in callbacks] == [3, 3]


def test_beside_neftune_noise_alpha_is_an_error(tmp_path):
    """When the trainer is made, so that nothing of either noise is left behind."""
    model, callback = llama(), NoiseCallback(neftune())
    with pytest.raises(ValueError, match=r"neftune_noise_alpha must be None .* got 5\.0"):
        trainer(tmp_path, model, callback, neftune_noise_alpha=5.0)
    trainer(tmp_path, model, callback).train()
    assert callback.handle.lookups == 3


@pytest.mark.parametrize("cleared", [False, True])
def test_added_to_a_trainer_with_neftune_noise_alpha(tmp_path, cleared):
    """Transformers' hook is on by the time that this callback is asked."""
    model, callback = llama(), NoiseCallback(neftune())
    work = trainer(tmp_path, model, neftune_noise_alpha=5.0)
    work.add_callback(callback)
    if cleared:
        work.args.neftune_noise_alpha = None  # too late: the trainer has read it
    with pytest.raises(ValueError, match="Make a new Trainer without it"):
        work.train()
    assert not model.model.embed_tokens._forward_hooks
    assert not hasattr(model.model.embed_tokens, "neftune_noise_alpha")
    trainer(tmp_path, model, callback).train()
    assert callback.handle.lookups == 3


def test_data_parallel_is_refused(tmp_path):
    model = llama()
    work = trainer(tmp_path, model, NoiseCallback(neftune()))
    work.model_wrapped = torch.nn.DataParallel(model)
    with pytest.raises(ValueError, match=r"one process for each GPU.*torchrun"):
        work._inner_training_loop(args=work.args)
    assert "forward" not in vars(model.model.embed_tokens)


def test_several_gpus_in_one_process_are_refused(tmp_path, monkeypatch):
    monkeypatch.setattr(transformers.TrainingArguments, "n_gpu", 2)
    with pytest.raises(ValueError, match="got 2 GPUs in one process"):
        trainer(tmp_path, llama(), NoiseCallback(neftune()))


@pytest.mark.parametrize("placeholders", [False, True])
def test_placeholders_are_for_attach(tmp_path, placeholders):
    """By default they get no noise and do not count in L."""
    model = llama(image_token_id=7)
    rows = [{"input_ids": ids.index_fill(0, torch.tensor([2, 3]), 7)} for ids in batch(rows=12)]
    rows = [{**row, "labels": row["input_ids"]} for row in rows]
    ids, noisy, clean = first_lookup(
        tmp_path, model, NoiseCallback(neftune(), placeholders=placeholders), rows=rows
    )
    hidden = ids == model.config.image_token_id
    assert hidden.any()
    mask = torch.ones_like(ids) if placeholders else ~hidden
    assert torch.equal(noisy, add_noise(clean, neftune(seed=42), step=0, mask=mask))


@pytest.mark.parametrize(
    ("where", "popped"),
    [
        ("completion", "label_smoothing_factor"),
        ("prompt", "compute_loss_func"),
        (lambda labels: labels != -100, "label_smoothing_factor"),
        ("completion", "nothing"),
    ],
)
def test_where_knows_labels_that_the_model_does_not_get(tmp_path, where, popped):
    rows = [
        {
            "input_ids": row["input_ids"],
            "labels": row["labels"].index_fill(0, torch.arange(3), -100),
        }
        for row in ROWS
    ]
    options = {"label_smoothing_factor": 0.1} if popped == "label_smoothing_factor" else {}
    if popped == "compute_loss_func":
        options["made"] = {"compute_loss_func": lambda outputs, *_, **__: outputs.logits.mean()}
    model, callback = llama(), NoiseCallback(neftune(), where=where)
    _, noisy, clean = first_lookup(tmp_path, model, callback, rows=rows, **options)
    completion = torch.arange(8).expand(2, 8) >= 3
    wanted = ~completion if where == "prompt" else completion
    assert torch.equal(noisy, add_noise(clean, neftune(seed=42), step=0, where=wanted))


def first_lookup(tmp_path, model, callback, **options):
    """The ids of the first training lookup, and its noisy and clean embeddings."""
    clean, seen = model.model.embed_tokens.weight.detach().clone(), []
    model.model.embed_tokens.register_forward_hook(
        lambda module, args, output: seen.append((args[0], output.detach().clone()))
    )
    work = trainer(tmp_path, model, callback, **options)
    work.train()
    assert "compute_loss" not in vars(work)
    ids, noisy = seen[0]
    return ids, noisy, clean[ids]


@pytest.mark.parametrize(
    ("wrong", "kind", "message"),
    [
        ({"noise": 5.0}, TypeError, "noise must be a Noise"),
        ({"placeholders": "no"}, TypeError, "placeholders must be True or False, got 'no'"),
        ({"where": "x"}, ValueError, "where must be 'all', 'prompt', .* got 'x'"),
        ({"layer": 3}, TypeError, "layer must be a module or its name, got 3"),
        ({"tokens": 3}, TypeError, "tokens must be a callable, got 3"),
        ({"dealing": "a"}, TypeError, "dealing must be an integer, got 'a'"),
        ({"mesh": 3}, ValueError, "mesh must be a DeviceMesh that this rank is part of, got 3"),
    ],
)
def test_arguments_are_checked_at_once(wrong, kind, message):
    with pytest.raises(kind, match=message):
        NoiseCallback(**{"noise": neftune(), **wrong})


def test_noise_on_what_goes_into_every_layer(tmp_path):
    callback = NoiseCallback(neftune(), layer="model.layers.*", at="input")
    trainer(tmp_path, llama(num_hidden_layers=2), callback).train()
    assert list(callback.handle.state_dict()) == ["model.layers.0", "model.layers.1"]
    assert callback.handle.lookups == 2 * 3
    with pytest.raises(ValueError, match=r"at must be one of .* got 'inside'"):
        NoiseCallback(neftune(), at="inside")


class WithoutALookup(torch.nn.Module):
    """Takes rows of its table without a call of the embedding."""

    def __init__(self):
        super().__init__()
        self.embed = torch.nn.Embedding(50, 8)

    def forward(self, input_ids, labels=None):
        table = self.embed.weight
        return {"loss": torch.nn.functional.embedding(input_ids, table).square().mean()}


def test_a_run_without_a_lookup_is_warned_of(tmp_path):
    made = trainer(tmp_path, WithoutALookup(), NoiseCallback(neftune(5.0)))
    with pytest.warns(RuntimeWarning, match=r"\['embed'\] got no noise.*functional.embedding"):
        made.train()
