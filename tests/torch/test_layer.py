"""``EmbeddingNoise``: the noise as a module."""

import pytest
import torch

from embnoise import linear, neftune
from embnoise_torch import EmbeddingNoise, add_noise


def test_every_training_call_is_a_step():
    noise = neftune(alpha=linear(8.0, 0.0, 4))
    layer, x = EmbeddingNoise(noise), torch.zeros(2, 3, 8)
    for step in range(4):
        assert layer.step == step
        assert torch.equal(layer(x), add_noise(x, noise, step=step))
    assert not layer(x).any()


def test_a_step_that_is_given_does_not_count():
    layer, x = EmbeddingNoise(neftune()), torch.zeros(2, 3, 8)
    for step in (7, torch.tensor(7)):
        assert torch.equal(layer(x, step=step), add_noise(x, neftune(), step=7))
    assert layer.step == 0
    layer.step = 7
    assert torch.equal(layer(x), add_noise(x, neftune(), step=7))


def test_evaluation_is_the_identity_and_does_not_count():
    layer, x = EmbeddingNoise(neftune()).eval(), torch.zeros(2, 3, 8)
    assert layer(x) is x
    assert layer.step == 0
    layer.train()
    assert torch.equal(layer(x), add_noise(x, neftune()))


def test_the_arguments_are_those_of_add_noise():
    x = torch.randn(2, 4, 8)
    arguments = {
        "mask": torch.tensor([[1, 1, 0, 0], [1, 1, 1, 1]]),
        "segment_ids": torch.tensor([[1, 1, 0, 0], [1, 1, 2, 2]]),
        "positions": torch.arange(4).expand(2, 4),
        "sample_ids": torch.tensor([7, 9]),
        "where": torch.tensor([[1, 0, 1, 1], [0, 1, 1, 1]]),
    }
    noisy = EmbeddingNoise(neftune())(x, **arguments)
    assert torch.equal(noisy, add_noise(x, neftune(), **arguments))


def test_gradient_is_exactly_one():
    x = torch.randn(2, 3, 8, requires_grad=True)
    weights = torch.randn(2, 3, 8)
    for noisy in (EmbeddingNoise(neftune())(x), add_noise(x, neftune(scale="relative"))):
        (noisy * weights).sum().backward()
        assert torch.equal(x.grad, weights)
        x.grad = None


def test_second_derivatives_and_hessians_see_the_identity():
    x = torch.randn(1, 2, 4, dtype=torch.float64, requires_grad=True)
    assert torch.autograd.gradcheck(lambda x: add_noise(x, neftune()), x)
    assert torch.autograd.gradgradcheck(lambda x: add_noise(x, neftune()).square(), x)


def test_nothing_is_saved_and_it_shows_what_it_does():
    layer = EmbeddingNoise(neftune(3.0))
    layer(torch.zeros(1, 2, 8))
    assert not layer.state_dict()
    assert "alpha=3.0" in repr(layer)


@pytest.mark.parametrize("layout", ["transposed", "sliced", "expanded"])
def test_any_layout_of_memory(layout):
    x = {
        "transposed": torch.randn(8, 3, 2).permute(2, 1, 0),
        "sliced": torch.randn(2, 3, 16)[..., ::2],
        "expanded": torch.randn(1, 3, 8).expand(2, 3, 8),
    }[layout]
    assert torch.equal(add_noise(x, neftune()), add_noise(x.contiguous(), neftune()))
