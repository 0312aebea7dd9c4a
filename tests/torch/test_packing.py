"""The documents of packed rows, in all the ways in which a call tells them."""

import pytest
import torch

from tests.torch.models import batch
from tests.torch.test_call import lengths


def test_document_numbers_in_the_mask():
    mask = torch.tensor([[1] * 4 + [2] * 8, [3] * 2 + [1] * 6 + [0] * 4])
    expected = [[4] * 4 + [8] * 8, [2] * 2 + [6] * 6 + [0] * 4]
    assert lengths(batch(2, 12), attention_mask=mask) == expected
    assert lengths(batch(2, 12), attention_mask=mask.to(torch.int32)) == expected


def test_seq_idx_alone():
    seq_idx = torch.tensor([[0, 0, 0, 1, 1, -1]], dtype=torch.int32)
    assert lengths(batch(1, 6), seq_idx=seq_idx) == [[3, 3, 3, 2, 2, 0]]
    assert lengths(batch(2, 6), seq_idx=seq_idx) == [[3, 3, 3, 2, 2, 0]] * 2


def test_seq_idx_with_a_mask():
    seq_idx = torch.tensor([[0, 0, 0, 1, 1, 1]])
    mask = torch.tensor([[1, 1, 1, 1, 1, 0]])
    assert lengths(batch(1, 6), seq_idx=seq_idx, attention_mask=mask) == [[3, 3, 3, 2, 2, 0]]


def test_text_positions_before_those_of_images():
    """Qwen2-VL: [4, B, L], text, time, height and width."""
    text = torch.tensor([[0, 1, 2, 0, 1, 0]])
    positions = torch.stack([text, *torch.zeros(3, 1, 6, dtype=torch.long)])
    assert lengths(batch(1, 6), position_ids=positions) == [[3, 3, 3, 2, 2, 1]]


def test_positions_in_time_height_and_width():
    """An image of 2 x 2 after one token of text, then text; and a document of text alone."""
    time = [0, 1, 1, 1, 1, 3, 4, 0, 1, 0]
    height = [0, 1, 1, 2, 2, 3, 4, 0, 1, 0]
    width = [0, 1, 2, 1, 2, 3, 4, 0, 1, 0]
    positions = torch.tensor([[time], [height], [width]])
    assert lengths(batch(1, 10), position_ids=positions) == [[7] * 7 + [2] * 2 + [1]]


def test_an_image_that_begins_a_document():
    time, height, width = [0, 0, 0, 0, 2], [0, 0, 1, 1, 2], [0, 1, 0, 1, 2]
    positions = torch.tensor([[time * 2], [height * 2], [width * 2]])
    assert lengths(batch(1, 10), position_ids=positions) == [[5] * 10]


def test_positions_of_another_kind_are_refused_without_a_mask():
    boxes = torch.zeros(2, 4, 4, dtype=torch.long)
    with pytest.raises(ValueError, match=r"position_ids must be of shape \[B, L\].*tokens="):
        lengths(batch(2, 4), position_ids=boxes[:, :, :, None])
    mask = torch.tensor([[1, 1, 1, 0], [1] * 4])
    expected = [[3, 3, 3, 0], [4] * 4]
    assert lengths(batch(2, 4), position_ids=boxes[..., None], attention_mask=mask) == expected


@pytest.mark.parametrize("lowest", [-1, -10000])
def test_an_additive_mask_of_integers_is_refused(lowest):
    mask = torch.tensor([[0, 0, lowest], [0, 0, 0]])
    with pytest.raises(ValueError, match=r"attention_mask .* may be additive"):
        lengths(batch(2, 3), attention_mask=mask)


def test_document_numbers_in_a_model_of_transformers():
    from embnoise import neftune  # noqa: PLC0415
    from embnoise_torch import add_noise  # noqa: PLC0415
    from tests.torch.models import llama, noisy_lookups  # noqa: PLC0415

    mask, noise = torch.tensor([[1] * 4 + [2] * 8]), neftune()
    seen = noisy_lookups(
        llama(), noise, lambda model: model(input_ids=batch(1, 12), attention_mask=mask)
    )
    [[(clean, noisy)]] = seen.values()
    assert torch.equal(noisy, add_noise(clean, noise, step=0, segment_ids=mask))
