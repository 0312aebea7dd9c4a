"""Tunix's training hooks, in a loop that calls them as its ``PeftTrainer`` does."""

import abc
import sys
import types
from importlib import import_module

import jax.numpy as jnp
import pytest
from flax import nnx

from embnoise import neftune
from embnoise_jax import add_noise
from embnoise_jax.nnx import attach
from tests.frameworks import installed

# A minimal double of tunix/sft/hooks.py of google-tunix 0.1.7.
EVENTS = (
    *("train_start", "train_end", "train_step_start", "train_step_end"),
    *("eval_step_start", "eval_step_end"),
)
TrainingHooks = abc.ABCMeta(
    "TrainingHooks",
    (),
    {f"on_{each}": abc.abstractmethod(lambda *_: None) for each in EVENTS},
)


@pytest.fixture
def tunix(monkeypatch):
    if not installed("tunix"):
        for name in ("tunix", "tunix.sft", "tunix.sft.hooks"):
            monkeypatch.setitem(sys.modules, name, types.ModuleType(name))
        sys.modules["tunix.sft.hooks"].TrainingHooks = TrainingHooks
    monkeypatch.delitem(sys.modules, "embnoise_jax.tunix", raising=False)
    return import_module("embnoise_jax.tunix")


class Embedder(nnx.Module):
    """As Tunix's and Gemma's: it cannot be called."""

    def __init__(self):
        self.table = nnx.Param(jnp.zeros((10, 8)))

    def encode(self, x):
        return self.table[x]

    def decode(self, x):
        return x @ self.table[...].T


class Model(nnx.Module):
    def __init__(self):
        self.embedder = Embedder()

    def __call__(self, ids):
        return self.embedder.encode(ids)


IDS = jnp.array([[1, 2, 3, 4], [5, 6, 0, 0]])
NOISE = neftune(seed=3)


def trained(hooks, model, partial, *, done=0):
    """What two steps of two micro-batches see, and the evaluation before and after each."""
    context = types.SimpleNamespace(train_steps=done)
    call = partial(nnx.jit(lambda model, ids: model(ids)), model)
    train, evaluation = [], []

    def evaluate():
        for _ in range(2):
            hooks.on_eval_step_start(context)
            evaluation.append(call(IDS))
        hooks.on_eval_step_end(context, 0.0)

    evaluate()
    hooks.on_train_start(context)
    for _ in range(2):
        for _ in range(2):
            hooks.on_train_step_start(context)
            train.append(call(IDS))
            hooks.on_train_step_end(context, 0, 0.0)
        context.train_steps += 1
        evaluate()
    hooks.on_train_end(context)
    return train, evaluation


def traced_each_time(function, model):
    return lambda ids: function(model, ids)


@pytest.mark.parametrize("done", [0, 5])
def test_steps_and_evaluation(tunix, done):
    model = Model()
    handle = attach(
        model, NOISE, layer="embedder", tokens=lambda ids: {"mask": ids != 0}, calls_per_step=2
    )
    hooks = tunix.NoiseHooks(handle)
    train, evaluation = trained(hooks, model, traced_each_time, done=done)
    for number, noisy in enumerate(train):
        samples = jnp.arange(2) + number % 2 * 2
        step = done + number // 2
        zero = jnp.zeros((2, 4, 8))
        expected = add_noise(zero, NOISE, step=step, sample_ids=samples, mask=IDS != 0)
        assert jnp.array_equal(noisy, expected), number
    assert not jnp.stack(evaluation).any()
    assert (handle.step, handle.lookups) == (done + 2, 4)
    assert model(IDS).any(), "the pause of the last evaluation has ended"


def test_evaluation_that_cannot_be_paused_is_an_error(tunix):
    model = Model()
    hooks = tunix.NoiseHooks(attach(model, NOISE, layer="embedder"))
    with pytest.raises(ValueError, match=r"cache_nnx_graph must be False .*cache_nnx_graph=False"):
        trained(hooks, model, nnx.cached_partial)
