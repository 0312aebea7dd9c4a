"""Gradient checkpointing: a recomputed forward gets the noise of the first one."""

import pytest
import torch
from torch import nn
from torch.utils.checkpoint import checkpoint

from embnoise import neftune
from embnoise_torch import EmbeddingNoise, attach
from tests.torch.models import VOCABULARY, batch, llama


class Net(nn.Module):
    """Notes what its embedding gives, in forwards and in recomputed ones."""

    def __init__(self, noise=None):
        super().__init__()
        self.embed = nn.Embedding(VOCABULARY, 8)
        self.noise = noise or nn.Identity()
        self.head = nn.Linear(8, 8)
        self.seen = []

    def body(self, ids):
        x = self.noise(self.embed(ids))
        self.seen.append(x.detach().clone())
        return self.head(x).tanh()

    def forward(self, ids):
        return checkpoint(self.body, ids, use_reentrant=False).square().sum()


def test_one_forward():
    net = Net()
    with attach(net, neftune()) as handle:
        net(batch()).backward()
        assert handle.state_dict()["embed"]["samples"] == 2
    first, again = net.seen
    assert torch.equal(first, again)


def test_several_forwards_before_one_backward():
    net = Net()
    with attach(net, neftune()):
        sum(net(batch(seed=seed)) for seed in range(4)).backward()
    assert len(net.seen) == 8
    for first, again in zip(net.seen[:4], reversed(net.seen[4:]), strict=True):
        assert torch.equal(first, again)


def test_equal_inputs_are_recomputed_in_reverse():
    net = Net()
    with attach(net, neftune()):
        sum(net(batch()) for _ in range(3)).backward()
    for first, again in zip(net.seen[:3], reversed(net.seen[3:]), strict=True):
        assert torch.equal(first, again)
    assert not torch.equal(net.seen[0], net.seen[1])


def test_the_step_may_have_moved_on():
    net = Net()
    optimizer = torch.optim.SGD(net.parameters(), lr=0.0)
    with attach(net, neftune(), optimizer=optimizer):
        for _ in range(3):
            net(batch()).backward()
            optimizer.step()
    for first, again in zip(net.seen[::2], net.seen[1::2], strict=True):
        assert torch.equal(first, again)


def test_the_layer():
    net = Net(EmbeddingNoise(neftune()))
    (net(batch(seed=1)) + net(batch(seed=2))).backward()
    assert torch.equal(net.seen[0], net.seen[3])
    assert torch.equal(net.seen[1], net.seen[2])
    assert net.noise.step == 2


def test_gradients_are_those_without_checkpointing():
    def gradients(way):
        torch.manual_seed(0)
        net = Net()
        with attach(net, neftune()):
            loss = way(net)
            loss.backward()
        return [parameter.grad for parameter in net.parameters()]

    plain = gradients(lambda net: net.body(batch()).square().sum())
    assert all(map(torch.equal, gradients(lambda net: net(batch())), plain))


@pytest.mark.filterwarnings("ignore:None of the inputs have requires_grad=True")
def test_a_reentrant_forward_gets_none_both_times():
    """Its first forward runs without gradients, where there is no noise."""

    class Reentrant(Net):
        def forward(self, ids):
            anchor = torch.zeros((), requires_grad=True)
            return checkpoint(lambda ids, _: self.body(ids), ids, anchor, use_reentrant=True).sum()

    net = Reentrant()
    with attach(net, neftune()) as handle:
        loss = net(batch())
        with pytest.warns(RuntimeWarning, match=r"gets no noise.* pass use_reentrant=False"):
            loss.backward()
        assert handle.lookups == 0
    assert torch.equal(net.seen[0], net.seen[1])


def test_a_model_with_gradient_checkpointing():
    model, ids = llama(), batch()
    # Before 5.23 transformers has only the other name, which is deprecated since.
    getattr(model, "activation_checkpointing_enable", model.gradient_checkpointing_enable)()
    with attach(model, neftune(20.0)) as handle:
        model(input_ids=ids, labels=ids).loss.backward()
        assert handle.lookups == 1
