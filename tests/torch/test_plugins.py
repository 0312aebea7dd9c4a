"""Plug-ins for axolotl, ms-swift, Composer and torchtitan."""

import json
import types
from importlib import import_module

import pydantic
import pytest
import torch
from torch import nn
from torch.utils.data import DataLoader

from embnoise import linear, neftune
from embnoise_torch import add_noise
from embnoise_torch.transformers import NoiseCallback
from tests.torch.doubles import axolotl, composer, swift, torchtitan  # noqa: F401, fixtures
from tests.torch.models import VOCABULARY, batch, llama
from tests.torch.training import trainer

NOISE = neftune(alpha=linear(6.0, 0.0))


def logged(tmp_path, callback):
    """What a Trainer with a callback logs of the noise."""
    work = trainer(tmp_path, llama(), callback)
    work.train()
    return [entry["noise_alpha"] for entry in work.state.log_history if "loss" in entry]


def axolotl_callbacks(settings):
    """What axolotl gets of the plug-in that its YAML file names, for these settings."""
    module, _, name = "embnoise_torch.axolotl.NoisePlugin".rpartition(".")
    plugin = getattr(import_module(module), name)()
    module, _, name = plugin.get_input_args().rpartition(".")
    arguments = getattr(import_module(module), name)

    class Config(pydantic.BaseModel):
        base_model: str

    merged = type("Merged", (Config, arguments), {})(base_model="llama", **settings)
    given = merged.model_dump(exclude_none=True)
    return plugin.add_callbacks_pre_trainer(pydantic_to_attributes(given), llama())


def pydantic_to_attributes(given):
    return type("DictDefault", (dict,), {"__getattr__": dict.get})(given)


@pytest.mark.usefixtures("axolotl")
@pytest.mark.parametrize("in_file", [False, True])
def test_axolotl(tmp_path, in_file):
    noise = NOISE.to_dict()
    del noise["embnoise"]  # which a file has, and a YAML file need not repeat
    if in_file:
        (tmp_path / "noise.json").write_text(json.dumps(NOISE.to_dict()))
        noise = str(tmp_path / "noise.json")
    (callback,) = axolotl_callbacks({"embnoise": {"noise": noise, "where": "completion"}})
    assert isinstance(callback, NoiseCallback)
    assert (callback.noise, callback.where, callback.layer) == (NOISE, "completion", None)
    assert logged(tmp_path, callback) == [6.0, 4.0, 2.0]


@pytest.mark.usefixtures("axolotl")
@pytest.mark.parametrize(
    ("settings", "says"),
    [
        ({}, "embnoise\n  Field required"),
        ({"embnoise": {"noise": {"alpha": -1}}}, "alpha must be .* at least 0, got -1"),
        (
            {"embnoise": {"noise": {"alpha": [1]}}},
            r"alpha must be a number, a schedule or a function of the step, got \[1\]",
        ),
        ({"embnoise": {"noise": {"alhpa": 1}}}, "did you mean 'alpha'"),
        ({"embnoise": {"noise": "no.json"}}, "there is no file 'no.json'"),
        ({"embnoise": {"noise": {"alpha": 5}, "wher": "all"}}, "wher\n  Extra inputs"),
    ],
)
def test_what_is_wrong_in_axolotls_file(settings, says):
    with pytest.raises(pydantic.ValidationError, match=says):
        axolotl_callbacks(settings)


@pytest.mark.usefixtures("swift")
def test_swift(tmp_path):
    plugin = tmp_path / "noise_plugin.py"
    plugin.write_text(
        "from embnoise import linear, neftune\n"
        "from embnoise_torch.swift import register\n"
        "register(neftune(alpha=linear(6.0, 0.0)), where='prompt')\n"
    )
    exec(compile(plugin.read_text(), str(plugin), "exec"), {})  # noqa: S102, ours
    made = import_module("swift.callbacks").callbacks_map["embnoise"]
    first, second = made("arguments", "trainer"), made("arguments", "trainer")
    assert first is not second
    assert (first.noise, first.where) == (NOISE, "prompt")
    assert logged(tmp_path, second) == [6.0, 4.0, 2.0]
    with pytest.raises(TypeError, match="noise must be a Noise"):
        import_module("embnoise_torch.swift").register(5.0)


class Composed:
    """A model for Composer's Trainer, which notes what is looked up, and the Trainer's options."""

    def __init__(self, *algorithms, duration="2ep"):
        class Model(import_module("composer.models").ComposerModel):
            def forward(self, ids):
                return self.lm(input_ids=ids, labels=ids)

            def loss(self, outputs, batch):
                return outputs.loss

            def eval_forward(self, batch, outputs=None):
                return self(batch)

            def update_metric(self, batch, outputs, metric):
                pass

        self.model, self.seen = Model(), []
        self.model.lm = llama()
        self.model.lm.get_input_embeddings().register_forward_hook(self.note)
        self.log = import_module("composer.loggers").InMemoryLogger()
        self.options = {
            "algorithms": list(algorithms), "max_duration": duration, "seed": 11,
            "train_dataloader": DataLoader(batch(rows=12), batch_size=4), "device": "cpu",
            "device_train_microbatch_size": 2, "progress_bar": False, "loggers": [self.log],
        }  # fmt: skip

    def note(self, embedding, given, output):
        clean = nn.functional.embedding(given[0], embedding.weight)
        self.seen.append((clean.detach(), output.detach().clone()))

    def fit(self):
        optimizer = torch.optim.SGD(self.model.parameters(), lr=0.1)
        made = import_module("composer").Trainer(
            model=self.model, optimizers=optimizer, **self.options
        )
        try:
            made.fit()
        finally:
            made.close()


