"""Models that look up several arguments in one row, each of which may have a mask."""

import types

import pytest
import torch

from embnoise import neftune
from embnoise_torch import add_noise, attach
from tests.torch.models import Embedder, batch, zeroed

NOISE = neftune(20.0, seed=3)
ANSWER_MASK = torch.tensor([[1] * 5, [1] * 3 + [0] * 2])
MASK = torch.tensor([[0] * 2 + [1] * 6, [1] * 8])


class Joined(Embedder):
    """A prompt and its answer."""

    def __init__(self, first=False):
        super().__init__()
        self.first = first

    def forward(self, input_ids, attention_mask=None, answer_ids=None, answer_mask=None):
        both = [answer_ids, input_ids] if self.first else [input_ids, answer_ids]
        return self.embed(torch.cat(both, 1))


def arguments():
    return batch() * MASK, MASK, batch(2, 5, seed=1) * ANSWER_MASK, ANSWER_MASK


@pytest.mark.parametrize("first", [False, True])
@pytest.mark.parametrize("told", ["both", "input_ids", "answer_ids"])
def test_without_an_id_of_padding_it_is_refused(first, told):
    ids, mask, answer, answer_mask = arguments()
    mask = mask if told != "answer_ids" else None
    answer_mask = answer_mask if told != "input_ids" else None
    model = zeroed(Joined(first))
    with (
        attach(model, NOISE),
        pytest.raises(ValueError, match=r"5 tokens more than it was called with.*tokens="),
    ):
        model(ids, mask, answer, answer_mask)


def test_the_id_of_padding_tells_it():
    model = zeroed(Joined())
    model.config = types.SimpleNamespace(pad_token_id=0)
    with attach(model, NOISE):
        noisy = model(*arguments())
    mask = torch.cat([MASK, ANSWER_MASK], 1)
    assert torch.equal(noisy, add_noise(torch.zeros(2, 13, 8), NOISE, step=0, mask=mask))


def test_without_any_mask_all_are_real():
    model = zeroed(Joined())
    with attach(model, NOISE):
        noisy = model(batch(), answer_ids=batch(2, 5, seed=1))
    assert torch.equal(noisy, add_noise(torch.zeros(2, 13, 8), NOISE, step=0))


class Three(Embedder):
    """A prompt and two answers to it, in one row."""

    def forward(self, input_ids, attention_mask=None, chosen_ids=None, rejected_ids=None):
        return self.embed(torch.cat([input_ids, chosen_ids, rejected_ids], 1))


def test_three_arguments_without_an_id_of_padding_are_refused():
    ids, mask, chosen, _ = arguments()
    model = zeroed(Three())
    with (
        attach(model, NOISE),
        pytest.raises(ValueError, match=r"8 tokens more than it was called with.*tokens="),
    ):
        model(ids, mask, chosen, batch(2, 3, seed=2))
    with attach(model, NOISE):
        noisy = model(ids, None, chosen, batch(2, 3, seed=2))
    assert torch.equal(noisy, add_noise(torch.zeros(2, 16, 8), NOISE, step=0))
