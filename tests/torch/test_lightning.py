"""Lightning: the callback for its Trainer, and ``attach`` with Fabric."""

import pytest
import torch
from torch import nn
from torch.utils.data import DataLoader

from embnoise import linear, neftune
from embnoise_torch import add_noise, attach
from tests.torch.models import batch, llama

lightning = pytest.importorskip("lightning")
from lightning.pytorch import Callback, LightningModule, Trainer  # noqa: E402
from lightning.pytorch.callbacks import GradientAccumulationScheduler  # noqa: E402

from embnoise_torch.lightning import NoiseCallback  # noqa: E402

pytestmark = [
    pytest.mark.filterwarnings("ignore::lightning.fabric.utilities.warnings.PossibleUserWarning"),
    pytest.mark.filterwarnings("ignore:.*does not have many workers"),
    pytest.mark.filterwarnings("ignore:.*:FutureWarning"),
]


class Module(LightningModule):
    """A language model in a LightningModule. It notes what is looked up, clean and noisy."""

    def __init__(self):
        super().__init__()
        self.lm = llama()
        self.seen = []
        self.lm.get_input_embeddings().register_forward_hook(self.note)

    def note(self, embedding, given, output):
        clean = nn.functional.embedding(given[0], embedding.weight)
        self.seen.append((self.trainer.state.stage.value, clean.detach(), output.detach().clone()))

    def lookups(self, stage="train"):
        return [(clean, noisy) for seen, clean, noisy in self.seen if seen == stage]

    def training_step(self, ids, index):
        return self.lm(input_ids=ids, labels=ids).loss

    def validation_step(self, ids, index):
        return self.lm(input_ids=ids, labels=ids).loss

    test_step = predict_step = validation_step

    def configure_optimizers(self):
        return torch.optim.SGD(self.parameters(), lr=0.1)


class Manual(Module):
    """Two optimizer steps for each batch, of one optimizer, or one step of each of two."""

    optimizers_made = 1

    def __init__(self):
        super().__init__()
        self.automatic_optimization = False

    def training_step(self, ids, index):
        optimizers = self.optimizers()
        for optimizer in optimizers if self.optimizers_made > 1 else [optimizers] * 2:
            optimizer.zero_grad()
            self.manual_backward(self.lm(input_ids=ids, labels=ids).loss)
            optimizer.step()

    def configure_optimizers(self):
        return [torch.optim.SGD(self.parameters(), lr=0.1) for _ in range(self.optimizers_made)]


class Loader(DataLoader):
    """It continues where it was, as Lightning wants it of a loader in mid-epoch."""

    def __init__(self):
        super().__init__(batch(rows=12), batch_size=2)
        self.at = 0

    def __iter__(self):
        first, self.at = self.at % 6, 0
        for self.at, each in enumerate(super().__iter__(), start=1):
            if self.at > first:
                yield each

    def state_dict(self):
        return {"at": self.at}

    def load_state_dict(self, state):
        self.at = state["at"]


def loader(rows=12):
    return DataLoader(batch(rows=rows), batch_size=2)


class On(Callback):
    """Does something after every batch."""

    def __init__(self, do):
        self.do = do

    def on_train_batch_end(self, trainer, module, outputs, batch, index):
        self.do(trainer, index)


def trainer(*callbacks, **options):
    options = {"max_epochs": 1, "logger": False, **options}
    return Trainer(
        accelerator="cpu", devices=1, enable_progress_bar=False, enable_model_summary=False,
        enable_checkpointing=False, callbacks=list(callbacks), **options,
    )  # fmt: skip


def check_noise(lookups, noise, steps, before=0):
    """Each lookup has the noise of its step; those of one step follow one another in it."""
    assert len(lookups) == len(steps) - before
    for number, (clean, noisy) in enumerate(lookups, start=before):
        step = steps[number]
        ids = torch.arange(2) + 2 * steps[:number].count(step)
        assert torch.equal(noisy, add_noise(clean, noise, step=step, sample_ids=ids)), number


