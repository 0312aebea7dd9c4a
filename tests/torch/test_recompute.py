"""Gradient checkpointing: a recomputed forward gets the noise of the first one."""

from contextlib import nullcontext
from functools import partial

import pytest
import torch
from torch import nn
from torch.utils.checkpoint import checkpoint, create_selective_checkpoint_contexts

from embnoise import neftune
from embnoise_torch import EmbeddingNoise, attach
from tests.torch.models import VOCABULARY, Stack, batch, llama


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


@pytest.mark.parametrize("order", [(0, 1), (1, 0), (0,)])
def test_equal_inputs_in_tensors_of_their_own_are_recomputed_in_any_order(order):
    net = Net()
    with attach(net, neftune()):
        losses = [net(batch()) for _ in range(2)]
        for number in order:
            losses[number].backward()
    for number, again in zip(order, net.seen[2:], strict=True):
        assert torch.equal(net.seen[number], again)


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


@pytest.mark.filterwarnings("ignore:embnoise. an embedding was called outside of a call")
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
        with pytest.warns(RuntimeWarning, match="is it inside reentrant gradient checkpointing"):
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


class TestACleanAndANoisyPass:
    """Both passes have the same input, and are recomputed when ``paused()`` is over."""

    def gradients(self, way, *, clean_first=True, **options):
        torch.manual_seed(0)
        net = Stack(reentrant=way)
        ids, mask = batch(), torch.ones(2, 8, dtype=torch.long)
        with attach(net, neftune(50.0), **options) as handle:
            for part in range(2):  # two micro-batches
                rows = slice(part, part + 1)
                passes = {}
                for name in ("clean", "noisy")[:: 1 if clean_first else -1]:
                    with handle.paused() if name == "clean" else nullcontext():
                        passes[name] = net(ids[rows], mask[rows])
                (passes["noisy"] - passes["clean"]).square().sum().backward()
            counts = handle.state_dict()
        assert {(each["samples"], each["lookups"]) for each in counts.values()} == {(2, 2)}
        return [parameter.grad for parameter in net.parameters()], net

    @pytest.mark.parametrize("clean_first", [True, False])
    def test_of_an_embedding(self, clean_first):
        net = Net()
        with attach(net, neftune()) as handle:
            losses = []
            for clean in (clean_first, not clean_first):
                with handle.paused() if clean else nullcontext():
                    losses.append(net(batch()))
            sum(losses).backward()
            assert handle.lookups == 1
        first, second, second_again, first_again = net.seen
        assert torch.equal(first, first_again)
        assert torch.equal(second, second_again)
        assert not torch.equal(first, second)

    @pytest.mark.parametrize("clean_first", [True, False])
    def test_of_blocks(self, clean_first):
        options = {"layer": "blocks.*", "at": "input", "clean_first": clean_first}
        plain, _ = self.gradients(None, **options)
        again, net = self.gradients(False, **options)
        assert all(map(torch.equal, again, plain))
        for block in net.blocks:
            for first, second, *recomputed in zip(*[iter(block.seen)] * 4, strict=True):
                assert torch.equal(recomputed[0], second)
                assert torch.equal(recomputed[1], first)
                assert not torch.equal(first, second)

    def test_pausing_the_backward_pass_changes_nothing(self):
        net = Net()
        with attach(net, neftune()) as handle:
            loss = net(batch())
            with handle.paused():
                loss.backward()
        assert torch.equal(*net.seen)

    def test_without_warnings_of_missing_noise(self):
        model, ids = llama(), batch()
        optimizer = torch.optim.SGD(model.parameters(), lr=0.0)
        with attach(model, neftune(), optimizer=optimizer) as handle:
            for _ in range(2):
                with handle.paused():
                    clean = model(input_ids=ids).logits
                noisy = model(input_ids=ids).logits
                (noisy - clean).square().sum().backward()
                optimizer.step()
            assert (handle.step, handle.lookups) == (2, 2)
        with torch.no_grad():
            assert torch.equal(clean, model(input_ids=ids).logits)

    def test_compiled(self):
        net, ids, mask = Stack(), batch(), torch.ones(2, 8, dtype=torch.long)
        compiled = torch.compile(net, backend="aot_eager")
        plain = net(ids, mask)
        with attach(net, neftune(50.0)) as handle:
            with handle.paused():
                clean = compiled(ids, mask)
            noisy = compiled(ids, mask)
            (noisy - clean).square().sum().backward()
            assert handle.lookups == 1
        assert torch.equal(clean, plain)
        assert not torch.allclose(noisy, clean)


@pytest.mark.parametrize("op", ["mm", "embedding", "add"])
def test_selective_checkpoints(op):
    """What a policy saves must not be overwritten."""
    saved = {
        "mm": torch.ops.aten.mm.default,
        "embedding": torch.ops.aten.embedding.default,
        "add": torch.ops.aten.add.Tensor,
    }
    contexts = partial(create_selective_checkpoint_contexts, [saved[op]])
    model = nn.Sequential(nn.Embedding(20, 8), nn.Linear(8, 8, bias=False))
    ids = torch.arange(10).view(2, 5)
    gradients = []
    for run in (
        model,
        lambda ids: checkpoint(model, ids, use_reentrant=False, context_fn=contexts),
    ):
        with attach(model, neftune()):
            run(ids).square().sum().backward()
        gradients.append([each.grad.clone() for each in model.parameters()])
        model.zero_grad()
    assert all(map(torch.equal, *gradients))