@pytest.mark.usefixtures("composer")
@pytest.mark.parametrize(("duration", "batches"), [("2ep", 6), ("3ba", 3)])
def test_composer(duration, batches):
    algorithm = import_module("embnoise_torch.composer").NoiseAlgorithm(NOISE)
    run = Composed(algorithm, duration=duration)
    run.fit()
    noise = neftune(alpha=linear(6.0, 0.0, batches), seed=11)
    assert len(run.seen) == 2 * batches
    for number, (clean, noisy) in enumerate(run.seen):
        ids = torch.arange(2) + number % 2 * 2
        assert torch.equal(noisy, add_noise(clean, noise, step=number // 2, sample_ids=ids))
    alphas = [alpha for _, alpha in run.log.data["noise_alpha"]]
    assert alphas == [noise.alpha_at(step) for step in range(batches)]
    assert algorithm.handle is None


@pytest.mark.usefixtures("composer")
def test_composer_without_a_lookup():
    run = Composed(import_module("embnoise_torch.composer").NoiseAlgorithm(neftune(5.0)))
    forward, embedding = run.model.lm.forward, run.model.lm.get_input_embeddings()
    run.model.lm.forward = lambda input_ids, labels: forward(
        inputs_embeds=nn.functional.embedding(input_ids, embedding.weight), labels=labels
    )
    with pytest.warns(RuntimeWarning, match="got no noise"):
        run.fit()


@pytest.mark.usefixtures("composer")
def test_composer_does_not_say_how_many_batches():
    algorithm = import_module("embnoise_torch.composer").NoiseAlgorithm(NOISE)
    with pytest.raises(ValueError, match="unbound schedule"):
        Composed(algorithm, duration="96tok").fit()


@pytest.mark.usefixtures("composer")
def test_composer_after_an_error():
    """No event tells of one; the next run of the model takes over."""
    made = import_module("embnoise_torch.composer").NoiseAlgorithm
    stale = made(neftune())
    run = Composed(stale)
    run.model.loss = lambda *_: 1 / 0
    with pytest.raises(ZeroDivisionError):
        run.fit()
    assert stale.handle is not None
    run.seen.clear()
    del run.model.loss
    run.options["algorithms"] = [made(neftune())]
    run.fit()
    clean, noisy = run.seen[0]
    assert torch.equal(noisy, add_noise(clean, neftune(seed=11), step=0))


class Decoder(nn.Module):
    """As torchtitan calls its own."""

    def __init__(self):
        super().__init__()
        self.tok_embeddings = nn.Embedding(VOCABULARY, 8)
        self.seen = []

    def forward(self, tokens, positions=None, attention_masks=None):
        clean = nn.functional.embedding(tokens, self.tok_embeddings.weight)
        self.seen.append((clean.detach(), self.tok_embeddings(tokens).detach()))


def titan(tmp_path, batches, **settings):
    """torchtitan's trainer with the noise of a file."""
    path = tmp_path / "noise.json"
    path.write_text(json.dumps(NOISE.to_dict()))
    trainer = import_module("torchtitan.trainer").Trainer
    config = trainer.Config(
        training=types.SimpleNamespace(steps=3), debug=types.SimpleNamespace(seed=4),
        model=Decoder(), batches=batches, **settings,
    )  # fmt: skip
    plugin = import_module("embnoise_torch.torchtitan")
    return plugin.NoiseTrainer(plugin.with_noise(config, str(path)))


@pytest.mark.usefixtures("torchtitan")
@pytest.mark.parametrize("loaded", [0, 1])
def test_torchtitan(tmp_path, loaded):
    """Documents by their positions; a run that was resumed; clean at the end."""
    positions = torch.tensor([[0, 1, 2, 3, 0, 1, 2, 3], [5, 6, 7, 0, 1, 2, 3, 4]])
    documents = torch.tensor([[1, 1, 1, 1, 2, 2, 2, 2], [1, 1, 1, 2, 2, 2, 2, 2]])
    trainer = titan(tmp_path, [{"input": batch(), "positions": positions}] * 3)
    trainer.step = loaded  # as a checkpoint has it
    trainer.train()
    noise = neftune(alpha=linear(6.0, 0.0, 3), seed=4)
    (model,) = trainer.model_parts
    assert len(model.seen) == 3 - loaded
    for step, (clean, noisy) in enumerate(model.seen, start=loaded):
        assert torch.equal(noisy, add_noise(clean, noise, step=step, segment_ids=documents))
    trainer.close()
    model(batch())
    assert torch.equal(*model.seen[-1])


@pytest.mark.usefixtures("torchtitan")
def test_torchtitan_without_positions(tmp_path):
    trainer = titan(tmp_path, [{"input": batch()}] * 3)
    trainer.train()
    (clean, noisy), *_ = trainer.model_parts[0].seen
    assert torch.equal(noisy, add_noise(clean, neftune(6.0, seed=4), step=0))


@pytest.mark.usefixtures("torchtitan")
def test_torchtitan_without_a_lookup(tmp_path):
    trainer = titan(tmp_path, [{"input": batch()}] * 3)
    trainer.model_parts[0].tok_embeddings.eval()
    with pytest.warns(RuntimeWarning, match="got no noise"):
        trainer.train()


@pytest.mark.usefixtures("torchtitan")
def test_torchtitan_with_another_parallelism(tmp_path):
    with pytest.raises(ValueError, match=r"must be data parallelism alone .* tp=2, cp=1, pp=1"):
        titan(tmp_path, [], tp=2)
