"""A mask is not taken for ids that only have many tokens in common with those it came with."""

import pytest
import torch
from torch import nn

from embnoise import neftune
from embnoise_torch import add_noise, attach
from tests.frameworks import EAGER_OR_COMPILED
from tests.torch.models import Embedder, batch, zeroed

NOISE = neftune(20.0, seed=3)
OTHERS = r"are not those that the model was called with, .* may be of other tokens; pass attach"


def pair():
    """Two answers to the same prompts, of different lengths, with their masks."""
    prompt = batch(2, 10)
    found = []
    for seed, lengths in enumerate([(4, 2), (1, 4)], start=1):
        mask = torch.cat([torch.ones(2, 10), torch.zeros(2, 4)], 1).long()
        for row, length in enumerate(lengths):
            mask[row, : 10 + length] = 1
        ids = torch.cat([prompt, batch(2, 4, seed)], 1) * mask
        found += [ids, mask]
    return found


class Scored(nn.Module):
    """A backbone whose arguments have names of its own."""

    def __init__(self):
        super().__init__()
        self.embed = zeroed().embed

    def forward(self, x, keep=None):
        return self.embed(x)


class Outer(nn.Module):
    def __init__(self):
        super().__init__()
        self.inner = Scored()


class Names(Outer):
    def forward(self, input_ids, attention_mask, rejected_input_ids, rejected_attention_mask):
        return self.inner(input_ids), self.inner(rejected_input_ids)


class Direct(Outer):
    def forward(self, input_ids, attention_mask, rejected_input_ids, rejected_attention_mask):
        return self.inner.embed(input_ids), self.inner.embed(rejected_input_ids.clone())


class Batches(Outer):
    def forward(self, chosen, rejected):
        return tuple(self.inner(each["input_ids"], 1) for each in (chosen, rejected))


class Listed(Outer):
    def forward(self, input_ids, attention_mask, negatives):
        return self.inner(input_ids), self.inner(negatives[1])


def names(model, ids, mask, other, other_mask):
    return model(ids, mask, other, other_mask)


def batches(model, *arrays):
    keys = "input_ids", "attention_mask"
    return model(*(dict(zip(keys, each, strict=True)) for each in (arrays[:2], arrays[2:])))


def listed(model, ids, mask, other, _):
    return model(ids, mask, [ids[:, 1:], other])


CALLS = [(Names, names), (Direct, names), (Batches, batches), (Listed, listed)]


@pytest.mark.parametrize("compiled", EAGER_OR_COMPILED)
@pytest.mark.parametrize(("kind", "call"), CALLS)
def test_a_pair_that_shares_its_prompts(kind, call, compiled):
    model = kind()
    if compiled:
        torch._dynamo.reset()
        model.compile(backend="aot_eager", fullgraph=True)
    with attach(model, NOISE), pytest.raises(ValueError, match=OTHERS):
        call(model, *pair())
    tokens = {"tokens": lambda ids: {"mask": ids != 0}}
    with attach(model, NOISE, **tokens):
        first, second = call(model, *pair())
    _, mask, _, other = pair()
    assert torch.equal(first, add_noise(torch.zeros(2, 14, 8), NOISE, step=0, mask=mask))
    rows = torch.tensor([2, 3])
    expected = add_noise(torch.zeros(2, 14, 8), NOISE, step=0, mask=other, sample_ids=rows)
    assert torch.equal(second, expected)


def test_a_compiled_pair_that_shares_its_prompts():
    test_a_pair_that_shares_its_prompts(Listed, listed, compiled=True)


def test_one_that_is_the_other_shortened():
    """Padding takes the places of all that differs, and is no id of a mask."""
    ids, mask, *_ = pair()
    shorter = ids.clone()
    shorter[:, 11:] = 0
    model = Names()
    with attach(model, NOISE), pytest.raises(ValueError, match=OTHERS):
        model(ids, mask, shorter, mask)


class Changed(Embedder):
    """Looks up something made of its ids, perhaps in a module of its own."""

    def __init__(self, change, inner):
        super().__init__()
        self.change = change
        self.inner = OneArgument(self.embed) if inner else self.embed

    def forward(self, input_ids, attention_mask):
        return self.inner(self.change(input_ids))


class OneArgument(nn.Module):
    def __init__(self, embed):
        super().__init__()
        self.embed = embed

    def forward(self, idx):
        return self.embed(idx)


def noise_of(change, ids, mask, inner=False):
    model = zeroed(Changed(change, inner))
    with attach(model, NOISE):
        return model(ids, mask)


def some(ids, share=0.2):
    return torch.rand(ids.shape, generator=torch.Generator().manual_seed(0)) < share


def ragged(rows=8, length=20):
    mask = torch.ones(rows, length, dtype=torch.long)
    mask[0, 12:] = mask[1, 15:] = 0
    return batch(rows, length) * mask, mask


@pytest.mark.parametrize("inner", [False, True])
def test_a_row_of_another_sample(inner):
    ids, mask = ragged()

    def mixed(ids):
        return torch.cat([batch(1, 20, seed=7), ids[1:]])

    with pytest.raises(ValueError, match=OTHERS):
        noise_of(mixed, ids, mask, inner)


def test_random_tokens_in_place_of_some():
    """The embedding alone cannot tell them from others; a module that was given them can."""
    ids, mask = ragged()

    def replaced(ids):
        return torch.where(some(ids) & (ids != 0), batch(8, 20, seed=7), ids)

    noise = noise_of(replaced, ids, mask)
    assert torch.equal(noise, add_noise(torch.zeros_like(noise), NOISE, step=0, mask=mask))
    with pytest.raises(ValueError, match=OTHERS):
        noise_of(replaced, ids, mask, inner=True)


@pytest.mark.parametrize("share", [0.2, 0.9])
def test_the_id_of_a_mask_in_place_of_some(share):
    ids, mask = ragged()
    noise = noise_of(lambda ids: torch.where(some(ids, share), 49, ids), ids, mask, inner=True)
    assert torch.equal(noise, add_noise(torch.zeros_like(noise), NOISE, step=0, mask=mask))


@pytest.mark.parametrize("seed", range(20))
def test_rows_of_few_symbols_from_right_to_left(seed):
    _, mask = ragged(4)
    ids = torch.randint(1, 3, (4, 20), generator=torch.Generator().manual_seed(seed)) * mask
    with pytest.raises(ValueError, match=OTHERS):
        noise_of(lambda ids: ids.flip(1), ids, mask)


def test_words_that_change_places_before_padding_keep_the_mask():
    ids, mask = ragged()

    def swapped(ids):
        order = torch.arange(20)
        order[[3, 4]] = order[[4, 3]]
        return ids[:, order]

    noise = noise_of(swapped, ids, mask)
    assert torch.equal(noise, add_noise(torch.zeros_like(noise), NOISE, step=0, mask=mask))
