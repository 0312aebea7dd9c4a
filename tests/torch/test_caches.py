"""Calls with a cache of earlier tokens, whose mask is longer than their ids."""

import pytest
import torch
from torch import nn

from embnoise import neftune
from embnoise_torch import add_noise, attach
from tests.torch.models import Embedder, batch, llama, zeroed

NOISE = neftune(20.0, seed=3)
PART = r"with a cache of earlier tokens, and L is that of the tokens after.*neftune\(length=L\)"


def decode(model, ids, width, *, masked=True):
    past = None
    for start in range(0, ids.shape[1], width):
        stop = start + width
        mask = {"attention_mask": torch.ones_like(ids[:, :stop])} if masked else {}
        output = model(input_ids=ids[:, start:stop], past_key_values=past, use_cache=True, **mask)
        past = output.past_key_values


@pytest.mark.parametrize("width", [1, 4])
@pytest.mark.parametrize("masked", [True, False])
def test_parts_of_rows_are_warned_of(width, masked):
    model, ids = llama(), batch()
    with attach(model, NOISE), pytest.warns(RuntimeWarning, match=PART):
        decode(model, ids, width, masked=masked)


def test_nothing_is_warned_of_with_a_length_or_tokens():
    model, ids = llama(), batch()
    with attach(model, neftune(20.0, length=8)) as handle:
        decode(model, ids, 4)
        assert handle.lookups == 2
    with attach(model, NOISE, tokens=lambda ids: {"mask": ids != 0}) as handle:
        decode(model, ids, 4)
        assert handle.lookups == 2


def test_nothing_is_warned_of_without_earlier_tokens():
    from transformers import DynamicCache  # noqa: PLC0415

    model, ids = llama(), batch()
    mask = torch.tensor([[1] * 8, [1] * 6 + [0] * 2])
    with attach(model, NOISE) as handle:
        model(input_ids=ids, past_key_values=DynamicCache(config=model.config), use_cache=True)
        model(input_ids=ids, attention_mask=mask, past_key_values=DynamicCache())
        assert handle.lookups == 2


class SoftPrompt(nn.Module):
    """It appends a prompt to the embeddings, so that its mask is longer than its ids."""

    def __init__(self):
        super().__init__()
        self.inner = zeroed()

    def forward(self, input_ids, attention_mask, **kwargs):
        return self.inner.embed(input_ids)


@pytest.mark.parametrize(
    "call",
    [
        {},
        {"use_cache": False},
        {"use_cache": True},
        {"past_key_values": ()},
        {"cache_position": torch.arange(8)},
    ],
)
def test_what_holds_no_tokens_is_no_cache(call):
    mask = torch.tensor([[1] * 8 + [0] * 4, [1] * 12])
    model = SoftPrompt()
    with (
        attach(model, NOISE),
        pytest.raises(ValueError, match="or the call must have a cache"),
    ):
        model(batch(), mask, **call)


def test_an_outer_call_without_a_cache_has_whole_rows():
    """As in prefix tuning, where what is cached is no text."""

    class Prefix(Embedder):
        def __init__(self):
            super().__init__()
            self.inner = zeroed()
            self.embed = self.inner.embed

        def forward(self, input_ids, attention_mask):
            longer = nn.functional.pad(attention_mask, (2, 0), value=1)
            return self.inner(input_ids, longer, past_key_values=(torch.zeros(2, 2),))

    ids, mask = batch(), torch.tensor([[1] * 8, [1] * 6 + [0] * 2])
    model = Prefix()
    with attach(model, NOISE):
        assert torch.equal(
            model(ids, mask), add_noise(torch.zeros(2, 8, 8), NOISE, step=0, mask=mask)
        )


def test_a_cache_of_recurrent_states_is_one():
    from embnoise_torch.model.model_call import tokens_in  # noqa: PLC0415

    class Recurrent:
        def get_seq_length(self):
            raise ValueError("`get_seq_length` can only be called on Attention layers")

    assert tokens_in({"input_ids": batch(), "cache_params": Recurrent()}, "").cached is not None
    model = zeroed()
    with attach(model, NOISE), pytest.warns(RuntimeWarning, match=PART):
        model(batch(), cache_params=Recurrent())
