"""Minimal doubles of packages that embnoise plugs into, which are too large to test with.

Each follows the published interface of the version that it names, as far as the plug-in and its
test use it. Where the package itself is installed, the test runs against that.
"""

import dataclasses
import enum
import sys
import types

import pytest
from torch import nn

from tests.frameworks import installed


def use(package, monkeypatch, *, always=False):
    """Have ``import`` find the double of a package that is not installed, or always."""
    if always or not installed(package):
        for name, attributes in DOUBLES[package].items():
            module = types.ModuleType(name)
            vars(module).update(attributes)
            monkeypatch.setitem(sys.modules, name, module)
    # What imports it is imported anew, and forgotten after the test.
    monkeypatch.delitem(sys.modules, f"embnoise_torch.{package}", raising=False)


# axolotl 0.21: axolotl/integrations/base.py


class BasePlugin:
    def get_input_args(self):
        return None

    def add_callbacks_pre_trainer(self, cfg, model):
        return []


# Composer 0.32: composer/core, composer/trainer/trainer.py


class Event(enum.Enum):
    INIT = "init"
    FIT_START = "fit_start"
    BATCH_START = "batch_start"
    BATCH_END = "batch_end"
    FIT_END = "fit_end"


class TimeUnit(enum.Enum):
    EPOCH = "ep"
    BATCH = "ba"
    TOKEN = "tok"  # noqa: S105


class Algorithm:
    def match(self, event, state):
        raise NotImplementedError

    def apply(self, event, state, logger):
        raise NotImplementedError


class InMemoryLogger:
    def __init__(self):
        self.data = {}

    def log_metrics(self, metrics):
        for name, value in metrics.items():
            self.data.setdefault(name, []).append((None, value))


class State(types.SimpleNamespace):
    """Unlike its base, it can be referred to weakly."""


def time(value, unit):
    return types.SimpleNamespace(value=value, unit=unit)


class ComposerTrainer:
    """Its loop: the events around the batches, which it cuts into micro-batches."""

    def __init__(
        self, *, model, algorithms, optimizers, train_dataloader, max_duration, seed, loggers,
        device_train_microbatch_size, **_,
    ):  # fmt: skip
        number = max_duration.rstrip("abcdefghijklmnopqrstuvwxyz")
        unit = TimeUnit(max_duration.removeprefix(number))
        self.state = State(
            model=model, algorithms=algorithms, rank_zero_seed=seed,
            max_duration=time(int(number), unit),
            dataloader_len=time(len(train_dataloader), TimeUnit.BATCH),
            timestamp=types.SimpleNamespace(batch=time(0, TimeUnit.BATCH)),
        )  # fmt: skip
        self.optimizer, self.loader, self.logger = optimizers, train_dataloader, loggers[0]
        self.size = device_train_microbatch_size
        self.run(Event.INIT)

    def run(self, event):
        for algorithm in self.state.algorithms:
            if algorithm.match(event, self.state):
                algorithm.apply(event, self.state, self.logger)

    def fit(self):
        state, duration = self.state, self.state.max_duration
        self.run(Event.FIT_START)
        epochs = duration.value if duration.unit is TimeUnit.EPOCH else 1
        for _ in range(epochs):
            for batch in self.loader:
                self.run(Event.BATCH_START)
                for part in batch.split(self.size):
                    state.model.loss(state.model(part), part).backward()
                self.optimizer.step()
                self.optimizer.zero_grad()
                state.timestamp.batch = time(state.timestamp.batch.value + 1, TimeUnit.BATCH)
                self.run(Event.BATCH_END)
        self.run(Event.FIT_END)

    def close(self):
        pass


# torchtitan 0.3: torchtitan/config/override.py, torchtitan/trainer.py


def derive(source, target, **deltas):
    shared = {field.name: getattr(source, field.name) for field in dataclasses.fields(source)}
    return target(**shared, **deltas)


class TitanTrainer:
    """Its loop, which counts steps from 1."""

    @dataclasses.dataclass(kw_only=True, slots=True)
    class Config:
        training: object
        debug: object
        model: object
        batches: list
        tp: int = 1

    def __init__(self, config):
        self.config, self.model_parts, self.step = config, [config.model], 0
        self.parallel_dims = types.SimpleNamespace(
            tp=config.tp, cp=1, pp=1, tp_enabled=config.tp > 1, cp_enabled=False, pp_enabled=False
        )

    def train(self):
        batches = iter(self.config.batches)
        while self.step < self.config.training.steps:
            self.step += 1
            self.train_step(batches)

    def train_step(self, data_iterator):
        inputs = dict(next(data_iterator))
        self.model_parts[0](inputs.pop("input"), **inputs)

    def close(self):
        pass


DOUBLES = {
    "axolotl": {
        "axolotl": {}, "axolotl.integrations": {},
        "axolotl.integrations.base": {"BasePlugin": BasePlugin},
    },
    "torchtitan": {
        "torchtitan": {}, "torchtitan.config": {"derive": derive},
        "torchtitan.trainer": {"Trainer": TitanTrainer},
    },
    "swift": {"swift": {}, "swift.callbacks": {"callbacks_map": {}}},
    "composer": {
        "composer": {"Trainer": ComposerTrainer},
        "composer.core": {
            "Algorithm": Algorithm, "Event": Event, "State": object, "TimeUnit": TimeUnit
        },
        "composer.loggers": {"Logger": InMemoryLogger, "InMemoryLogger": InMemoryLogger},
        "composer.models": {"ComposerModel": nn.Module},
    },
}  # fmt: skip


@pytest.fixture
def axolotl(monkeypatch):
    use("axolotl", monkeypatch)


@pytest.fixture
def swift(monkeypatch):
    use("swift", monkeypatch)


@pytest.fixture
def composer(monkeypatch):
    use("composer", monkeypatch)


@pytest.fixture
def torchtitan(monkeypatch):
    """Always the double: the trainer itself needs a GPU."""
    use("torchtitan", monkeypatch, always=True)
