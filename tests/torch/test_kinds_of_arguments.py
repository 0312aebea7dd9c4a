"""Arguments of any kind beside the ids: lists, arrays, booleans, unsigned, sparse, empty."""

import numpy as np
import pytest
import torch
from torch import nn

from embnoise import neftune
from embnoise_torch import add_noise, attach
from tests.torch.test_masks_beside_arguments import model
from tests.torch.test_untold_arguments import told
from tests.torch.test_untold_padding import IDS, MASK, WARNED, messages

LENGTHS = [4, 6, 6]
UNSIGNED = IDS.to(torch.uint16)


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("lengths", tuple(LENGTHS)),
        ("lengths", np.array(LENGTHS)),
        ("lengths", list(np.array(LENGTHS))),
        ("lengths", list(torch.tensor(LENGTHS))),
        ("lengths", torch.tensor(LENGTHS)[:, None]),
        ("lengths", torch.tensor(LENGTHS, dtype=torch.uint16)),
        ("mask", MASK.numpy()),
        ("mask", MASK.tolist()),
        ("keep", MASK.tolist()),
    ],
    ids=lambda value: type(value).__name__,
)
def test_padding_is_warned_of(name, value):
    (message,) = told(name, value)
    assert WARNED in message


@pytest.mark.parametrize(
    "value",
    [
        torch.rand(3, 6) > 0.5,
        torch.tensor([True, False, True]),
        (torch.rand(3, 12) > 0.5)[:, ::2],
        torch.arange(22).reshape(2, 11)[:, -2:],
        torch.empty(0, dtype=torch.long),
        torch.empty(3, 0, dtype=torch.long),
        UNSIGNED,
        torch.eye(6).to_sparse(),
        torch.eye(6).long().to_sparse(),
        torch.empty(3, 6, dtype=torch.long, device="meta"),
        torch.ones(3, 6, dtype=torch.complex64),
        np.array([["a", "b"]]),
        np.array([None, {}]),
    ],
    ids=lambda value: f"{value.dtype}{tuple(value.shape)}",
)
@pytest.mark.parametrize("looked_up", ["(x * 7 + 1) % 50", "x.roll(1, 1)", "x"])
def test_an_argument_that_tells_nothing_is_no_error(looked_up, value):
    assert messages(model("x, y", looked_up), IDS, value) == []


@pytest.mark.parametrize("name", ["cache_length", "past_length"])
def test_a_number_is_no_cache(name):
    assert told(name, torch.tensor(4)) == []
    assert told(name, np.int64(4)) == []


@pytest.mark.parametrize(
    ("parameters", "args", "options"),
    [
        ("x", (UNSIGNED,), {}),
        ("x, y", (UNSIGNED, UNSIGNED.clone()), {}),
        ("input_ids", (UNSIGNED,), {}),
        ("input_ids, attention_mask", (UNSIGNED, MASK), {"mask": MASK}),
        ("input_ids, attention_mask", (IDS, MASK.to(torch.uint16)), {"mask": MASK}),
        ("input_ids, seq_idx", (IDS, torch.zeros(3, 6).to(torch.uint32)), {}),
        ("input_ids, position_ids", (IDS, torch.arange(6).to(torch.uint16)), {}),
        ("input_ids, position_ids", (IDS, torch.ones(3, 6, dtype=torch.bool)), {}),
    ],
)
def test_unsigned_integers(parameters, args, options):
    first = parameters.split(",")[0]
    each, noise = model(parameters, f"{first}.long()"), neftune(5.0)
    with attach(each, noise):
        noisy = each(*args)
    segments = {} if options else {"segment_ids": torch.ones(3, 6, dtype=torch.long)}
    expected = add_noise(torch.zeros(3, 6, 8), noise, step=0, **(options or segments))
    assert torch.equal(noisy, expected)


@pytest.mark.parametrize("shape", [(0, 10), (4, 0)])
def test_no_tokens(shape):
    layers = nn.Sequential(nn.Embedding(50, 8))
    with attach(layers, neftune(5.0)):
        assert layers(torch.empty(shape, dtype=torch.long)).shape == (*shape, 8)