def test_the_callback_follows_the_trainer(monkeypatch):
    """Accumulation, a schedule that ends with the run, the seed, the log; no noise elsewhere."""
    monkeypatch.setenv("PL_GLOBAL_SEED", "7")  # as by seed_everything
    module, callback, seen = Module(), NoiseCallback(neftune(alpha=linear(6.0, 0.0))), []
    look = On(lambda *_: seen.append((callback.handle.alpha, callback.handle.lookups)))
    work = trainer(callback, look, accumulate_grad_batches=2)
    work.fit(module, loader(), loader(2))
    assert seen == [(6.0, 1), (6.0, 2), (4.0, 3), (4.0, 4), (2.0, 5), (2.0, 6)]
    assert float(work.callback_metrics["noise_alpha"]) == 2.0
    assert callback.handle is None
    noise = neftune(alpha=linear(6.0, 0.0, 3), seed=7)
    check_noise(module.lookups(), noise, [0, 0, 1, 1, 2, 2])
    work.test(module, loader(2), verbose=False)
    work.predict(module, loader(2))
    for stage in ("validate", "test", "predict", "sanity_check"):
        assert module.lookups(stage), stage
        assert all(torch.equal(*lookup) for lookup in module.lookups(stage)), stage


@pytest.mark.parametrize("every", [2, 3], ids=["between steps", "in mid-accumulation"])
def test_a_run_that_is_resumed_in_mid_epoch_has_the_same_noise(tmp_path, monkeypatch, every):
    path = tmp_path / "last.ckpt"

    def run(*callbacks, **options):
        module = Module()
        callback = NoiseCallback(neftune(alpha=linear(20.0, 0.0)))
        work = trainer(callback, *callbacks, accumulate_grad_batches=2, max_epochs=2)
        work.fit(module, Loader(), **options)
        return module

    def save(trainer, index):
        if index + 1 == every and trainer.current_epoch == 0:
            trainer.save_checkpoint(path)

    monkeypatch.setenv("PL_GLOBAL_SEED", "7")
    module = run(On(save))
    monkeypatch.setenv("PL_GLOBAL_SEED", "8")  # a run keeps the seed that it began with
    resumed = run(ckpt_path=path, weights_only=False)
    steps = [step for step in range(6) for _ in range(2)]
    noise = neftune(alpha=linear(20.0, 0.0, 6), seed=7)
    check_noise(module.lookups(), noise, steps)
    check_noise(resumed.lookups(), noise, steps, before=every)
    if every == 2:  # in mid-accumulation, Lightning does not save the gradients
        for left, right in zip(module.parameters(), resumed.parameters(), strict=True):
            assert torch.equal(left, right)


def test_a_checkpoint_of_the_end_of_a_run_has_the_state_of_the_noise(tmp_path, monkeypatch):
    """That of ModelCheckpoint's ``on_train_end``, which runs after ours, and a user's own."""
    monkeypatch.setenv("PL_GLOBAL_SEED", "3")
    callback = NoiseCallback(neftune())
    work = trainer(callback)
    work.fit(Module(), loader())
    work.save_checkpoint(tmp_path / "last.ckpt")
    state = torch.load(tmp_path / "last.ckpt", weights_only=False)["callbacks"][callback.state_key]
    assert state["seed"] == 3
    assert state["handle"]["model.embed_tokens"]["lookups"] == 6
    path = tmp_path / "last.ckpt"
    work.test(Module(), loader(2), ckpt_path=path, verbose=False, weights_only=False)
    monkeypatch.setenv("PL_GLOBAL_SEED", "4")
    module = Module()
    trainer(callback).fit(module, loader())  # not resumed: from the first step on
    check_noise(module.lookups(), neftune(seed=4), list(range(6)))


def test_after_an_error_the_model_is_clean():
    module, callback = Module(), NoiseCallback(neftune())

    def fail(trainer, index):
        raise RuntimeError("ours")

    with pytest.raises(RuntimeError, match="ours"):
        trainer(callback, On(fail)).fit(module, loader())
    assert callback.handle is None
    with attach(module, neftune()):
        pass


def test_a_run_takes_over_from_one_that_did_not_end_as_it_should():
    class Worse(Callback):
        def on_train_batch_end(self, *_):
            raise RuntimeError("ours")

        def on_exception(self, *_):
            raise RuntimeError("worse")

    module, stale = Module(), NoiseCallback(neftune())
    with pytest.raises(RuntimeError, match="worse"):
        trainer(Worse(), stale).fit(module, loader())
    assert stale.handle is not None
    module.seen.clear()
    trainer(NoiseCallback(neftune())).fit(module, loader())
    check_noise(module.lookups(), neftune(), list(range(6)))
    trainer(stale).fit(module, loader(2))


