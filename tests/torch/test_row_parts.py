"""Models that look up a part of each row, of whose length nothing tells."""

import warnings

import pytest
import torch

from embnoise import neftune
from embnoise_torch import add_noise, attach
from tests.torch.models import Embedder, batch, zeroed

NOISE = neftune(20.0, seed=3)


class Sliced(Embedder):
    def __init__(self, start, stop):
        super().__init__()
        self.part = slice(start, stop)

    def forward(self, input_ids, attention_mask=None):
        return self.embed(input_ids[:, self.part])


@pytest.mark.parametrize("part", [(0, 4), (4, 8), (1, 11), (5, 12), (3, 5)])
def test_a_part_of_each_row_is_warned_of_wherever_it_begins(part):
    model, (start, stop) = zeroed(Sliced(*part)), part
    with attach(model, NOISE), pytest.warns(RuntimeWarning, match="looks up a part of each row"):
        noisy = model(batch(3, 12))
    assert torch.equal(noisy, add_noise(torch.zeros(3, stop - start, 8), NOISE, step=0))
    with attach(model, neftune(20.0, length=12)) as handle:
        model(batch(3, 12))
        assert handle.lookups == 1


class Inner(Embedder):
    """A model that calls another one with parts of its rows, one after another."""

    def __init__(self, *parts):
        super().__init__()
        self.inner = zeroed()
        self.embed = self.inner.embed
        self.parts = parts

    def forward(self, input_ids, attention_mask):
        parts = [(input_ids[:, part], attention_mask[:, part]) for part in self.parts]
        return torch.cat([self.inner(*part) for part in parts], dim=1)


@pytest.mark.parametrize("real", [12, 9])
def test_chunks_of_rows_with_masks_of_their_own_are_warned_of(real):
    mask = (torch.arange(12) < torch.tensor([[12], [real], [real]])).long()
    model = Inner(slice(6), slice(6, 12))
    with attach(model, NOISE), pytest.warns(RuntimeWarning, match="a part of each row"):
        model(batch(3, 12), mask)


@pytest.mark.parametrize("longest", [8, 6])
def test_padding_that_is_trimmed_is_no_part_of_rows(longest):
    """By the mask of the longer rows, or by the id of padding."""
    lengths = torch.tensor([[longest], [5], [3]])
    mask = (torch.arange(12) < lengths).long()
    ids = batch(3, 12).clamp(min=1) * mask
    short = slice(longest)
    expected = add_noise(torch.zeros(3, longest, 8), NOISE, step=0, mask=mask[:, short])
    model = Inner(short)
    with attach(model, NOISE):
        assert torch.equal(model(ids, mask), expected)
    model = zeroed(Sliced(0, longest))
    model.embed.padding_idx = 0
    with attach(model, NOISE, where=lambda ids: ids != 0) as handle:
        with warnings.catch_warnings():
            warnings.filterwarnings("ignore", ".*begins or ends with 0")
            model(ids)
        assert handle.lookups == 1


def test_rows_of_one_id_and_other_ids():
    same = torch.full((2, 12), 7)
    model = Sliced(4, 8)
    with (
        attach(model, NOISE) as handle,
        pytest.warns(RuntimeWarning, match="looks up a part of each row"),
    ):
        model(same)

    class Others(Embedder):
        def forward(self, input_ids, attention_mask=None):
            return self.embed(batch(3, 4, seed=5))

    model = Others()
    with (
        attach(model, NOISE) as handle,
        pytest.warns(RuntimeWarning, match="is not what the model was called with"),
    ):
        model(batch(3, 12))
    assert handle.lookups == 1


def test_the_middle_of_rows_with_a_mask_is_refused():
    model = Sliced(4, 8)
    with (
        attach(model, NOISE),
        pytest.warns(RuntimeWarning, match="looks up a part of each row"),
        pytest.raises(ValueError, match="not those that the model was called with"),
    ):
        model(batch(3, 12), torch.ones(3, 12, dtype=torch.long))
