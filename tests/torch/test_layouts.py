"""Models that look up something other than the ids that they were called with."""

from types import SimpleNamespace

import pytest
import torch
from torch import nn

from embnoise import neftune
from embnoise_torch import add_noise, attach
from tests.torch.models import Embedder, batch, noisy_lookups, tiny, zeroed

NOISE = neftune(20.0, seed=3)


def mask_of(rows, length):
    mask = torch.ones(rows, length, dtype=torch.long)
    mask[0, length - 3 :] = 0
    mask[1, length - 1 :] = 0
    return mask


def xlnet():
    return tiny(
        "XLNetLMHeadModel",
        "XLNetConfig",
        vocab_size=50,
        d_model=16,
        n_layer=1,
        n_head=2,
        d_inner=32,
    )


def rwkv():
    return tiny(
        "RwkvForCausalLM", "RwkvConfig", vocab_size=50, hidden_size=16, num_hidden_layers=2,
        context_length=32,
    )  # fmt: skip


def cpmant(prompt_length):
    return tiny(
        "CpmAntForCausalLM", "CpmAntConfig", vocab_size=50, hidden_size=16, num_attention_heads=2,
        dim_head=8, dim_ff=32, num_hidden_layers=1, prompt_length=prompt_length,
        prompt_types=4, segment_types=4,
    )  # fmt: skip


def longformer():
    return tiny(
        "LongformerForMaskedLM", "LongformerConfig", vocab_size=50, hidden_size=16,
        intermediate_size=32, num_hidden_layers=1, num_attention_heads=2, attention_window=8,
        pad_token_id=0, max_position_embeddings=64,
    )  # fmt: skip


def ibert():
    return tiny(
        "IBertForMaskedLM", "IBertConfig", vocab_size=50, hidden_size=16, intermediate_size=32,
        num_hidden_layers=1, num_attention_heads=2, pad_token_id=0, max_position_embeddings=64,
    )  # fmt: skip


@pytest.mark.parametrize("shape", [(2, 8), (4, 4), (3, 5)])
def test_xlnet_looks_up_columns(shape):
    """Also where B == L, when the shape of the mask says nothing."""
    ids, mask = batch(*shape), mask_of(*shape)
    seen = noisy_lookups(xlnet(), NOISE, lambda model: model(input_ids=ids, attention_mask=mask))
    [[(clean, noisy), *_]] = seen.values()
    assert clean.shape[:2] == shape[::-1]
    expected = add_noise(clean.transpose(0, 1), NOISE, step=0, mask=mask)
    assert torch.equal(noisy, expected.transpose(0, 1))


def test_columns_without_a_mask():
    """L is the length of a row, not the number of rows, and rows are what the samples are."""
    model = zeroed(Sideways())
    with attach(model, NOISE) as handle:
        noisy = model(batch(3, 5))
        assert handle.state_dict()["embed"]["samples"] == 3
    expected = add_noise(torch.zeros(3, 5, 8), NOISE, step=0)
    assert torch.equal(noisy, expected.transpose(0, 1))


@pytest.mark.parametrize("make", [rwkv, ibert])
def test_masks_that_stay_outside_and_tuples(make):
    ids, mask = batch(), mask_of(2, 8)
    seen = noisy_lookups(make(), NOISE, lambda model: model(input_ids=ids, attention_mask=mask))
    [[(clean, noisy)]] = seen.values()
    assert torch.equal(noisy, add_noise(clean, NOISE, step=0, mask=mask))


@pytest.mark.parametrize("masked", [True, False])
@pytest.mark.parametrize("length", [1, 4])
def test_a_prompt_in_front(length, masked):
    """Its ids are above those of the vocabulary."""
    ids, mask = batch(), mask_of(2, 8)
    call = {"attention_mask": mask} if masked else {}
    model = cpmant(prompt_length=length)
    seen = noisy_lookups(model, NOISE, lambda model: model(input_ids=ids, **call))
    [[(clean, noisy)]] = seen.values()
    assert clean.shape[1] == 8 + length
    extended = nn.functional.pad(mask if masked else torch.ones_like(mask), (length, 0))
    assert torch.equal(noisy, add_noise(clean, NOISE, step=0, mask=extended))


@pytest.mark.parametrize(("vocabulary", "noisy"), [(None, True), (50, True), (45, False)])
def test_tokens_in_front_are_real_if_the_vocabulary_has_them(vocabulary, noisy):
    class Instructed(Embedder):
        def forward(self, input_ids):
            prompt = torch.tensor([[45, 46]]).expand(len(input_ids), 2)
            return self.embed(torch.cat([prompt, input_ids], dim=1))

    model = zeroed(Instructed())
    model.config = SimpleNamespace(vocab_size=vocabulary)
    with attach(model, NOISE):
        output = model(batch(2, 6))
    mask = torch.ones(2, 8, dtype=torch.long)
    mask[:, :2] = noisy
    assert torch.equal(output, add_noise(torch.zeros(2, 8, 8), NOISE, step=0, mask=mask))


