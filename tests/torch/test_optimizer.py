"""The steps of an optimizer, whoever makes it and whenever."""

import pytest
import torch
from torch import nn
from torch.optim import SGD, AdamW

from embnoise import linear, neftune
from embnoise_torch import attach
from tests.torch.models import Embedder, batch

NOISE = neftune(alpha=linear(9.0, 0.0, 9))


def train(model, optimizer):
    model(batch()).square().mean().backward()
    optimizer.step()
    optimizer.zero_grad()


@pytest.mark.parametrize("kind", [SGD, AdamW])
def test_an_optimizer_that_is_made_later(kind):
    model, made = Embedder(), {}
    with attach(model, NOISE, optimizer=lambda: made.get("optimizer")) as handle:
        made["optimizer"] = kind(model.parameters(), lr=0.1)
        for step in range(3):
            assert (handle.step, handle.alpha) == (step, 9.0 - step)
            train(model, made["optimizer"])
        made["optimizer"] = kind(model.parameters(), lr=0.1)  # as a second train() does
        train(model, made["optimizer"])
        assert (handle.step, handle.lookups) == (4, 4)
    train(model, made["optimizer"])
    assert handle.step == 4


def test_it_may_be_made_between_a_lookup_and_the_first_step():
    model, made = Embedder(), {}
    with attach(model, NOISE, optimizer=lambda: made.get("optimizer")) as handle:
        loss = model(batch()).square().mean()
        made["optimizer"] = SGD(model.parameters(), lr=0.1)
        loss.backward()
        made["optimizer"].step()
        assert handle.step == 1


def test_steps_of_other_optimizers_do_not_count():
    model, other = Embedder(), nn.Linear(2, 2)
    ours, theirs = (SGD(each.parameters(), lr=0.1) for each in (model, other))
    with attach(model, NOISE, optimizer=lambda: ours) as handle:
        model(batch())
        theirs.step()
        theirs.step()
        assert handle.step == 0


def test_a_step_that_cannot_be_counted_warns():
    model = Embedder()
    optimizer = SGD(model.parameters(), lr=0.1)
    with attach(model, NOISE, optimizer=lambda: None) as handle:
        with pytest.warns(RuntimeWarning, match=r"SGD made a step while .* returned None"):
            train(model, optimizer)
        train(model, optimizer)  # once is enough
        assert handle.step == 0


def test_accelerate_wraps_optimizers():
    from accelerate import Accelerator  # noqa: PLC0415, only this test needs it

    model = Embedder()
    wrapped = Accelerator(cpu=True).prepare(SGD(model.parameters(), lr=0.1))
    for optimizer in (wrapped, lambda: wrapped):
        with attach(model, NOISE, optimizer=optimizer) as handle:
            train(model, wrapped)
            assert handle.step == 1


def test_a_step_without_noise_is_noticed():
    model = Embedder()
    optimizer = SGD(model.parameters(), lr=0.1)
    with (
        attach(model, NOISE, optimizer=lambda: optimizer),
        pytest.warns(RuntimeWarning, match="got no noise"),
    ):
        optimizer.step()


@pytest.mark.parametrize("wrong", ["adam", 3, nn.Linear(2, 2), object()])
def test_something_else_is_an_error(wrong):
    model = Embedder()
    with pytest.raises(TypeError, match=r"optimizer must be a torch\.optim\.Optimizer, a DeepSp"):
        attach(model, NOISE, optimizer=wrong)
    assert "forward" not in vars(model.embed)
    optimizer = SGD(model.parameters(), lr=0.1)
    with (
        attach(model, NOISE, optimizer=lambda: wrong),
        pytest.raises(TypeError, match=r"optimizer must return a torch\.optim\.Optimizer"),
    ):
        train(model, optimizer)


class Made:
    """Callable without arguments, like a function, but what it returns is new each time."""


@pytest.mark.parametrize("wrong", [SGD, Made, lambda trainer: trainer.optimizer])
def test_a_class_or_a_function_with_parameters_is_refused_before_any_step(wrong):
    model = Embedder()
    message = r"optimizer must be .*, a function without parameters that returns .*, got <(cl|fu)"
    with pytest.raises(TypeError, match=message):
        attach(model, NOISE, optimizer=wrong)
    train(model, SGD(model.parameters(), lr=0.1))


def test_nothing_is_left_behind():
    model, made = Embedder(), SGD([torch.zeros(2, requires_grad=True)], lr=0.1)
    calls = []
    handle = attach(model, NOISE, optimizer=lambda: calls.append("asked"))
    handle.remove()
    made.step()
    assert not calls


class Around(torch.optim.Optimizer):
    """An optimizer around another one, which does not call ``Optimizer.__init__``."""

    def __init__(self, inner):
        self.inner, self.param_groups = inner, inner.param_groups

    def step(self, closure=None):
        return self.inner.step(closure)

    def zero_grad(self):
        self.inner.zero_grad()


def test_an_optimizer_whose_hooks_never_run():
    model = Embedder()
    optimizer = Around(SGD(model.parameters(), lr=0.1))
    with attach(model, NOISE, optimizer=optimizer) as handle:
        for step in range(3):
            assert handle.step == step
            train(model, optimizer)
    assert "step" not in vars(optimizer)


