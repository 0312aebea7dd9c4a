"""Batches of any class, beside other arguments, and in other batches."""

from types import MethodType, SimpleNamespace
from typing import NamedTuple

import numpy as np
import pytest
import torch
from torch import nn

from embnoise import neftune
from embnoise_torch import add_noise, attach
from embnoise_torch.model.batches import fields_of
from tests.frameworks import EAGER_OR_COMPILED
from tests.torch.models import zeroed
from tests.torch.test_untold_padding import IDS, MASK, WARNED, messages

NOISE = neftune(20.0, seed=3)
UNREAD = "the only argument of a call around the embedding is an object that cannot be read"
EXPECTED = add_noise(torch.zeros(3, 6, 8), NOISE, step=0, mask=MASK)


class Plain:
    """A batch of a class that says nothing about itself, as pydantic's are."""

    def __init__(self, **fields):
        vars(self).update(fields)


class Keyed:
    """A batch that only behaves like a mapping."""

    def __init__(self, **fields):
        self._fields = fields

    def keys(self):
        return self._fields.keys()

    def __getitem__(self, name):
        return self._fields[name]


class Example(NamedTuple):
    """A batch that has another one in it."""

    text: dict
    number: int


class Hidden:
    """A batch whose entries cannot be found."""

    __slots__ = ("input_ids", "mask")

    def __init__(self, input_ids, mask):
        self.input_ids, self.mask = input_ids, mask


def taking(parameters="batch", look="batch.input_ids"):
    """A model whose forward has these parameters, and looks this up."""
    space = {}
    exec(f"def forward(self, {parameters}): return self.embed({look})", space)  # noqa: S102

    class Taking(nn.Module):
        def __init__(self):
            super().__init__()
            self.embed = nn.Embedding(50, 8)

        forward = space["forward"]

    return zeroed(Taking())


def noise_of(model, *args, compiled=False, **kwargs):
    torch.compiler.reset()
    call = torch.compile(model, backend="aot_eager", fullgraph=True) if compiled else model
    with attach(model, NOISE):
        return call(*args, **kwargs)


@pytest.mark.parametrize("compiled", EAGER_OR_COMPILED)
@pytest.mark.parametrize(
    ("kind", "look"), [(Plain, "batch.input_ids"), (Keyed, "batch['input_ids']")]
)
def test_a_batch_of_a_class_of_its_own(kind, look, compiled):
    given = kind(input_ids=IDS, attention_mask=MASK)
    assert torch.equal(noise_of(taking(look=look), given, compiled=compiled), EXPECTED)
    assert torch.equal(
        noise_of(taking("batch, stage=''", look), given, compiled=compiled), EXPECTED
    )


@pytest.mark.parametrize(("kind", "look"), [(Plain, "batch.x"), (Keyed, "batch['x']")])
def test_an_unknown_name_in_such_a_batch_is_warned_of(kind, look):
    (message,) = messages(taking(look=look), kind(x=IDS, lengths=MASK.sum(1)))
    assert WARNED in message
    assert messages(taking(look=look), kind(x=IDS)) == []


def test_a_batch_that_cannot_be_read_is_warned_of_once():
    model, given = taking(), Hidden(IDS, MASK)
    (message,) = messages(model, given)
    assert UNREAD in message
    assert messages(model, given, alpha=0.0) == []
    about = {"tokens": lambda batch: {"mask": batch.mask}}
    assert messages(model, given, about=about) == []
    two = taking("batch, other=None")
    for setting in ("fit", True, 3, 0.5):
        (message,) = messages(two, given, setting)
        assert UNREAD in message
    for other in (IDS, given, [1, 2]):  # it may be anything
        assert messages(two, given, other) == []


def test_a_call_inside_that_tells_its_mask_is_enough():
    class Outer(nn.Module):
        def __init__(self):
            super().__init__()
            self.inner = taking("input_ids, attention_mask", "input_ids")

        def forward(self, batch):
            return self.inner(batch.input_ids, batch.mask)

    assert messages(Outer(), Hidden(IDS, MASK)) == []


