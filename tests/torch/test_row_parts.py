"""Models that look up a part of each row, of whose length nothing tells."""

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
