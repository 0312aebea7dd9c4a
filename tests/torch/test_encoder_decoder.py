"""Encoder-decoders: both sides get noise of their own, each with the mask of its side."""

from dataclasses import replace

import pytest
import torch
from torch import nn

from embnoise import linear, neftune
from embnoise_torch import add_noise, attach
from tests.torch.models import bart, batch, noisy_lookups, t5, tiny, zeroed

NOISE = neftune(20.0, seed=3)
MASK = torch.tensor([[1, 1, 1, 1, 1, 0, 0, 0], [1] * 8])
DECODER_MASK = torch.tensor([[1, 1, 1, 0, 0, 0], [1] * 6])

BART_SIZES = {
    "vocab_size": 50,
    "d_model": 16,
    "encoder_layers": 1,
    "decoder_layers": 1,
    "encoder_attention_heads": 2,
    "decoder_attention_heads": 2,
    "encoder_ffn_dim": 32,
    "decoder_ffn_dim": 32,
    "max_position_embeddings": 64,
    "pad_token_id": 0,
    "bos_token_id": 1,
    "eos_token_id": 2,
    "decoder_start_token_id": 2,
    "forced_eos_token_id": 2,
}


def fsmt():
    sizes = {name: value for name, value in BART_SIZES.items() if name != "vocab_size"}
    return tiny(
        "FSMTForConditionalGeneration", "FSMTConfig", langs=["en", "de"], src_vocab_size=50,
        tgt_vocab_size=50, tie_word_embeddings=False, **sizes,
    )  # fmt: skip


def marian():
    options = {**BART_SIZES, "share_encoder_decoder_embeddings": False, "decoder_vocab_size": 50}
    return tiny("MarianMTModel", "MarianConfig", **options, tie_word_embeddings=False)


def t5gemma():
    text = {
        "vocab_size": 50, "hidden_size": 16, "intermediate_size": 32, "num_hidden_layers": 1,
        "num_attention_heads": 2, "num_key_value_heads": 2, "head_dim": 8, "pad_token_id": 0,
        "sliding_window": 32, "layer_types": ["full_attention"],
    }  # fmt: skip
    return tiny(
        "T5GemmaForConditionalGeneration", "T5GemmaConfig", encoder=text, decoder=dict(text)
    )


def bert2bert():
    import transformers  # noqa: PLC0415

    sizes = {
        "vocab_size": 50, "hidden_size": 16, "intermediate_size": 32, "num_hidden_layers": 1,
        "num_attention_heads": 2, "max_position_embeddings": 64, "pad_token_id": 0,
    }  # fmt: skip
    config = transformers.EncoderDecoderConfig.from_encoder_decoder_configs(
        transformers.BertConfig(**sizes), transformers.BertConfig(**sizes)
    )
    config.decoder_start_token_id, config.pad_token_id = 1, 0
    return transformers.EncoderDecoderModel(config).train()


UNTIED = [fsmt, marian, t5gemma, bert2bert]


def call(model, **more):
    return model(
        input_ids=batch(), attention_mask=MASK, decoder_input_ids=batch(length=6, seed=1), **more
    )


@pytest.mark.parametrize("make", UNTIED)
def test_both_tables_of_an_untied_model(make):
    torch.manual_seed(0)
    model = make()
    classes = [type(module) for module in model.modules()]
    before = [set(vars(module)) for module in model.modules()]
    seen = noisy_lookups(
        model, NOISE, lambda model: call(model, decoder_attention_mask=DECODER_MASK)
    )
    (first, [(clean, noisy)]), (second, [(decoder_clean, decoder_noisy)]) = seen.items()
    assert "encoder" in first
    assert "decoder" in second
    assert torch.equal(noisy, add_noise(clean, NOISE, step=0, mask=MASK))
    own = neftune(20.0, seed=3, stream=f"{NOISE.stream}/{second}")
    expected = add_noise(decoder_clean, own, step=0, mask=DECODER_MASK)
    assert torch.equal(decoder_noisy, expected)
    assert [type(module) for module in model.modules()] == classes
    assert [set(vars(module)) for module in model.modules()] == before


@pytest.mark.parametrize("make", [t5, bart])
def test_the_step_is_that_of_the_sides_though_they_share_a_table_that_nobody_calls(make):
    model, ids, noise = make(), batch(), neftune(alpha=linear(5.0, 0.0, 10))
    with attach(model, noise, calls_per_step=1) as handle:
        for _ in range(4):
            model(input_ids=ids, labels=ids)
        assert (handle.step, handle.alpha) == (4, 3.0)
        state = handle.state_dict()
        handle.step = 0
        assert {counter["step"] for counter in handle.state_dict().values()} == {0}
        handle.load_state_dict(state)
        assert (handle.step, handle.state_dict()) == (4, state)


