"""Forwards that take a batch in one argument, any argument, or arguments of other names."""

import dataclasses
from collections.abc import Mapping
from typing import NamedTuple

import pytest
import torch
from torch import nn
from transformers import BatchEncoding

from embnoise import neftune
from embnoise_torch import add_noise, attach
from embnoise_torch.model.find import find_callers
from tests.torch.models import batch, zeroed

NOISE = neftune(20.0, seed=3)
MASK = torch.tensor([[0, 0, 0, 1, 1, 1, 1, 1], [1] * 8])


def expected(**arguments):
    return add_noise(torch.zeros(2, 8, 8), NOISE, step=0, **arguments)


def zeros():
    return nn.Embedding.from_pretrained(torch.zeros(50, 8), freeze=False)


class AnyName(nn.Module):
    """Takes a batch as it comes from a loader."""

    def __init__(self):
        super().__init__()
        self.embed = zeros()

    def forward(self, **batch):
        return self.embed(batch["input_ids"])


class BothSides(nn.Module):
    def __init__(self):
        super().__init__()
        self.encoder, self.decoder = nn.Sequential(zeros()), nn.Sequential(zeros())

    def forward(self, **batch):
        return self.encoder(batch["input_ids"]), self.decoder(batch["decoder_input_ids"])


class Around(nn.Module):
    """Hands everything on, as DDP and PEFT do."""

    def __init__(self, module):
        super().__init__()
        self.module = module

    def forward(self, *args, **kwargs):
        return self.module(*args, **kwargs)


@pytest.mark.parametrize("around", [lambda model: model, Around])
def test_a_forward_that_takes_any_name(around):
    model = around(AnyName())
    with attach(model, NOISE):
        noisy = model(input_ids=batch(), attention_mask=MASK)
        assert torch.equal(noisy, expected(mask=MASK))
        noisy = model(input_ids=batch())
        assert torch.equal(noisy, expected(sample_ids=torch.tensor([2, 3])))


def test_a_forward_that_takes_any_name_for_two_sides():
    model, ids = BothSides(), batch()
    with attach(model, NOISE, layer=["encoder.0", "decoder.0"]) as handle:
        streams = handle._noises()
        noisy = model(
            input_ids=ids,
            attention_mask=MASK,
            decoder_input_ids=ids,
            decoder_attention_mask=MASK.flip(1),
        )
    for side, mask, seen in zip(streams.values(), (MASK, MASK.flip(1)), noisy, strict=True):
        assert torch.equal(seen, add_noise(torch.zeros(2, 8, 8), side, step=0, mask=mask))


def test_a_forward_that_takes_several_names_is_not_asked_where_another_names_a_mask():
    model, outer = zeroed(), AnyName()
    outer.embed = model
    outer.forward = lambda *args, **batch: model(batch["input_ids"])
    assert [each.module for each in find_callers(outer, [model.embed])] == [model]


@dataclasses.dataclass
class Rows:
    input_ids: torch.Tensor
    attention_mask: torch.Tensor


class NamedRows(NamedTuple):
    ids: torch.Tensor
    attention_mask: torch.Tensor


class TakesABatch(nn.Module):
    """Takes a batch as one argument; a model inside may get the ids alone."""

    def __init__(self, inner):
        super().__init__()
        self.inner = inner

    def forward(self, batch):
        return self.inner(batch["input_ids"] if isinstance(batch, Mapping) else batch[0])


@pytest.mark.parametrize("kind", ["dict", "dataclass", "named tuple", "BatchEncoding", "any name"])
@pytest.mark.parametrize("inner", ["a model", "an embedding"])
def test_a_batch_in_one_argument(kind, inner):
    ids = batch(2, 8)
    model = TakesABatch(zeroed() if inner == "a model" else zeros())
    made = {
        "dict": {"input_ids": ids, "attention_mask": MASK},
        "dataclass": Rows(ids, MASK),
        "named tuple": NamedRows(ids, MASK),
        "BatchEncoding": BatchEncoding({"input_ids": ids, "attention_mask": MASK}),
    }
    if kind == "any name":
        model.forward = lambda **batch: model.inner(batch["input_ids"])
    if kind == "dataclass":
        model.forward = lambda batch: model.inner(batch.input_ids)
    with attach(model, NOISE):
        noise = model(**made["dict"]) if kind == "any name" else model(made[kind])
    assert torch.equal(noise, expected(mask=MASK))


class Stepwise(nn.Module):
    """Looks up a part of its rows at a time, under names of its own."""

    def __init__(self, width):
        super().__init__()
        self.embed, self.width = zeros(), width

    def forward(self, x):
        parts = x.unbind(1) if self.width == 0 else x.split(self.width, dim=1)
        return torch.stack([self.embed(part).sum() for part in parts])


def test_a_part_of_the_rows_at_a_time_under_any_name():
    ids = batch(8, 100)
    for width in (0, 1):
        model = Stepwise(width)
        with attach(model, NOISE), pytest.raises(ValueError, match="one token of each row"):
            model(ids)
    model = Stepwise(50)
    with attach(model, NOISE), pytest.warns(RuntimeWarning, match="a part of each row"):
        model(ids)
    model = Stepwise(0)
    with attach(model, neftune(20.0, length=100)) as handle:
        model(ids)
        assert handle.lookups == 100
