"""Large lookups on a CPU, which get their noise on the way out of the table."""

import pytest
import torch
from torch import nn
from torch.autograd import forward_ad, gradcheck, gradgradcheck
from torch.nn.functional import embedding
from torch.nn.utils import parametrize

from embnoise import Noise, neftune
from embnoise_torch import add_noise, attach
from embnoise_torch.kernels import kernel_for
from embnoise_torch.kernels.cpu_numba import NumbaKernel
from tests.torch.models import batch, llama

IDS = torch.tensor([[1, 3, 3, 7], [10, 0, 3, 5]])
TABLES = {
    "float32": lambda: nn.Embedding(11, 24),
    "bfloat16": lambda: nn.Embedding(11, 24, dtype=torch.bfloat16),
    "float16": lambda: nn.Embedding(11, 21, dtype=torch.float16),
    "float64": lambda: nn.Embedding(11, 13, dtype=torch.float64),
    "one channel": lambda: nn.Embedding(11, 1, dtype=torch.bfloat16),
    "padding_idx": lambda: nn.Embedding(11, 9, padding_idx=3),
    "sparse": lambda: nn.Embedding(11, 9, sparse=True),
    "scale_grad_by_freq": lambda: nn.Embedding(11, 9, scale_grad_by_freq=True),
    "transposed": lambda: nn.Embedding(11, 9, _weight=torch.randn(9, 11).T),
}


@pytest.fixture
def fused(monkeypatch):
    """All lookups are large; returns the ids of those that the kernel did."""
    looked_up = []
    original = NumbaKernel.look_up_

    def look_up_(self, x, table, ids, noise, prepared):
        looked_up.append(ids)
        original(self, x, table, ids, noise, prepared)

    monkeypatch.setattr(NumbaKernel, "fused_from", 1)
    monkeypatch.setattr(NumbaKernel, "look_up_", look_up_)
    return looked_up


def noisy_and_gradient(table, ids, noise, upstream, **options):
    with attach(table, noise, optimizer="manual", **options):
        seen = table(ids)
    (seen * upstream).sum().backward()
    gradient, table.weight.grad = table.weight.grad, None
    return seen.detach(), gradient.to_dense()


@pytest.mark.parametrize("kind", TABLES)
def test_values_and_gradients_are_those_of_two_passes(kind, fused, monkeypatch):
    table, noise = TABLES[kind](), neftune(50.0)
    expected = add_noise(table(IDS).detach(), noise, step=0)
    upstream = torch.arange(expected.numel()).reshape(expected.shape).to(expected)
    seen, gradient = noisy_and_gradient(table, IDS, noise, upstream)
    assert torch.equal(seen.view(torch.uint8), expected.view(torch.uint8))
    assert len(fused) == 1
    monkeypatch.setattr(NumbaKernel, "fused_from", float("inf"))
    again, expected_gradient = noisy_and_gradient(table, IDS, noise, upstream)
    assert torch.equal(again.view(torch.uint8), expected.view(torch.uint8))
    assert torch.equal(gradient, expected_gradient)
    assert len(fused) == 1


@pytest.mark.parametrize("distribution", ["uniform", "rademacher", "gaussian"])
@pytest.mark.parametrize("ids", [IDS, IDS.int(), IDS.T.contiguous().T, IDS[0]], ids=str)
def test_ids_and_distributions(ids, distribution, fused):
    table, noise = nn.Embedding(11, 40), Noise(5.0, distribution=distribution, antithetic=True)
    expected = add_noise(embedding(ids, table.weight).detach(), noise, step=0)
    assert torch.equal(noisy_and_gradient(table, ids, noise, 1.0)[0], expected)
    assert len(fused) == 1


