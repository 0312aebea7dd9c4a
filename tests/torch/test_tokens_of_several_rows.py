"""Lookups of one token of each row, or of all rows in one, whatever the arguments are called."""

import pytest
import torch
from torch import nn

from embnoise import neftune
from embnoise_torch import add_noise, attach
from tests.torch.test_masks_beside_arguments import model
from tests.torch.test_untold_padding import IDS, MASK, messages

TARGETS = IDS[:, :5] + 20
COLUMN = "one token of each row"
PART = "looks up a part of each row"


class Decoder(nn.Module):
    def __init__(self, axes):
        super().__init__()
        self.e, self.axes = nn.Embedding(50, 8), axes

    def forward(self, token, hidden):
        return self.e(token if self.axes == 1 else token[:, None]).reshape(-1, 8) + hidden


class Seq2Seq(nn.Module):
    """Looks up one token of its decoder at a time: those of the targets, or its own."""

    def __init__(self, axes, *, forced):
        super().__init__()
        self.encoder, self.decoder = nn.Embedding(50, 8), Decoder(axes)
        self.forced = forced

    def forward(self, src, trg):
        hidden = self.encoder(src)[:, -1]
        token = trg[:, 0]
        for step in range(1, trg.shape[1]):
            hidden = self.decoder(token if self.forced else token.flip(0), hidden)
            token = trg[:, step]
        return hidden


@pytest.mark.parametrize("axes", [1, 2])
def test_a_decoder_that_reads_its_targets_step_by_step(axes):
    layers = Seq2Seq(axes, forced=True)
    with attach(layers, neftune(5.0), layer="decoder.e"), pytest.raises(ValueError, match=COLUMN):
        layers(IDS, TARGETS)
    with attach(layers, neftune(5.0, length=5), layer="decoder.e") as handle:
        layers(IDS, TARGETS)
        assert handle.lookups == 4


@pytest.mark.parametrize("axes", [1, 2])
def test_a_decoder_that_reads_its_own_tokens(axes):
    found = messages(Seq2Seq(axes, forced=False), IDS, TARGETS, about={"layer": "decoder.e"})
    assert found
    assert all(PART in message for message in found)


@pytest.mark.parametrize(
    ("parameters", "looked_up"),
    [
        ("ids", "ids[ids > 2]"),
        ("ids, mask", "ids[mask]"),
        ("ids", "ids.flip(0).flatten()[:14]"),
        ("input_ids", "input_ids[input_ids > 2]"),
    ],
)
def test_the_tokens_of_several_rows_in_one(parameters, looked_up):
    faulty = model(parameters, looked_up)
    args = (IDS, MASK)[: 1 + parameters.count(",")]
    with attach(faulty, neftune(5.0)), pytest.raises(ValueError, match="tokens of several rows"):
        faulty(*args)


class Unpadded(nn.Module):
    """Takes the padding out of its rows before it calls a model that reads their lengths."""

    def __init__(self, told):
        super().__init__()
        self.inner, self.told = model("input_ids, cu_seqlens, position_ids", "input_ids"), told

    def forward(self, tokens, mask):
        lengths = mask.sum(1)
        ends = nn.functional.pad(lengths.cumsum(0), (1, 0))
        positions = torch.cat([torch.arange(length) for length in lengths.tolist()])
        told = (ends, None) if self.told == "ends" else (None, positions[None])
        return self.inner(tokens[mask], *told)


@pytest.mark.parametrize("told", ["ends", "positions"])
def test_rows_that_the_model_joins_for_one_that_reads_lengths(told):
    segments = torch.repeat_interleave(torch.arange(1, 4), MASK.sum(1))[None]
    joined = Unpadded(told)
    with attach(joined, neftune(5.0)):
        noisy = joined(IDS, MASK)
    expected = add_noise(torch.zeros(1, 16, 8), neftune(5.0), step=0, segment_ids=segments)
    assert torch.equal(noisy, expected[0])


@pytest.mark.parametrize(
    ("parameters", "looked_up", "args"),
    [
        ("ids", "torch.arange(19)", (IDS,)),
        ("edges, nodes", "nodes", (torch.arange(8).reshape(2, 4), torch.arange(8).flip(0))),
        ("tokens, languages", "languages", (IDS, torch.tensor([3, 1, 2]))),
    ],
)
def test_what_has_no_rows(parameters, looked_up, args):
    assert messages(model(parameters, looked_up), *args, about={"layer": "e"}) == []
