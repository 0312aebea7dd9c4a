"""A lookup under ``no_grad``, which is how many freeze an embedding."""

import pytest
import torch
from torch import nn

from embnoise import neftune
from embnoise_torch import attach
from tests.torch.models import batch


class Frozen(nn.Module):
    def __init__(self):
        super().__init__()
        self.embed, self.head = nn.Embedding(50, 8), nn.Linear(8, 8)

    def forward(self, input_ids):
        with torch.no_grad():
            x = self.embed(input_ids)
        return self.head(x)


def test_the_warning_names_what_to_do():
    model = Frozen()
    message = r"called under torch.no_grad\(\) \(freeze it with requires_grad_\(False\)\)"
    with attach(model, neftune()), pytest.warns(RuntimeWarning, match=message):
        model(batch())
    model = nn.Sequential(nn.Embedding(50, 8).requires_grad_(False), nn.Linear(8, 8))
    with attach(model, neftune()) as handle:
        model(batch())
        assert handle.lookups == 1
