"""Lengths from the model's own call: padding and packed rows."""

import functools
import threading
from types import SimpleNamespace

import pytest
import torch

from embnoise import Noise, neftune
from embnoise_torch import add_noise, attach
from tests.torch.models import Embedder, batch, zeroed

NOISE = neftune(distribution="rademacher")


def lengths(ids, config=None, **call):
    """L of every token as the noise's magnitude shows it; 0 where there is none."""
    model = zeroed()
    if config is not None:
        model.config = SimpleNamespace(**config)
        model.embed.padding_idx = config["pad_token_id"]
    with attach(model, NOISE):
        magnitude = abs(model(ids, **call)[..., 0]).double()
    return torch.where(magnitude > 0, (5 / magnitude).square() / 8, 0).round().int().tolist()


def test_no_mask():
    assert lengths(batch(2, 3)) == [[3, 3, 3], [3, 3, 3]]


def test_attention_mask():
    mask = torch.tensor([[0, 0, 1, 1], [1, 1, 1, 0]])
    for kind in (torch.long, torch.bool, torch.uint8):
        assert lengths(batch(2, 4), attention_mask=mask.to(kind)) == [[0, 0, 2, 2], [3, 3, 3, 0]]


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_a_float_mask_is_refused(dtype):
    """It may be additive, with 0 for a real token."""
    mask = torch.tensor([[0.0, 0.0, -torch.inf], [0.0, 0.0, 0.0]], dtype=dtype)
    refusal = (
        r"attention_mask must be of a boolean or integer dtype.*attention_mask.long\(\).*tokens="
    )
    with pytest.raises(TypeError, match=refusal):
        lengths(batch(2, 3), attention_mask=mask)


def test_the_remedies_for_a_float_mask():
    real = torch.tensor([[1, 1, 0], [1, 1, 1]])
    expected = [[2, 2, 0], [3, 3, 3]]
    assert lengths(batch(2, 3), attention_mask=real.float().long()) == expected
    model = zeroed()
    additive = (1.0 - real) * -1e9
    with attach(model, NOISE, tokens=lambda attention_mask: {"mask": attention_mask == 0}):
        noisy = model(batch(2, 3), attention_mask=additive)
    assert torch.equal(noisy, add_noise(torch.zeros(2, 3, 8), NOISE, step=0, mask=real))


def test_a_row_that_is_all_padding():
    mask = torch.tensor([[0, 0], [1, 1]])
    assert lengths(batch(2, 2), attention_mask=mask) == [[0, 0], [2, 2]]


def test_a_mask_that_covers_cached_keys_too():
    mask = torch.tensor([[1, 1, 1, 0, 1]])
    with pytest.warns(RuntimeWarning, match="with a cache of earlier tokens"):
        assert lengths(batch(1, 2), attention_mask=mask, past_key_values=object()) == [[0, 1]]


def test_a_mask_that_is_longer_without_a_cache():
    """Image features may come before the text, after it or in between."""
    mask = torch.ones(2, 9, dtype=torch.long)
    assert lengths(batch(2, 6), attention_mask=mask) == [[6] * 6] * 2
    mask[0, 2:6] = 0
    message = r"attention_mask must be of shape \(2, 6\).* or the call must have a cache, got shape"
    with pytest.raises(ValueError, match=message):
        lengths(batch(2, 6), attention_mask=mask)


def test_one_row_without_an_axis_for_rows():
    mask = torch.tensor([1, 1, 1, 0, 0])
    assert lengths(batch(1, 5)[0], attention_mask=mask) == [3, 3, 3, 0, 0]


@pytest.mark.parametrize("rows", [[[2, 1, 1, 1]], [[1, 2, 1, 0]], [[1, 1, 0, 0], [0, 2, 2, 1]]])
def test_a_2_before_a_1_in_a_mask_is_no_document(rows):
    with pytest.raises(ValueError, match=r"got 2 before 1\. If 2 stands for global"):
        lengths(batch(len(rows), 4), attention_mask=torch.tensor(rows))
    numbers = torch.tensor([[1, 1, 0, 2, 2, 2]])
    assert lengths(batch(1, 6), attention_mask=numbers) == [[2, 2, 0, 3, 3, 3]]


def test_position_ids_that_start_again():
    positions = torch.tensor([[0, 1, 2, 0, 1, 0]])
    assert lengths(batch(1, 6), position_ids=positions) == [[3, 3, 3, 2, 2, 1]]
    assert lengths(batch(2, 6), position_ids=positions) == [[3, 3, 3, 2, 2, 1]] * 2
    single = torch.tensor([[0, 0, 1, 0]])
    assert lengths(batch(1, 4), position_ids=single) == [[1, 2, 2, 1]]


