"""Rows that a model joins, or takes parts of, whether or not it keeps an axis for rows."""

import pytest
import torch

from embnoise import neftune
from embnoise_torch import add_noise, attach
from tests.torch.test_masks_beside_arguments import model
from tests.torch.test_tokens_of_several_rows import Unpadded
from tests.torch.test_untold_padding import IDS, MASK, messages

PART = "looks up a part of each row"
ROW = IDS[:1]


@pytest.mark.parametrize("name", ["input_ids", "tokens"])
@pytest.mark.parametrize("looked_up", ["{}.view(1, -1)", "{}[{} % 6 != 2][None]"])
def test_rows_joined_in_one_row_are_refused(name, looked_up):
    joined = model(name, looked_up.format(name, name))
    with attach(joined, neftune(5.0)), pytest.raises(ValueError, match="tokens of several rows"):
        joined(IDS)
    with attach(joined, neftune(5.0, length=6)) as handle:
        joined(IDS)
        assert handle.lookups == 1


@pytest.mark.parametrize(
    ("parameters", "looked_up", "args"),
    [
        ("input_ids", "input_ids", (IDS.view(1, -1),)),
        ("input_ids", "input_ids.view(1, -1)", (ROW,)),
        ("input_ids", "input_ids[0]", (ROW,)),
        ("tokens", "torch.arange(18)[None]", (IDS,)),
        ("tokens, others", "others", (IDS, IDS.view(1, -1).flip(1))),
        ("tokens, languages", "languages", (ROW, ROW[0, 2:3])),
    ],
)
def test_one_row_that_the_model_was_called_with(parameters, looked_up, args):
    assert messages(model(parameters, looked_up), *args, about={"layer": "e"}) == []


def test_rows_that_the_model_joins_and_numbers():
    """The mask of the call inside has the numbers of documents."""
    numbers = torch.repeat_interleave(torch.arange(1, 4), MASK.sum(1))[None]

    class Joined(Unpadded):
        def forward(self, tokens, mask):
            return self.inner(input_ids=tokens[mask][None], attention_mask=numbers)

    joined = Joined("numbers")
    joined.inner = model("input_ids, attention_mask", "input_ids")
    with attach(joined, neftune(5.0)):
        noisy = joined(IDS, MASK)
    expected = add_noise(torch.zeros(1, 16, 8), neftune(5.0), step=0, segment_ids=numbers)
    assert torch.equal(noisy, expected)


@pytest.mark.parametrize("name", ["input_ids", "tokens"])
@pytest.mark.parametrize("part", ["{}[0, :3]", "{}[0, 2:5]", "{}[0, 1:5]"])
def test_a_part_of_the_one_row_is_warned_of(name, part):
    found = messages(model(name, part.format(name)), ROW)
    assert found
    assert all(PART in message for message in found)


def test_one_token_of_the_one_row_is_warned_of():
    found = messages(model("tokens", "tokens[:, 2]"), ROW)
    assert found
    assert all(PART in message for message in found)