def test_what_is_no_batch():
    for each in (
        None,
        1,
        "text",
        IDS,
        [IDS],
        (IDS,),
        np.zeros(3),
        nn.Linear(2, 2),
        Plain,
        Plain(x=1),
    ):
        assert fields_of(each) == {}
    assert fields_of(SimpleNamespace(x=1)) == {"x": 1}


def test_a_cache_of_transformers_is_no_batch():
    transformers = pytest.importorskip("transformers")
    cache = transformers.DynamicCache()
    cache.update(torch.zeros(1, 1, 2, 4), torch.zeros(1, 1, 2, 4), 0)
    assert fields_of(cache) == {}


@pytest.mark.parametrize("compiled", EAGER_OR_COMPILED)
@pytest.mark.parametrize("parameters", ["position_ids=None", "attention_mask=None", "**options"])
def test_a_batch_beside_a_known_name(parameters, compiled):
    model = taking(f"batch, {parameters}", "batch['input_ids']")
    given = {"input_ids": IDS, "attention_mask": MASK}
    assert torch.equal(noise_of(model, given, compiled=compiled), EXPECTED)


def test_what_a_call_passes_itself_comes_first():
    model = taking("batch, attention_mask=None, position_ids=None", "batch['input_ids']")
    given = {"input_ids": IDS, "attention_mask": MASK.flip(1), "position_ids": None}
    assert torch.equal(noise_of(model, given, MASK), EXPECTED)
    positions = torch.tensor([[0, 1, 2, 0, 1, 2]])
    packed = add_noise(
        torch.zeros(3, 6, 8),
        NOISE,
        step=0,
        mask=MASK,
        segment_ids=torch.tensor([[1, 1, 1, 2, 2, 2]] * 3),
    )
    given["attention_mask"] = MASK
    assert torch.equal(noise_of(model, given, position_ids=positions), packed)
    given["position_ids"] = positions
    assert torch.equal(noise_of(model, given, None, None), packed)


NESTED = {"input_ids": IDS, "attention_mask": MASK}


@pytest.mark.parametrize(
    ("given", "look"),
    [
        ({"inputs": NESTED, "labels": IDS}, "batch['inputs']['input_ids']"),
        ((NESTED, IDS), "batch[0]['input_ids']"),
        ([{"text": Plain(**NESTED)}], "batch[0]['text'].input_ids"),
        (Example(NESTED, 1), "batch.text['input_ids']"),
    ],
    ids=["dict", "tuple", "list", "named tuple"],
)
def test_the_only_batch_in_another_one(given, look):
    assert torch.equal(noise_of(taking(look=look), given), EXPECTED)


def test_one_of_several_batches_is_warned_of():
    given = {"query": NESTED, "answer": {"input_ids": IDS + 1, "attention_mask": MASK}}
    (message,) = messages(taking(look="batch['query']['input_ids']"), given)
    assert WARNED in message
    assert "in one of several nested batches" in message


class Around(nn.Module):
    """Around a module that names a mask, and is called with what ``hand_on`` makes of a batch."""

    def __init__(self, parameters, hand_on):
        super().__init__()
        self.inner = zeroed()
        space = {}
        exec(f"def forward(self, {parameters}): return self.inner({hand_on})", space)  # noqa: S102
        self.forward = MethodType(space["forward"], self)


@pytest.mark.parametrize(
    ("parameters", "hand_on"),
    [
        ("batch", "batch['input_ids']"),
        ("batch, labels=None", "batch['input_ids']"),
        ("labels, batch, **options", "input_ids=batch['input_ids']"),
        ("labels=None, **batch", "input_ids=batch['input_ids'].clone()"),
    ],
)
def test_a_batch_around_a_module_that_is_given_ids_alone(parameters, hand_on):
    given = {"input_ids": IDS, "attention_mask": MASK}
    call = given if "**batch" in parameters else {"batch": given}
    call |= {"labels": IDS} if "labels" in parameters else {}
    assert torch.equal(noise_of(Around(parameters, hand_on), **call), EXPECTED)


def test_an_unknown_mask_around_a_module_that_is_given_ids_alone():
    model = Around("tokens, keep=None", "tokens")
    with pytest.warns(RuntimeWarning, match="looks like a mask"):
        noise_of(model, IDS, MASK)
    assert messages(model, IDS, torch.ones_like(MASK)) == []