def test_position_ids_of_left_padding():
    mask = torch.tensor([[0, 0, 1, 1, 1]])
    positions = torch.tensor([[1, 1, 0, 1, 2]])
    assert lengths(batch(1, 5), attention_mask=mask, position_ids=positions) == [[0, 0, 3, 3, 3]]


def test_cumulative_lengths():
    cumulative = torch.tensor([0, 3, 5], dtype=torch.int32)
    positions = torch.arange(6)[None]
    call = {"cu_seq_lens_q": cumulative, "position_ids": positions}
    assert lengths(batch(1, 6), **call) == [[3, 3, 3, 2, 2, 0]]


@pytest.mark.parametrize("name", ["cu_seq_lens", "cu_seqlens_q", "cu_seqlens"])
def test_other_names_of_cumulative_lengths(name):
    call = {name: torch.tensor([0, 3, 5], dtype=torch.int32)}
    assert lengths(batch(1, 5), **call) == [[3, 3, 3, 2, 2]]


def test_packed_rows_have_the_magnitude_of_their_documents():
    """16 documents of 128 tokens in a row of 2048: the row's width would give a quarter of it."""
    positions = torch.arange(128).repeat(16)[None]
    model = zeroed(Embedder(dim=4))
    with attach(model, NOISE):
        noise = model(torch.ones(1, 2048, dtype=torch.long), position_ids=positions)
    assert abs(noise).unique().tolist() == pytest.approx([5 / (128 * 4) ** 0.5])


@pytest.mark.parametrize("mask", [torch.ones(2, 1, 4, 4), {"full_attention": None}])
def test_a_mask_without_lengths_is_refused_unless_documents_are_known(mask):
    with pytest.raises(ValueError, match=r"attention_mask must be of shape \[B, L\], got"):
        lengths(batch(2, 4), attention_mask=mask)
    positions = torch.tensor([[0, 1, 2, 0]])
    assert lengths(batch(2, 4), attention_mask=mask, position_ids=positions) == [[3, 3, 3, 1]] * 2


def test_what_does_not_fit_is_refused():
    with pytest.raises(ValueError, match=r"mask must be of shape \(2, 4\), got shape \(3, 4\)"):
        lengths(batch(2, 4), attention_mask=torch.ones(3, 4, dtype=torch.long))
    with pytest.raises(ValueError, match="cu_seq_lens_q must come with one flattened row, got 2"):
        lengths(batch(2, 4), cu_seq_lens_q=torch.tensor([0, 4]))


def test_positional_arguments_count_as_well():
    ids, mask = batch(2, 4), torch.tensor([[1, 1, 0, 0], [1, 1, 1, 1]])
    model = zeroed()
    with attach(model, NOISE):
        assert torch.equal(
            model(ids, mask), add_noise(torch.zeros(2, 4, 8), NOISE, step=0, mask=mask)
        )


def test_the_width_on_request():
    model, mask = zeroed(), torch.tensor([[1, 1, 0, 0]])
    noise = Noise(5.0, length="padded", distribution="rademacher")
    with attach(model, noise):
        seen = abs(model(batch(1, 4), attention_mask=mask))
    assert seen[0, :2].unique().tolist() == pytest.approx([5 / (4 * 8) ** 0.5])
    assert not seen[0, 2:].any()


def test_a_call_of_another_thread_leaves_the_mask_alone():
    """An inference thread enters before a training call, and leaves before its lookup."""
    model, ids = zeroed(), batch()
    mask = torch.ones_like(ids)
    mask[:, -3:] = 0
    inside, leave = threading.Event(), threading.Event()
    original = Embedder.forward

    @functools.wraps(original)
    def forward(self, *args, **kwargs):
        if threading.current_thread() is not threading.main_thread():
            inside.set()
            leave.wait(10)
        else:
            leave.set()
            other.join(10)
        return original(self, *args, **kwargs)

    other = threading.Thread(target=torch.no_grad()(lambda: model(ids, torch.ones_like(ids))))
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(Embedder, "forward", forward)
        with attach(model, NOISE):
            other.start()
            inside.wait(10)
            noisy = model(ids, mask)
    assert torch.equal(noisy, add_noise(torch.zeros(*ids.shape, 8), NOISE, step=0, mask=mask))