def test_sides_that_are_not_called_equally_often():
    model, ids = bart(), batch()
    with attach(model, neftune(), calls_per_step=1) as handle:
        encoded = model.get_encoder()(input_ids=ids)
        for _ in range(2):
            model(encoder_outputs=encoded, decoder_input_ids=ids)
        state = handle.state_dict()
        assert handle.step == 2
    steps = {name: counter["step"] for name, counter in state.items()}
    assert steps["model.encoder.embed_tokens"] == 1
    assert steps["model.decoder.embed_tokens"] == 2
    with attach(model, neftune(), calls_per_step=1) as handle:
        handle.load_state_dict(state)
        assert handle.state_dict() == state


@pytest.mark.parametrize("make", UNTIED)
def test_the_noise_of_the_two_sides_differs(make):
    model = make()
    for name in noisy_lookups(model, NOISE, call):
        nn.init.zeros_(model.get_submodule(name).weight)
    ids = batch()
    seen = noisy_lookups(model, NOISE, lambda model: model(input_ids=ids, decoder_input_ids=ids))
    left, right = (noisy for [(_, noisy)] in seen.values())
    assert left.shape == right.shape
    assert (left.sign() != right.sign()).float().mean() > 0.3


@pytest.mark.parametrize("make", UNTIED)
def test_a_decoder_without_a_mask_does_not_take_the_one_of_the_encoder(make):
    ids = batch()
    model = make()
    seen = noisy_lookups(
        model,
        NOISE,
        lambda model: model(input_ids=ids, attention_mask=MASK, decoder_input_ids=batch(seed=1)),
    )
    [_, (name, [(clean, noisy)])] = seen.items()
    own = neftune(20.0, seed=3, stream=f"{NOISE.stream}/{name}")
    assert torch.equal(noisy, add_noise(clean, own, step=0))


def test_layer_selects_one_side():
    model = marian()
    for name in ("model.encoder.embed_tokens", "model.decoder.embed_tokens"):
        with attach(model, NOISE, layer=name) as handle:
            assert list(handle.state_dict()) == [name]


class Pair(nn.Module):
    """One table for both sides, looked up in the outer forward: only the ids tell them apart."""

    def __init__(self):
        super().__init__()
        self.embed = zeroed().embed

    def forward(
        self, input_ids, decoder_input_ids, attention_mask=None, decoder_attention_mask=None
    ):
        return self.embed(input_ids), self.embed(decoder_input_ids)


def test_one_table_in_one_forward():
    model, left, right = Pair(), batch(), batch(seed=1)
    masks = {"attention_mask": MASK, "decoder_attention_mask": MASK.flip(1)}
    rows = torch.arange(2)
    with attach(model, NOISE):
        encoder, decoder = model(left, right, **masks)
    zeros = torch.zeros(2, 8, 8)
    assert torch.equal(encoder, add_noise(zeros, NOISE, step=0, mask=MASK))
    expected = add_noise(zeros, NOISE, step=0, mask=MASK.flip(1), sample_ids=rows + 2)
    assert torch.equal(decoder, expected)


def test_the_same_ids_on_both_sides_under_different_masks():
    """One tensor on both sides does not tell the side; two that are equal do."""
    model, ids = Pair(), batch()
    masks = {"attention_mask": MASK, "decoder_attention_mask": MASK.flip(1)}
    with attach(model, NOISE):
        with pytest.raises(ValueError, match=r"input_ids and decoder_input_ids.*tokens="):
            model(ids, ids, **masks)
        encoder, decoder = model(ids, ids.clone(), **masks)
        model(ids, ids, attention_mask=MASK, decoder_attention_mask=MASK.clone())
    assert torch.equal(encoder.any(dim=-1), MASK.bool())
    assert torch.equal(decoder.any(dim=-1), MASK.flip(1).bool())


def test_a_decoder_without_an_encoder_beside_it():
    """BLIP-2 takes a decoder's arguments for T5; the decoder of OPT is all there is of that."""

    class Blip2(nn.Module):
        def __init__(self):
            super().__init__()
            self.language_model = nn.ModuleDict({"decoder": zeroed().embed})

        def forward(
            self,
            input_ids,
            attention_mask=None,
            decoder_input_ids=None,
            decoder_attention_mask=None,
        ):
            return self.language_model["decoder"](input_ids)

    model = Blip2()
    with attach(model, NOISE):
        noisy = model(batch(), MASK)
    assert torch.equal(noisy, add_noise(torch.zeros(2, 8, 8), NOISE, step=0, mask=MASK))


class TwoTables(nn.Module):
    """An encoder-decoder that does not say which of its embeddings take tokens."""

    def __init__(self):
        super().__init__()
        self.encoder = nn.ModuleDict({"embed": nn.Embedding(50, 8)})
        self.decoder = nn.ModuleDict({"embed": nn.Embedding(50, 8)})

    def forward(
        self, input_ids, decoder_input_ids, attention_mask=None, decoder_attention_mask=None
    ):
        return self.encoder["embed"](input_ids), self.decoder["embed"](decoder_input_ids)

    def train_on(self, ids, decoder_ids):
        return self(ids, decoder_ids, MASK, DECODER_MASK)