class TwoSteps(SGD):
    """As SAM does: steps that are not ``step``, made by an optimizer of its own."""

    def __init__(self, parameters):
        super().__init__(parameters, lr=0.1)
        self.base_optimizer = SGD(self.param_groups, lr=0.1)
        self.param_groups = self.base_optimizer.param_groups

    def second_step(self):
        self.base_optimizer.step()


def test_an_optimizer_whose_step_is_never_called_is_warned_of():
    model = Embedder()
    optimizer = TwoSteps(model.parameters())
    with attach(model, NOISE, optimizer=optimizer):
        model(batch()).square().mean().backward()
        optimizer.second_step()
        with pytest.warns(RuntimeWarning, match="SGD made two steps.*the base_optimizer of TwoSt"):
            optimizer.second_step()
        optimizer.second_step()
    with attach(model, NOISE, optimizer=optimizer.base_optimizer) as handle:
        model(batch())
        optimizer.second_step()
        assert handle.step == 1


def test_an_inner_optimizer_may_step_inside_of_the_followed_one():
    model = Embedder()
    optimizer = TwoSteps(model.parameters())
    optimizer.step = lambda: (optimizer.second_step(), SGD.step(optimizer))
    with attach(model, NOISE, optimizer=optimizer) as handle:
        for _ in range(3):
            train(model, optimizer)
        assert handle.step == 3


def made_again(model, kind):
    """An optimizer and the one that takes its place, for other parameters or in other groups."""
    table, head = model.embed.weight, model.head.weight
    if kind == "groups":
        groups = [{"params": [head, table]}, {"params": [model.head.bias], "weight_decay": 0.0}]
        return model.parameters(), groups
    if kind == "frozen":
        return model.parameters(), [head]
    return model.head.parameters(), model.parameters()  # two phases


class WithHead(nn.Module):
    def __init__(self):
        super().__init__()
        self.embed, self.head = nn.Embedding(50, 8), nn.Linear(8, 8)

    def forward(self, input_ids):
        return self.head(self.embed(input_ids))


@pytest.mark.parametrize("kind", ["groups", "frozen", "phases"])
def test_an_optimizer_that_is_made_again_is_warned_of_once(kind):
    model = WithHead()
    first, second = (AdamW(each, lr=0.1) for each in made_again(model, kind))
    with attach(model, NOISE, optimizer=first) as handle:
        train(model, first)
        train(model, second)
        with pytest.warns(RuntimeWarning, match="AdamW made two steps .* function that returns"):
            train(model, second)
        train(model, second)
        assert handle.step == 1
    model = WithHead()
    first, second = (AdamW(each, lr=0.1) for each in made_again(model, kind))
    current = first
    with attach(model, NOISE, optimizer=lambda: current) as handle:
        train(model, first)
        current = second
        train(model, second)
        train(model, second)
        assert handle.step == 3


def test_optimizers_of_other_parameters_may_step_as_they_like():
    """The two of a GAN, and those of the parts of a model."""
    model, other = WithHead(), nn.Linear(2, 2)
    followed = SGD([model.embed.weight], lr=0.1)
    with attach(model, NOISE, optimizer=followed) as handle:
        for theirs in (other, model.head):
            optimizer = SGD(theirs.parameters(), lr=0.1)
            for _ in range(3):
                optimizer.step()
        train(model, followed)
        assert handle.step == 1


@pytest.mark.parametrize("given", ["an optimizer", "a function"])
def test_the_optimizer_of_another_model_is_warned_of(given):
    model, other = WithHead(), WithHead()
    ours, theirs = (AdamW(each.parameters(), lr=0.1) for each in (model, other))
    with attach(model, NOISE, optimizer=theirs if given == "an optimizer" else lambda: theirs):
        train(model, ours)
        with pytest.warns(RuntimeWarning, match="Pass the optimizer of this model"):
            train(model, ours)
        train(model, ours)  # once is enough


def test_optimizers_of_other_parts_are_not_warned_of():
    model = WithHead()
    ours, theirs = (AdamW(each.parameters(), lr=0.1) for each in (model.embed, model.head))
    with attach(model, NOISE, optimizer=ours) as handle:
        for _ in range(2):
            train(model, theirs)
            train(model, theirs)
            train(model, theirs)
            train(model, ours)
        assert handle.step == 2


def test_noise_that_begins_again_for_an_optimizer_is_warned_of():
    model = Embedder()
    optimizer = SGD(model.parameters(), lr=0.1)
    with attach(model, NOISE, optimizer=optimizer) as before:
        train(model, optimizer)
    with attach(model, NOISE, optimizer=optimizer) as handle:
        handle.load_state_dict(before.state_dict())
        train(model, optimizer)
    with attach(model, NOISE, optimizer=optimizer):
        with pytest.warns(RuntimeWarning, match="begins at step 0 again"):
            train(model, optimizer)
        train(model, optimizer)
    with attach(model, neftune(4.0, seed=2), optimizer=optimizer):
        train(model, optimizer)
    other = SGD(model.parameters(), lr=0.1)
    with attach(model, neftune(4.0, seed=2), optimizer=other):
        train(model, other)
