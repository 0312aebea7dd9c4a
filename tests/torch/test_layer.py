"""``EmbeddingNoise``: the noise as a module."""

import copy

import pytest
import torch
from torch import nn

from embnoise import linear, neftune
from embnoise_torch import EmbeddingNoise, add_noise
from tests.torch.memory import LAYOUTS


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
    assert torch.equal(layer(x), add_noise(x, neftune(), step=0))


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
    assert torch.equal(noisy, add_noise(x, neftune(), step=0, **arguments))


def test_gradient_is_exactly_one():
    x = torch.randn(2, 3, 8, requires_grad=True)
    weights = torch.randn(2, 3, 8)
    for noisy in (EmbeddingNoise(neftune())(x), add_noise(x, neftune(scale="relative"), step=0)):
        (noisy * weights).sum().backward()
        assert torch.equal(x.grad, weights)
        x.grad = None


def test_second_derivatives_and_hessians_see_the_identity():
    x = torch.randn(1, 2, 4, dtype=torch.float64, requires_grad=True)
    assert torch.autograd.gradcheck(lambda x: add_noise(x, neftune(), step=0), x)
    assert torch.autograd.gradgradcheck(lambda x: add_noise(x, neftune(), step=0).square(), x)


def test_the_repr_shows_the_noise_and_the_step():
    layer = EmbeddingNoise(neftune(3.0))
    layer(torch.zeros(1, 2, 8))
    assert "alpha=3.0" in repr(layer)
    assert "step=1" in repr(layer)


def test_micro_batches_of_a_step():
    """With G calls per step the schedule moves every G calls, and samples are numbered on."""
    noise = neftune(alpha=linear(8.0, 0.0, 4))
    layer, x = EmbeddingNoise(noise, calls_per_step=2), torch.zeros(2, 3, 8)
    for step in range(3):
        whole = add_noise(torch.zeros(4, 3, 8), noise, step=step)
        assert (layer.step, layer.alpha) == (step, 8.0 - 2 * step)
        assert torch.equal(torch.cat([layer(x), layer(x)]), whole)
    assert layer.lookups == 6


def test_the_counter_is_saved_and_restored():
    noise = neftune(alpha=linear(8.0, 0.0, 4))
    whole, x = EmbeddingNoise(noise, calls_per_step=2), torch.zeros(2, 3, 8)
    for _ in range(3):
        whole(x)
    again = nn.Sequential(EmbeddingNoise(noise, calls_per_step=2))
    again.load_state_dict(nn.Sequential(whole).state_dict())
    assert (again[0].step, again[0].lookups) == (1, 3)
    for _ in range(3):
        assert torch.equal(again(x), whole(x))


def test_a_checkpoint_without_the_counter_loads_strictly():
    layer, x = EmbeddingNoise(neftune()), torch.zeros(2, 3, 8)
    layer(x)
    saved = {}
    layer.load_state_dict(saved, strict=True)
    assert (layer.step, saved) == (0, {})


@pytest.mark.parametrize(
    "change",
    [
        lambda counter: counter / 2,
        lambda counter: counter.bfloat16(),
        lambda counter: counter[:2],
        lambda counter: 5,
    ],
)
def test_a_counter_that_was_averaged_or_cast_is_refused(change):
    saved = nn.Sequential(EmbeddingNoise(neftune()))
    saved[0].step = 1001
    state = {name: change(value) for name, value in saved.state_dict().items()}
    layers = nn.Sequential(EmbeddingNoise(neftune()))
    message = r"state_dict\['0\._extra_state'\] must be four integers.* average or cast.* delete"
    with pytest.raises(TypeError, match=message):
        layers.load_state_dict(state)
    assert layers[0].step == 0


def test_copies_count_for_themselves():
    layer, x = EmbeddingNoise(neftune()), torch.zeros(2, 3, 8)
    layer(x)
    other = copy.deepcopy(layer)
    assert torch.equal(other(x), layer(x))
    other(x)
    assert (other.step, layer.step) == (3, 2)


def test_no_noise_without_gradients():
    layer, x = EmbeddingNoise(neftune()), torch.zeros(2, 3, 8)
    with torch.no_grad():
        assert layer(x) is x
    with torch.inference_mode():
        assert layer(x) is x
    assert (layer.step, layer.lookups) == (0, 0)


def test_paused():
    layer, x = EmbeddingNoise(neftune()), torch.zeros(2, 3, 8)
    with layer.paused():
        assert not layer(x).any()
        assert not layer(x, step=3).any()
        with layer.paused():
            pass
        assert not layer(x).any()
    assert (layer.step, layer.lookups) == (0, 0)
    assert layer(x).any()


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ((5.0,), r"noise must be a Noise, got 5.0; did you mean neftune\(alpha=5.0\)\?"),
        (("neftune",), "noise must be a Noise, got 'neftune'$"),
    ],
)
def test_a_noise_is_required(arguments, message):
    with pytest.raises(TypeError, match=message):
        EmbeddingNoise(*arguments)


def test_calls_per_step_must_be_positive():
    with pytest.raises(ValueError, match="calls_per_step must be at least 1, got 0"):
        EmbeddingNoise(neftune(), calls_per_step=0)


@pytest.mark.parametrize("layout", LAYOUTS)
def test_any_layout_of_memory(layout):
    x = LAYOUTS[layout]()
    assert torch.equal(
        add_noise(x, neftune(), step=0), add_noise(x.contiguous(), neftune(), step=0)
    )
