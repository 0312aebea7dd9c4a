"""Whose mask ``attention_mask`` is, where the ids are not called ``input_ids``."""

import pytest
import torch
from torch import nn

from embnoise import neftune
from embnoise_torch import add_noise, attach
from tests.frameworks import EAGER_OR_COMPILED
from tests.torch.test_untold_padding import IDS, MASK

NOISE = neftune(5.0)
OTHERS = IDS.flip(0) + 20
OTHER = "not those that the model was called with"


def model(parameters, looked_up, **options):
    """A model that looks up an expression of the parameters of its forward."""
    space = {"torch": torch}
    exec(f"def forward(self, {parameters}): return self.e({looked_up})", space)  # noqa: S102

    class Model(nn.Module):
        def __init__(self):
            super().__init__()
            self.e = nn.Embedding(50, 8, **options)
            nn.init.zeros_(self.e.weight)

        forward = space["forward"]

    return Model()


@pytest.mark.parametrize("compiled", EAGER_OR_COMPILED)
@pytest.mark.parametrize(
    ("parameters", "looked_up", "args"),
    [
        ("src, tgt, attention_mask", "tgt", (IDS, OTHERS)),
        ("context_ids, response_ids, attention_mask", "response_ids", (IDS, OTHERS)),
        ("src_tokens, tgt_tokens, attention_mask", "tgt_tokens", (IDS, OTHERS)),
        ("tokens, attention_mask", "tokens.flip(1)", (IDS,)),
        ("token_ids, attention_mask", "token_ids.flip(1)", (IDS,)),
        ("tokens, attention_mask", "tokens[[1, 2, 0]]", (IDS,)),
        ("tokens, attention_mask", "tokens[[1, 2, 0]]", (IDS * MASK,)),
        ("tokens, attention_mask", "tokens.flip(1)", (IDS * MASK,)),
    ],
)
def test_other_tokens_of_the_same_shape_are_refused(parameters, looked_up, args, compiled):
    torch.compiler.reset()
    faulty = model(parameters, looked_up)
    called = torch.compile(faulty, backend="eager") if compiled else faulty
    with attach(faulty, NOISE), pytest.raises(ValueError, match=OTHER):
        called(*args, MASK)


@pytest.mark.parametrize(
    ("parameters", "looked_up", "args"),
    [
        ("src, tgt, attention_mask", "src", (IDS, OTHERS)),
        ("tokens, targets, attention_mask", "tokens", (IDS, OTHERS)),
        ("speakers, tokens, attention_mask", "tokens", (OTHERS, IDS)),
        ("speaker_ids, token_ids, attention_mask", "token_ids", (OTHERS, IDS)),
        ("src, tgt, attention_mask", "tgt", (OTHERS[:, :4], IDS)),
        ("title, body, attention_mask", "torch.cat([title, body], 1)", (IDS[:, :2], IDS[:, 2:])),
        ("tokens, attention_mask", "tokens + 1", (IDS * MASK,)),
        ("features, attention_mask", "features.argmax(-1)", (torch.rand(3, 6, 5),)),
    ],
)
def test_the_mask_is_that_of_the_likeliest_argument(parameters, looked_up, args):
    correct = model(parameters, looked_up)
    with attach(correct, NOISE):
        noisy = correct(*args, MASK)
    assert torch.equal(noisy, add_noise(torch.zeros(3, 6, 8), NOISE, step=0, mask=MASK))
