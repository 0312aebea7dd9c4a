"""Padding that a model's call tells in words that are not known is warned of, once."""

import warnings

import pytest
import torch
from torch import nn

from embnoise import neftune
from embnoise_torch import attach

WARNED = "looks like a mask, lengths or documents under a name that is not known"
IDS = torch.arange(1, 19).reshape(3, 6)
MASK = torch.tensor([[1, 1, 1, 1, 0, 0], [1] * 6, [1] * 6], dtype=torch.bool)


class Own(nn.Module):
    """A model with names of its own."""

    def __init__(self):
        super().__init__()
        self.embed = nn.Embedding(50, 8)

    def forward(self, x, mask=None, lengths=None, loss_mask=None, special_tokens_mask=None):
        return self.embed(x)


class Padded(Own):
    def forward(self, input_ids, src_key_padding_mask=None):
        return self.embed(input_ids)


class AnyName(Own):
    def forward(self, **batch):
        return self.embed(batch["ids"])


def nothing():
    """What ``tokens`` is where all tokens are real."""
    return {}


def messages(model, *args, compiled=False, alpha=5.0, about=None, **kwargs):
    """The warnings of two training calls."""
    torch.compiler.reset()
    with (
        warnings.catch_warnings(record=True) as caught,
        attach(model, neftune(alpha), optimizer="manual", **about or {}),
    ):
        warnings.simplefilter("always")
        called = torch.compile(model, fullgraph=True, backend="eager") if compiled else model
        for _ in range(2):
            called(*args, **kwargs).sum().backward()
    return [str(each.message) for each in caught]


@pytest.mark.parametrize("compiled", [False, True], ids=["eager", "compiled"])
@pytest.mark.parametrize(
    ("model", "args", "kwargs"),
    [
        (Own, (IDS, MASK), {}),
        (Own, (IDS,), {"mask": MASK.float()}),
        (Own, (IDS.T.contiguous(),), {"mask": MASK}),
        (Own, (IDS,), {"lengths": torch.tensor([4, 6, 6])}),
        (Own, (IDS,), {"lengths": [4, 6, 6]}),
        (Padded, (IDS, ~MASK), {}),
        (AnyName, (), {"ids": IDS, "token_mask": MASK}),
    ],
    ids=["mask", "float", "transposed", "lengths", "list", "padding", "any name"],
)
def test_padding_under_an_unknown_name_is_warned_of_once(model, args, kwargs, compiled):
    (message,) = messages(model(), *args, compiled=compiled, **kwargs)
    assert WARNED in message


@pytest.mark.parametrize(
    ("model", "args", "kwargs"),
    [
        (Own, (IDS,), {}),
        (Own, (IDS, torch.ones(3, 6)), {}),
        (Own, (IDS, torch.zeros(3, 6, dtype=torch.bool)), {}),
        (Own, (IDS, torch.eye(6)), {}),
        (Own, (IDS,), {"lengths": torch.tensor([6, 6, 6])}),
        (Own, (IDS,), {"loss_mask": MASK}),
        (Own, (IDS,), {"special_tokens_mask": MASK}),
        (Own, (IDS, MASK), {"alpha": 0.0}),
        (Own, (IDS, MASK), {"about": {"tokens": lambda mask: {"mask": mask}}}),
        (Own, (IDS, MASK), {"about": {"tokens": nothing}}),
        (Own, (IDS, MASK), {"about": {"where": lambda mask: mask}}),
        (AnyName, (), {"ids": IDS, "token_mask": MASK, "attention_mask": MASK}),
    ],
    ids=[
        "nothing", "ones", "zeros", "L x L", "full", "loss", "special", "no alpha", "tokens",
        "no tokens", "where", "attention_mask",
    ],
)  # fmt: skip
def test_what_tells_no_padding_is_not_warned_of(model, args, kwargs):
    assert messages(model(), *args, **kwargs) == []


def test_a_mask_that_comes_later_is_warned_of():
    model = Own()
    with attach(model, neftune(5.0), optimizer="manual"):
        model(IDS, torch.ones(3, 6))
        with pytest.warns(RuntimeWarning, match=WARNED):
            model(IDS, MASK)


@pytest.mark.parametrize("edge", [0, -1])
def test_a_mask_that_says_that_the_id_of_padding_is_a_token(edge):
    """As for a text that ends with the id that is also that of padding."""

    class Told(Own):
        def __init__(self):
            super().__init__()
            self.embed = nn.Embedding(50, 8, padding_idx=0)

        def forward(self, input_ids, attention_mask=None):
            return self.embed(input_ids)

    ids = IDS.clone()
    ids[0, edge] = 0
    assert messages(Told(), ids, torch.ones_like(ids)) == []
    (message,) = messages(Told(), ids)
    assert "begins or ends with 0, the id of padding" in message
