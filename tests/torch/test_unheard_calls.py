"""Padding that nothing tells: outside of calls, beside ``where=``, and of layers inside a model."""

import pytest
import torch
from torch import nn

from embnoise import neftune
from embnoise_torch import attach
from tests.torch.test_masks_beside_arguments import model
from tests.torch.test_untold_padding import IDS, MASK, WARNED, messages

LABELS = IDS.masked_fill(~MASK, -100)


class Encoder(nn.Module):
    """Has a method in place of its forward, which knows of no mask."""

    def __init__(self):
        super().__init__()
        self.e = nn.Embedding(50, 8)

    def encode(self, ids, mask):
        return self.e(ids) * mask[..., None]

    def forward(self, x):
        return self.encode(x, torch.ones_like(x))


def test_a_method_in_place_of_the_forward_is_warned_of():
    encoder = Encoder()
    with attach(encoder, neftune(5.0)), pytest.warns(RuntimeWarning, match="outside of a call"):
        encoder.encode(IDS, MASK)
    assert messages(encoder, IDS) == []


class Methods(nn.Module):
    """Has methods and no forward."""

    def __init__(self):
        super().__init__()
        self.e = nn.Embedding(50, 8)

    encode = Encoder.encode


@pytest.mark.parametrize("inside", [True, False])
def test_methods_without_a_forward_are_warned_of(inside):
    methods = Methods()
    around = nn.ModuleDict({"methods": methods}) if inside else methods
    with attach(around, neftune(5.0)), pytest.warns(RuntimeWarning, match="outside of a call"):
        methods.encode(IDS, MASK)


class Parts(nn.ModuleDict):
    """Has neither."""

    def __init__(self, parts):
        super().__init__(parts)


@pytest.mark.parametrize("kind", [nn.ModuleDict, Parts])
def test_parts_that_are_called_by_hand(kind):
    parts = kind({"e": nn.Embedding(50, 8), "others": nn.ModuleList()})
    with attach(parts, neftune(5.0)) as handle:
        parts["e"](IDS)
        assert handle.lookups == 1


@pytest.mark.parametrize("where", ["completion", lambda ids: ids > 3, lambda labels: labels > 3])
def test_where_that_takes_no_mask_tells_no_length(where):
    masked = model("ids, mask, labels", "ids")
    (message,) = messages(masked, IDS, MASK, LABELS, about={"where": where})
    assert WARNED in message


def test_where_that_takes_an_argument_of_its_own():
    masked = model("ids, mask", "ids")
    assert messages(masked, IDS, MASK, about={"where": lambda mask: mask}) == []


class Layers(nn.Module):
    """A model with a layer inside, pooled or not."""

    def __init__(self, pool=None):
        super().__init__()
        self.e, self.layer, self.pool = nn.Embedding(50, 8), nn.Identity(), pool

    def forward(self, tokens, mask=None):
        x = self.e(tokens) if tokens.ndim == 2 else tokens
        return self.layer(self.pool(x) if self.pool else x)


INSIDE = {"layer": "layer", "at": "input"}


@pytest.mark.parametrize(
    "given", [IDS, torch.ones(3, 6, 8, requires_grad=True)], ids=["ids", "features"]
)
def test_hidden_states_beside_an_unknown_mask(given):
    (message,) = messages(Layers(), given, MASK, about=INSIDE)
    assert WARNED in message
    assert messages(Layers(), given, about=INSIDE) == []


@pytest.mark.parametrize("pool", [lambda x: x[:, 0], lambda x: x.flatten(0, 1)])
def test_hidden_states_without_rows_are_refused(pool):
    pooled = Layers(pool)
    with attach(pooled, neftune(5.0), **INSIDE), pytest.raises(ValueError, match="1 rows of"):
        pooled(IDS)


def rows(ids):
    return [row[:length] for row, length in zip(ids, MASK.sum(1).tolist(), strict=True)]


@pytest.mark.parametrize(
    ("parameters", "looked_up", "args"),
    [
        ("rows", "torch.nn.utils.rnn.pad_sequence(rows, batch_first=True)", (rows(IDS),)),
        ("rows", "torch.cat(rows)", (rows(IDS),)),
        ("tokens, mask", "tokens[:, :-1]", (IDS, MASK)),
        ("tokens, mask", "tokens.repeat(2, 1)", (IDS, MASK)),
    ],
)
def test_rows_that_a_model_changes_before_the_lookup(parameters, looked_up, args):
    (message,) = messages(model(parameters, looked_up), *args)
    assert WARNED in message
