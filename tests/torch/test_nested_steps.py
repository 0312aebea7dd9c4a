"""Steps that are made inside of steps: of a parent class, or of a part of an optimizer."""

import pytest
import torch
from torch import nn
from torch.optim import SGD, AdamW, Optimizer

from embnoise import linear, neftune
from embnoise_torch import _compat, attach
from tests.frameworks import EAGER_OR_COMPILED
from tests.torch.models import Embedder
from tests.torch.test_optimizer import train

NOISE = neftune(alpha=linear(9.0, 0.0, 9))


class Own(AdamW):
    def step(self, closure=None):
        return super().step(closure)


class OwnAgain(Own):
    def step(self, closure=None):
        return super().step(closure)


class Failing(Own):
    fails = False

    def step(self, closure=None):
        result = super().step(closure)
        if self.fails:
            raise RuntimeError("out of memory")
        return result


class Composite(Optimizer):
    """Steps one optimizer for a part of its parameters and another one for the rest."""

    def __init__(self, parameters):
        parameters = list(parameters)
        super().__init__(parameters, {})
        self.parts = SGD(parameters[:1], lr=0.1), Own(parameters[1:], lr=0.1)

    def step(self, closure=None):
        for part in self.parts:
            part.step()


class Wrapper(Optimizer):
    """Steps the optimizer that it holds as often as it is told to."""

    def __init__(self, optimizer):
        super().__init__(optimizer.param_groups, {})
        self.optimizer, self.times = optimizer, 1

    def step(self, closure=None):
        for _ in range(self.times):
            self.optimizer.step()


@pytest.fixture(autouse=True)
def _all_classes_are_hooked():
    for kind in (AdamW, Own, OwnAgain, Failing):  # PyTorch hooks a class with its first instance
        kind([nn.Parameter(torch.zeros(1))])


def model_with_head():
    model = Embedder()
    model.head = nn.Linear(8, 8)
    return model


@pytest.mark.parametrize("kind", [AdamW, Own, OwnAgain, Composite])
@pytest.mark.parametrize("given", ["an optimizer", "a function"])
@pytest.mark.parametrize("compiled", EAGER_OR_COMPILED)
def test_a_step_of_several_classes_counts_once(kind, given, compiled):
    torch.compiler.reset()
    model = model_with_head()
    optimizer = kind(model.parameters())
    passed = optimizer if given == "an optimizer" else lambda: optimizer
    with attach(model, NOISE, optimizer=passed) as handle:
        if compiled:
            optimizer.step = torch.compile(optimizer.step, backend="eager")
        for step in range(4):
            assert handle.step == step
            train(model, optimizer)


def test_a_compiled_step_of_several_classes_counts_once():
    test_a_step_of_several_classes_counts_once(OwnAgain, "a function", compiled=True)


def test_a_step_that_failed_leaves_nothing_behind():
    model = Embedder()
    optimizer = Failing(model.parameters())
    with attach(model, NOISE, optimizer=optimizer) as handle:
        optimizer.fails = True
        for _ in range(2):
            with pytest.raises(RuntimeError, match="out of memory"):
                train(model, optimizer)
        optimizer.fails = False
        train(model, optimizer)
        assert handle.step == 1


def test_a_wrapper_counts_the_steps_of_what_it_holds():
    model = Embedder()
    optimizer = Wrapper(SGD(model.parameters(), lr=0.1))
    with attach(model, NOISE, optimizer=optimizer) as handle:
        for times, step in ((1, 1), (0, 1), (0, 1), (1, 2)):  # 0 while gradients accumulate
            optimizer.times = times
            train(model, optimizer)
            assert handle.step == step
        optimizer.times = 2
        with pytest.warns(RuntimeWarning, match="a training step ran and"):
            train(model, optimizer)
        assert handle.step == 4


def test_another_optimizer_is_warned_of_at_its_second_step():
    model = Embedder()
    followed, other = SGD(model.parameters(), lr=0.1), OwnAgain(model.parameters())
    with attach(model, NOISE, optimizer=followed):
        train(model, other)
        with pytest.warns(RuntimeWarning, match="OwnAgain made two steps"):
            train(model, other)


def test_the_steps_that_are_running():
    """PyTorch's function around a step is private."""
    parameter = nn.Parameter(torch.zeros(1))
    optimizer, seen = OwnAgain([parameter]), []
    optimizer.register_step_post_hook(lambda *_: seen.append(list(_compat.stepping())))
    optimizer.step()
    assert [len(each) for each in seen] == [3, 2, 1]
    assert all(each is optimizer for steps in seen for each in steps)
    assert not list(_compat.stepping())