def test_steps_of_manual_optimization():
    module = Manual()
    trainer(NoiseCallback(neftune(alpha=linear(6.0, 0.0, 12)))).fit(module, loader())
    check_noise(module.lookups(), neftune(alpha=linear(6.0, 0.0, 12)), list(range(12)))


def test_how_many_steps_manual_optimization_makes_is_not_known():
    with pytest.raises(ValueError, match="unbound schedule"):
        trainer(NoiseCallback(neftune(alpha=linear(6.0, 0.0)))).fit(Manual(), loader())


def test_nor_is_it_where_accumulation_changes():
    callback = NoiseCallback(neftune(alpha=linear(6.0, 0.0)))
    with pytest.raises(ValueError, match="unbound schedule"):
        trainer(callback, GradientAccumulationScheduler({0: 2})).fit(Module(), loader())


def test_of_several_optimizers_a_handle_follows_one():
    module = Manual()
    module.optimizers_made = 2
    with pytest.raises(ValueError, match=r"trainer must have one optimizer, .* got 2; .*attach"):
        trainer(NoiseCallback(neftune())).fit(module, loader())

    class Attached(Manual):
        optimizers_made = 2

        def on_fit_start(self):
            self.handle = attach(self.lm, neftune(), optimizer=self.optimizers()[0])

    module = Attached()
    trainer().fit(module, loader())
    check_noise(
        module.lookups(), neftune(), [0, *(step for n in range(1, 6) for step in (n, n)), 6]
    )


def test_two_callbacks_have_states_of_their_own():
    module = Module()
    module.other = nn.Embedding(4, 16)
    noises = [neftune(seed=1), neftune(seed=1, stream="other")]
    layers = ["lm.model.embed_tokens", "other"]
    callbacks = [NoiseCallback(n, layer=each) for n, each in zip(noises, layers, strict=True)]
    assert len({callback.state_key for callback in callbacks}) == 2
    with pytest.warns(RuntimeWarning, match=r"\['other'\] got no noise"):
        trainer(*callbacks).fit(module, loader())
    check_noise(module.lookups(), neftune(seed=1), list(range(6)))


def test_arguments_are_those_of_attach():
    module = Module()

    def mask(ids):
        return {"mask": ids > 20}

    trainer(NoiseCallback(neftune(), tokens=mask)).fit(module, loader(2))
    ((clean, noisy),) = module.lookups()
    assert torch.equal(noisy, add_noise(clean, neftune(), step=0, mask=batch(rows=2) > 20))
    with pytest.raises(TypeError, match="placeholders must be True or False"):
        NoiseCallback(neftune(), placeholders=1)
    with pytest.raises(ValueError, match="where must be 'all', 'prompt', "):
        NoiseCallback(neftune(), where="x")
    with pytest.raises(TypeError, match="noise must be a Noise"):
        NoiseCallback(5.0)


def test_the_package_under_its_other_name():
    """Its classes are others, and the callback is not of them; it is called all the same."""
    other = pytest.importorskip("pytorch_lightning")

    class Other(other.LightningModule):
        note, lookups, training_step = Module.note, Module.lookups, Module.training_step
        configure_optimizers = Module.configure_optimizers

        def __init__(self):
            super().__init__()
            self.lm, self.seen = llama(), []
            self.lm.get_input_embeddings().register_forward_hook(self.note)

    module = Other()
    other.Trainer(
        accelerator="cpu", devices=1, enable_progress_bar=False, enable_model_summary=False,
        enable_checkpointing=False, logger=False, max_epochs=1,
        callbacks=[NoiseCallback(neftune(alpha=linear(6.0, 0.0), seed=1))],
    ).fit(module, loader())  # fmt: skip
    check_noise(module.lookups(), neftune(alpha=linear(6.0, 0.0, 6), seed=1), list(range(6)))


