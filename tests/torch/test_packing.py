"""The documents of packed rows, in all the ways in which a call tells them."""

import pytest
import torch

from tests.torch.models import batch
from tests.torch.test_call import lengths

PADDING = {"pad_token_id": 0}


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


@pytest.mark.parametrize(
    ("positions", "mask", "expected"),
    [
        ([0, 0, 1, 1, 2, 2], None, [6] * 6),  # groups, as of SelfExtend
        ([0, 1, 2, 2, 2, 3], [1] * 6, [6] * 6),  # an image whose patches have one position
        ([0, 1, 2, 2, 0, 1], None, [4] * 4 + [2] * 2),
        ([0, 1, 0, 0, 1, 2], None, [2, 2, 1, 3, 3, 3]),  # a document of one token
        ([0, 1, 0, 0, 1, 1], [1] * 5 + [0], [2, 2, 1, 2, 2, 0]),
        ([2, 3, 2, 2, 3, 4], None, [2, 2, 1, 3, 3, 3]),  # RoBERTa's begin after its padding
        ([1, 1, 0, 1, 2, 3], [0, 0, 1, 1, 1, 1], [0, 0, 4, 4, 4, 4]),
    ],
)
def test_positions_that_stand_still(positions, mask, expected):
    call = {"position_ids": torch.tensor([positions])}
    if mask is not None:
        call["attention_mask"] = torch.tensor([mask])
    assert lengths(batch(1, 6), **call) == [expected]


def test_packed_rows_that_are_padded_to_a_multiple():
    ids, positions = torch.tensor([[5, 6, 7, 5, 6, 1, 1]]), torch.tensor([[0, 1, 2, 0, 1, 0, 0]])
    padded = {"pad_token_id": 1, "bos_token_id": None, "eos_token_id": 2}
    assert lengths(ids, padded, position_ids=positions) == [[3, 3, 3, 2, 2, 0, 0]]
    assert lengths(ids, position_ids=positions) == [[3, 3, 3, 2, 2, 1, 1]]  # no id is padding


def test_a_mask_that_cannot_be_read_beside_positions_of_one_document():
    ids, positions = torch.tensor([[5, 6, 7, 1, 1]]), torch.arange(5)[None]
    mask = torch.ones(1, 1, 5, 5).tril().bool()
    padded = {"pad_token_id": 1, "bos_token_id": None, "eos_token_id": 2}
    with pytest.raises(ValueError, match=r"attention_mask must be of shape \[B, L\]"):
        lengths(ids, padded, position_ids=positions, attention_mask=mask)
    full = ids.clamp(min=5)
    assert lengths(full, padded, position_ids=positions, attention_mask=mask) == [[5] * 5]


def test_padding_without_a_mask_is_warned_of_once():
    ids = torch.tensor([[5, 6, 7], [5, 1, 1]])
    padded = {"pad_token_id": 1, "bos_token_id": None, "eos_token_id": 2}
    with pytest.warns(RuntimeWarning, match="ends with 1, the id of padding.*attention_mask"):
        assert lengths(ids, padded) == [[3] * 3] * 2
    lengths(ids, padded, attention_mask=(ids != 1).long())
    lengths(ids, padded | {"eos_token_id": [2, 1]})  # it may be the end of a text
    lengths(ids)


@pytest.mark.parametrize("lowest", [-1, -10000])
def test_an_additive_mask_of_integers_is_refused(lowest):
    mask = torch.tensor([[0, 0, lowest], [0, 0, 0]])
    with pytest.raises(ValueError, match=r"attention_mask .* if it is additive .*tokens="):
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


@pytest.mark.parametrize("told", ["position_ids", "cu_seq_lens_q", "seq_idx", "all"])
def test_documents_that_are_nothing_but_padding(told):
    """Rows that are packed and padded to a multiple, as TRL's collator tells them."""
    ids = torch.tensor([[5, 6, 7, 8, 9, 0, 0, 0]])
    call = {
        "position_ids": torch.tensor([[0, 1, 2, 0, 1, 0, 0, 0]]),
        "cu_seq_lens_q": torch.tensor([0, 3, 5, 6, 7, 8], dtype=torch.int32),
        "seq_idx": torch.tensor([[0, 0, 0, 1, 1, 2, 3, 4]], dtype=torch.int32),
    }
    call = call if told == "all" else {told: call[told]}
    assert lengths(ids, PADDING, **call) == [[3, 3, 3, 2, 2, 0, 0, 0]]


def test_a_document_of_padding_that_counts_on():
    ids = torch.tensor([[5, 6, 7, 8, 9, 0, 0, 0]])
    positions = torch.tensor([[0, 1, 2, 0, 1, 0, 1, 2]])
    assert lengths(ids, PADDING, position_ids=positions) == [[3, 3, 3, 2, 2, 0, 0, 0]]


def test_positions_that_stand_still_on_left_padding():
    ids = torch.tensor([[0, 0, 5, 6, 7], [4, 5, 6, 7, 8]])
    positions = torch.tensor([[0, 0, 0, 1, 2], [0, 1, 2, 3, 4]])
    assert lengths(ids, PADDING, position_ids=positions) == [[0, 0, 3, 3, 3], [5] * 5]


def test_positions_that_are_all_alike_tell_nothing():
    positions = torch.zeros(2, 4, dtype=torch.long)
    assert lengths(batch(2, 4), position_ids=positions) == [[4] * 4] * 2
    mask = torch.tensor([[1, 1, 1, 0], [1] * 4])
    expected = [[3, 3, 3, 0], [4] * 4]
    assert lengths(batch(2, 4), position_ids=positions, attention_mask=mask) == expected


def test_padding_inside_of_what_positions_tell_is_warned_of():
    ids = torch.tensor([[5, 6, 7, 0, 0], [4, 5, 6, 7, 8]])
    positions = torch.arange(5).expand(2, 5)
    with pytest.warns(RuntimeWarning, match="begins or ends with 0, the id of padding"):
        assert lengths(ids, PADDING, position_ids=positions) == [[5] * 5] * 2
