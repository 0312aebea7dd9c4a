"""The only ``nn.Embedding`` of a model may not be that of its tokens."""

import warnings

import pytest
import torch
from torch import nn
from torch.nn import functional

from embnoise import neftune
from embnoise_torch import attach
from tests.torch.models import batch

WARNED = "is not what the model was called with"
IDS = batch(2, 12)


class Tokens(nn.Module):
    """A table of one's own."""

    def __init__(self):
        super().__init__()
        self.table = nn.Parameter(torch.randn(50, 8))

    def forward(self, x):
        return functional.embedding(x, self.table)


class Positions(nn.Module):
    def __init__(self):
        super().__init__()
        self.tokens, self.other = Tokens(), nn.Embedding(64, 8)

    def forward(self, idx, targets=None):
        return self.tokens(idx) + self.other(torch.arange(idx.shape[1]))


class Types(Positions):
    def forward(self, input_ids, attention_mask=None, token_type_ids=None):
        return self.tokens(input_ids) + self.other(token_type_ids)


class Shifted(Positions):
    """A table that begins with other entries."""

    def forward(self, input_ids):
        return self.other(input_ids + 2)


class TwoTowers(Positions):
    def forward(self, query_ids, document_ids):
        return self.other(query_ids).sum(1) + self.other(document_ids).sum(1)


class Pairs(Positions):
    def forward(self, input_ids, rejected_input_ids):
        return self.other(input_ids) + self.other(rejected_input_ids)


class Hashed(Positions):
    def forward(self, x):
        return self.other(x % 7) + self.other(x % 11)


class Chosen(Positions):
    def forward(self, input_ids):
        return self.other(input_ids[:, [3, 1, 4]])


def messages(model, *args, compiled=False):
    torch.compiler.reset()
    with warnings.catch_warnings(record=True) as caught, attach(model, neftune(5.0)):
        warnings.simplefilter("always")
        called = torch.compile(model, fullgraph=True, backend="eager") if compiled else model
        for _ in range(2):
            called(*args)
    return [str(each.message) for each in caught]


@pytest.mark.parametrize("compiled", [False, True], ids=["eager", "compiled"])
@pytest.mark.parametrize(
    ("model", "args"),
    [
        (Positions, (IDS,)),
        (Positions, (IDS, IDS)),
        (Types, (IDS, None, torch.zeros_like(IDS))),
        (Shifted, (IDS,)),
    ],
)
def test_another_lookup_is_warned_of_once(model, args, compiled):
    (message,) = messages(model(), *args, compiled=compiled)
    assert WARNED in message


@pytest.mark.parametrize(
    ("model", "args"),
    [
        (TwoTowers, (IDS, batch(2, 9, seed=1))),
        (TwoTowers, (IDS, batch(2, 12, seed=1))),
        (Pairs, (IDS, batch(2, 12, seed=1))),
        (Hashed, (IDS,)),
        (Chosen, (IDS,)),
        (Positions, (torch.arange(12)[None],)),
    ],
)
def test_tokens_under_other_names_are_not(model, args):
    assert messages(model(), *args) == []


def test_the_user_decides():
    model = Positions()
    with attach(model, neftune(5.0), layer="other"):
        model(IDS)
    with attach(model, neftune(5.0), tokens=lambda ids: {}):
        model(IDS)
