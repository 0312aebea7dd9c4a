"""Ids whose values are those of a mask."""

import pytest
import torch
from torch import nn

from embnoise import neftune
from embnoise_torch import attach


@pytest.mark.parametrize(
    "ids",
    [
        [[0, 0, 0], [1, 0, 0], [0, 0, 0]],
        [[1, 1, 1], [1, 0, 0], [1, 1, 0]],
        [[1, 1, 2, 2], [3, 3, 3, 3], [4, 4, 4, 5]],
    ],
)
def test_what_is_looked_up_is_no_mask_of_itself(ids):
    model = nn.Sequential(nn.Embedding(8, 4), nn.Linear(4, 2))
    attach(model, neftune(5.0))
    model(torch.tensor(ids))  # a warning would be an error