@pytest.mark.parametrize("masked", [True, False])
def test_padding_to_a_window(masked):
    ids, mask = batch(2, 12), mask_of(2, 12)
    call = {"attention_mask": mask} if masked else {}
    seen = noisy_lookups(longformer(), NOISE, lambda model: model(input_ids=ids, **call))
    [[(clean, noisy)]] = seen.values()
    assert clean.shape[1] == 16
    extended = nn.functional.pad(mask if masked else torch.ones_like(mask), (0, 4))
    assert torch.equal(noisy, add_noise(clean, NOISE, step=0, mask=extended))


@pytest.mark.parametrize("masked", [True, False])
def test_packed_rows_that_are_padded_to_a_window(masked):
    """The model gives the padding that it adds position 0, where a document would begin."""
    ids, positions = batch(2, 12), torch.tensor([[*range(7), *range(5)], [*range(11), 0]])
    segments = torch.tensor([[1] * 7 + [2] * 5, [1] * 11 + [2]])
    call = {"position_ids": positions}
    if masked:
        call["attention_mask"] = torch.ones_like(ids)
    seen = noisy_lookups(longformer(), NOISE, lambda model: model(input_ids=ids, **call))
    [[(clean, noisy)]] = seen.values()
    extended = nn.functional.pad(segments, (0, 4))
    assert torch.equal(noisy, add_noise(clean, NOISE, step=0, segment_ids=extended))


class Rounded(Embedder):
    """It lengthens its rows, and gives its own module positions that go on."""

    def __init__(self, padding_idx):
        super().__init__()
        self.inner = Embedder()
        del self.embed
        self.inner.embed = zeroed().embed
        self.inner.embed.padding_idx = padding_idx

    def forward(self, input_ids, attention_mask=None):
        ids = nn.functional.pad(input_ids, (0, 3))
        return self.inner(ids, position_ids=torch.arange(ids.shape[1])[None])


def test_padding_with_positions_of_the_model():
    model = Rounded(padding_idx=0)
    with attach(model, NOISE):
        noisy = model(batch())
    expected = add_noise(torch.zeros(2, 8, 8), NOISE, step=0)
    assert torch.equal(noisy, nn.functional.pad(expected, (0, 0, 0, 3)))
    model = Rounded(padding_idx=None)
    with (
        attach(model, NOISE),
        pytest.raises(ValueError, match=r"3 tokens more.*tokens="),
    ):
        model(batch())


class Sideways(Embedder):
    def forward(self, input_ids, attention_mask=None):
        return self.embed(input_ids.T)


class PlainNames(Embedder):
    def forward(self, src, attention_mask=None):
        return self.embed(src.T.contiguous())


@pytest.mark.parametrize("kind", [Sideways, PlainNames])
def test_a_square(kind):
    ids, mask = batch(4, 4), mask_of(4, 4)
    model = zeroed(kind())
    with attach(model, NOISE):
        noisy = model(ids, mask)
    expected = add_noise(torch.zeros(4, 4, 8), NOISE, step=0, mask=mask)
    assert torch.equal(noisy, expected.transpose(0, 1))


def test_a_square_that_could_be_either_is_refused():
    ids = torch.full((4, 4), 7)
    model = zeroed(Sideways())
    with attach(model, NOISE):
        with pytest.raises(ValueError, match=r"tokens="):
            model(ids, mask_of(4, 4))
        symmetric = torch.ones(4, 4, dtype=torch.bool)
        assert model(ids, symmetric).any()


@pytest.mark.parametrize(
    ("look_up", "what"),
    [
        (lambda embed, ids: embed(ids[:, 2]), "one token of each row"),
        (lambda embed, ids: embed(ids[:, -1:]), "one token of each row"),
        (lambda embed, ids: embed(ids.flatten()), "tokens of several rows"),
    ],
)
def test_rows_that_are_not_looked_up_as_rows(look_up, what):
    class Loops(Embedder):
        def forward(self, input_ids, attention_mask=None):
            return look_up(self.embed, input_ids)

    model = zeroed(Loops())
    with (
        attach(model, NOISE),
        pytest.raises(ValueError, match=rf"{what} of the \(2, 8\).*pass neftune\(length=L\)"),
    ):
        model(batch())
    model = zeroed(Loops())
    with attach(model, neftune(20.0, length=8)):
        noisy = model(batch())
        assert 0 < abs(noisy).max() <= 20 / 8