def fabric_run(path, resumed=False, steps=6):
    fabric = lightning.Fabric(accelerator="cpu", devices=1)
    model = llama()
    model, optimizer = fabric.setup(model, torch.optim.SGD(model.parameters(), lr=0.1))
    seen = []
    with attach(model, neftune(alpha=linear(6.0, 0.0, 6)), optimizer=optimizer) as handle:
        state = {"model": model, "optimizer": optimizer, "noise": handle}
        if resumed:
            fabric.load(path, state)
        for ids in batch(rows=12).view(6, 2, -1)[handle.step : steps]:
            fabric.backward(model(input_ids=ids, labels=ids).loss)
            seen.append(handle.state_dict())
            optimizer.step()
            optimizer.zero_grad()
        fabric.save(path, state)
    return seen, list(model.parameters())


def test_attach_with_fabric(tmp_path):
    """Its wrappers are known, and a handle is saved with a checkpoint like a model."""
    seen, whole = fabric_run(tmp_path / "whole")
    assert [state["model.embed_tokens"]["step"] for state in seen] == list(range(6))
    fabric_run(tmp_path / "part", steps=3)
    seen, resumed = fabric_run(tmp_path / "part", resumed=True)
    assert [state["model.embed_tokens"]["step"] for state in seen] == [3, 4, 5]
    assert all(map(torch.equal, whole, resumed))


class Spawned(Module):
    """Checks in its own process what a rank saw."""

    def on_train_end(self):
        noise = neftune(alpha=linear(6.0, 0.0, 3), seed=5)
        for step, (clean, noisy) in enumerate(self.lookups()):
            ids = torch.arange(self.global_rank, 4, 2)
            assert torch.equal(noisy, add_noise(clean, noise, step=step, sample_ids=ids)), step
        assert step == 2


@pytest.mark.sweep
def test_two_ranks_of_the_trainer():
    """``DistributedSampler`` deals them the rows of a batch in turn."""
    callback = NoiseCallback(neftune(alpha=linear(6.0, 0.0), seed=5))
    work = Trainer(
        accelerator="cpu", devices=2, strategy="ddp_spawn", enable_progress_bar=False, max_epochs=1,
        enable_model_summary=False, enable_checkpointing=False, logger=False, callbacks=[callback],
    )  # fmt: skip
    work.fit(Spawned(), loader())


class Method(nn.Module):
    """Its ``training_step`` is called through DDP, which Fabric has replace its ``forward``."""

    def __init__(self):
        super().__init__()
        self.lm = llama()

    def forward(self, ids):
        raise AssertionError("not called")

    def training_step(self, ids):
        return self.lm(input_ids=ids, labels=ids, attention_mask=(ids > 10).long()).loss


def _train_method(fabric):
    inner, seen = Method(), []
    inner.lm.get_input_embeddings().register_forward_hook(
        lambda embed, given, output: seen.append((given[0], output.detach().clone()))
    )
    model, optimizer = fabric.setup(inner, torch.optim.SGD(inner.parameters(), lr=0.0))
    model.mark_forward_method("training_step")
    with attach(model, neftune(), optimizer=optimizer):
        for ids in batch(rows=6).view(3, 2, -1):
            fabric.backward(model.training_step(ids))
            optimizer.step()
            optimizer.zero_grad()
    rank, world = fabric.global_rank, fabric.world_size
    for step, (ids, noisy) in enumerate(seen):
        clean = nn.functional.embedding(ids, inner.lm.get_input_embeddings().weight)
        samples = torch.arange(rank, 2 * world, world)
        expected = add_noise(clean, neftune(), step=step, sample_ids=samples, mask=ids > 10)
        assert torch.equal(noisy, expected), step
    assert step == 2


def test_methods_that_fabric_marks():
    lightning.Fabric(accelerator="cpu", devices=1).launch(_train_method)


@pytest.mark.sweep
def test_two_ranks_of_fabric():
    lightning.Fabric(accelerator="cpu", devices=2, strategy="ddp_spawn").launch(_train_method)


class WithoutALookup(Module):
    def training_step(self, ids, index):
        table = self.lm.get_input_embeddings().weight
        return nn.functional.embedding(ids, table).square().mean()


def test_a_batch_without_a_lookup_is_warned_of():
    made = trainer(NoiseCallback(neftune(5.0)), max_epochs=1)
    with pytest.warns(RuntimeWarning, match="got no noise"):
        made.fit(WithoutALookup(), loader())