LAYERS = ["encoder.embed", "decoder.embed"]


class TestAListOfLayers:
    @pytest.mark.parametrize("by_name", [True, False])
    def test_all_but_the_first_have_a_stream_of_their_own(self, by_name):
        model, ids, decoder_ids = TwoTables(), batch(2, 8), batch(2, 6)
        clean = dict(zip(LAYERS, model.train_on(ids, decoder_ids), strict=True))
        masks = dict(zip(LAYERS, (MASK, DECODER_MASK), strict=True))
        for first, second in (LAYERS, LAYERS[::-1]):
            layers = [name if by_name else model.get_submodule(name) for name in (first, second)]
            with attach(model, NOISE, layer=[*layers, layers[0]]) as handle:
                seen = dict(zip(LAYERS, model.train_on(ids, decoder_ids), strict=True))
                assert list(handle.state_dict()) == [first, second]
            for name, stream in ((first, ""), (second, f"/{second}")):
                noise = replace(NOISE, stream=stream)
                wanted = add_noise(clean[name], noise, step=0, mask=masks[name])
                assert torch.equal(seen[name], wanted)

    def test_the_default_does_not_choose(self):
        with pytest.raises(ValueError, match=r"pass layer=, one of them or a list\. Candidates: "):
            attach(TwoTables(), NOISE)

    @pytest.mark.parametrize(
        ("layer", "kind", "message"),
        [
            ([], ValueError, r"layer must name at least one layer, got \[\]"),
            (["encoder.embed", 3], TypeError, "layer must be a module or its name, got 3"),
            (["encoder.embed", "embed"], ValueError, "name of a layer of the model.* got 'embed'"),
            ([nn.Embedding(2, 2)], ValueError, "layer must be a module of the model, got Embedd"),
        ],
    )
    def test_wrong_lists(self, layer, kind, message):
        model = TwoTables()
        with pytest.raises(kind, match=message):
            attach(model, NOISE, layer=layer)
        assert not any("forward" in vars(module) for module in model.modules())

    def test_attaching_again_would_repeat_the_noise(self):
        model, ids, decoder_ids = TwoTables(), batch(2, 8), batch(2, 6)
        clean = model.train_on(ids, decoder_ids)
        with attach(model, NOISE, layer=LAYERS[0]):
            with pytest.raises(ValueError, match=r"stream '' at 'encoder.embed' already"):
                attach(model, NOISE, layer=LAYERS[1])
            other = replace(NOISE, stream="other")
            with attach(model, other, layer=LAYERS[1]):
                seen = model.train_on(ids, decoder_ids)
        for noisy, x, noise, mask in zip(
            seen, clean, (NOISE, other), (MASK, DECODER_MASK), strict=True
        ):
            assert torch.equal(noisy, add_noise(x, noise, step=0, mask=mask))


@pytest.mark.parametrize("where", ["completion", "prompt"])
@pytest.mark.parametrize("layer", [None, "model.decoder.embed_tokens"])
def test_labels_say_nothing_of_an_encoder(where, layer):
    """Those of a decoder are one token ahead of what it looks up, too."""
    model = marian()
    with pytest.raises(ValueError, match=r"where must be 'all' .*encoder-decoder"):
        attach(model, NOISE, layer=layer, where=where)
    attach(model, NOISE).remove()


def test_padding_of_a_decoder_whose_table_has_no_padding_idx():
    """The labels of a batch end with -100, which T5 replaces with padding."""
    ids, labels = batch(2, 8), batch(2, 6)
    labels[1, 4:] = -100
    model = t5()
    assert model.get_input_embeddings().padding_idx is None
    with attach(model, NOISE):
        with pytest.warns(RuntimeWarning, match="begins or ends with 0, the id of padding"):
            model(input_ids=ids, attention_mask=torch.ones_like(ids), labels=labels)
        model(input_ids=ids, attention_mask=torch.ones_like(ids), labels=labels)


class InBatch(nn.Module):
    """Around an encoder-decoder, which it gives ids alone."""

    def __init__(self, inner):
        super().__init__()
        self.inner = inner
        self.get_input_embeddings, self.get_decoder = inner.get_input_embeddings, inner.get_decoder

    def forward(self, batch, labels=None):
        return self.inner(**{name: batch[name] for name in ("input_ids", "decoder_input_ids")})


def test_both_masks_in_a_batch_around_the_model():
    given = {
        "input_ids": batch(),
        "attention_mask": MASK,
        "decoder_input_ids": batch(length=6, seed=1),
        "decoder_attention_mask": DECODER_MASK,
    }
    seen = noisy_lookups(InBatch(marian()), NOISE, lambda model: model(given))
    lookups = [lookup for lookups in seen.values() for lookup in lookups]
    for (clean, noisy), mask in zip(lookups, (MASK, DECODER_MASK), strict=True):
        assert torch.equal((noisy != clean).any(-1), mask.bool())