def test_a_part_of_the_ids():
    class Last(Embedder):
        def forward(self, input_ids, attention_mask=None):
            return self.embed(input_ids[:, -3:]), self.embed(input_ids[:, :-1])

    ids = batch()
    mask = torch.tensor([[1, 1, 1, 1, 1, 1, 1, 0], [0, 1, 1, 1, 1, 1, 1, 1]])
    model = zeroed(Last())
    with (
        attach(model, NOISE),
        pytest.warns(RuntimeWarning, match="looks up a part of each row.*pass neftune"),
    ):
        end, start = model(ids, mask)
    assert torch.equal(end, add_noise(torch.zeros(2, 3, 8), NOISE, step=0, mask=mask[:, -3:]))
    rows = torch.tensor([2, 3])
    expected = add_noise(torch.zeros(2, 7, 8), NOISE, step=0, mask=mask[:, :-1], sample_ids=rows)
    assert torch.equal(start, expected)


def test_rows_of_padding_that_a_model_adds_get_none():
    class Padded(Embedder):
        def __init__(self):
            super().__init__()
            self.embed.padding_idx = 0

        def forward(self, input_ids, attention_mask=None):
            return self.embed(input_ids), self.embed(torch.zeros(2, 4, dtype=torch.long))

    model, mask = zeroed(Padded()), mask_of(2, 8)
    with attach(model, NOISE) as handle:
        tokens, padding = model(batch(), mask)
        assert handle.lookups == 1
    assert torch.equal(tokens, add_noise(torch.zeros(2, 8, 8), NOISE, step=0, mask=mask))
    assert not padding.any()


def test_a_longer_lookup_without_an_id_of_padding_is_refused():
    class Longer(Embedder):
        def forward(self, input_ids, attention_mask=None):
            return self.embed(nn.functional.pad(input_ids, (0, 2), value=7))

    model = Longer()
    with (
        attach(model, NOISE),
        pytest.raises(ValueError, match=r"2 tokens more.*tokens="),
    ):
        model(batch(), mask_of(2, 8))


def test_a_model_whose_get_input_embeddings_raises_or_returns_none():
    class Several(nn.Module):
        def __init__(self):
            super().__init__()
            self.left, self.right = nn.Embedding(9, 8), nn.Embedding(50, 8)

        def get_input_embeddings(self):
            raise NotImplementedError

    message = r"found 2 embeddings and no get_input_embeddings\(\) that returns one; pass layer="
    with pytest.raises(ValueError, match=message):
        attach(Several(), NOISE)
    model = Several()
    model.get_input_embeddings = lambda: nn.Parameter(torch.zeros(4, 8))
    with pytest.raises(ValueError, match=message):
        attach(model, NOISE)
    del model.left
    with attach(model, NOISE) as handle:
        assert list(handle.state_dict()) == ["right"]


class Rearranged(Embedder):
    """Looks up something made of its ids."""

    def __init__(self, change):
        super().__init__()
        self.change = change

    def forward(self, input_ids, attention_mask=None):
        return self.embed(self.change(input_ids))


def noise_of(change, ids, mask):
    model = zeroed(Rearranged(change))
    with attach(model, NOISE):
        return model(ids, attention_mask=mask)


def swapped(ids):
    """Its last two rows have changed places, as if sorted by length."""
    return ids[[*range(len(ids) - 2), len(ids) - 1, len(ids) - 2]]


@pytest.mark.parametrize(
    "change", [swapped, lambda ids: ids.roll(1, 1), lambda ids: ids.roll(-1, 1)]
)
def test_most_tokens_where_they_were_are_not_enough(change):
    """If rows have changed places, or tokens of little variety have moved, masks are of others."""
    ids, mask = batch(8, 20), torch.ones(8, 20, dtype=torch.long)
    if change is not swapped:
        ids = torch.where(ids % 10 == 0, ids, 1)
    mask[6, 3:] = mask[7, 5:] = 0
    with pytest.raises(ValueError, match="are not those that the model was called with"):
        noise_of(change, ids, mask)


@pytest.mark.parametrize("share", [0.15, 0.5, 0.8, 0.95])
def test_any_share_of_the_tokens_may_be_masked_inside_of_the_model(share):
    """As a masked diffusion model does it, which draws the share."""
    ids, mask = batch(4, 20), mask_of(4, 20)
    masked = torch.rand(4, 20, generator=torch.Generator().manual_seed(0)) < share
    noise = noise_of(lambda ids: torch.where(masked, 49, ids), ids, mask)
    assert torch.equal(noise, add_noise(torch.zeros_like(noise), NOISE, step=0, mask=mask))