def test_tokens_without_noise_keep_their_bits(fused):
    mask = torch.tensor([[1, 1, 1, 0], [0, 0, 0, 0]])
    table, noise = nn.Embedding(11, 40), neftune()
    seen, _ = noisy_and_gradient(table, IDS, noise, 1.0, tokens=lambda ids: {"mask": mask})
    expected = add_noise(table(IDS).detach(), noise, step=0, mask=mask)
    assert torch.equal(seen, expected)
    assert torch.equal(seen[mask == 0], table(IDS).detach()[mask == 0])
    assert len(fused) == 1


@pytest.mark.parametrize("wrong", [-1, 11])
def test_ids_out_of_range_are_pytorchs_error(wrong, fused):
    table, ids = nn.Embedding(11, 8), IDS.clone()
    ids[1, 2] = wrong
    with attach(table, neftune(), optimizer="manual"), pytest.raises(IndexError, match="range"):
        table(ids)
    assert len(fused) == 1


@pytest.mark.parametrize("change", [{"max_norm": 1.0}, {"scale": "relative"}], ids=str)
def test_what_needs_two_passes(change, fused):
    table = nn.Embedding(11, 8, max_norm=change.get("max_norm"))
    noise = neftune(scale=change.get("scale", "neftune"))
    with attach(table, noise, optimizer="manual"):
        assert not torch.equal(table(IDS), table.eval()(IDS))
    assert not fused


def test_small_lookups_take_two_passes():
    assert NumbaKernel.fused_from == kernel_for("cpu").fused_from == 2**22


@pytest.mark.parametrize("least", [1, float("inf")])
def test_a_computed_weight_is_computed_once(least, fused):
    class Dropped(nn.Module):
        calls = 0

        def forward(self, weight):
            Dropped.calls += 1
            return nn.functional.dropout(weight, 0.5)

    NumbaKernel.fused_from = least
    table = nn.Embedding(11, 8)
    parametrize.register_parametrization(table, "weight", Dropped())
    Dropped.calls = 0
    with attach(table, neftune(), optimizer="manual"):
        assert Dropped.calls == 0
        table(IDS)
    assert Dropped.calls == 1
    assert not fused


@pytest.mark.parametrize("least", [1, float("inf")])
def test_a_negative_padding_idx(least, fused):
    NumbaKernel.fused_from = least
    table = nn.Embedding(11, 8)
    table.padding_idx = -1
    _, gradient = noisy_and_gradient(table, IDS, neftune(), 1.0)
    assert not gradient[10].any()
    assert gradient[3].any()


@pytest.mark.filterwarnings("ignore:`torch.jit.script`:DeprecationWarning")  # forward mode uses it
def test_derivatives(fused):
    table, ids = nn.Embedding(5, 3, dtype=torch.float64), torch.tensor([[0, 2, 2], [4, 1, 0]])
    samples = lambda ids: {"sample_ids": torch.arange(2)}  # noqa: E731, the same in every call
    with attach(table, neftune(), optimizer="manual", tokens=samples):

        def noisy(weight):
            return torch.func.functional_call(table, {"weight": weight}, (ids,)).square()

        weight = table.weight.detach().requires_grad_()
        assert gradcheck(noisy, (weight,), check_forward_ad=True)
        assert gradgradcheck(noisy, (weight,))
        with forward_ad.dual_level():
            dual = forward_ad.make_dual(weight, torch.ones_like(weight))
            tangent = forward_ad.unpack_dual(noisy(dual)).tangent
    assert torch.equal(tangent, 2 * noisy_of(table, ids))
    assert fused


def noisy_of(table, ids):
    return add_noise(table(ids).detach(), neftune(), step=0)


def test_a_model_is_the_same(fused):
    model, ids = llama(), batch()
    losses = []
    for least in (1, float("inf")):
        NumbaKernel.fused_from = least
        with attach(model, neftune(seed=3), optimizer="manual"):
            model(input_ids=ids, labels=ids).loss.backward()
        losses.append(model.get_input_embeddings().weight.grad.clone())
        model.zero_grad()
    assert torch.equal(*losses)
    assert len(fused) == 1
