"""The noise knows its tokens by whatever call they come with: the innermost that tells them."""

import pytest
import torch
from torch import nn

from embnoise import neftune
from embnoise_torch import add_noise, attach
from tests.torch.models import Embedder, batch, llama, noisy_lookups, tiny, zeroed

NOISE = neftune(20.0, seed=3)
MASK = torch.tensor([[0, 0, 0, 1, 1, 1, 1, 1], [1] * 8])

TEXT = {
    "vocab_size": 60,
    "hidden_size": 16,
    "intermediate_size": 32,
    "num_hidden_layers": 1,
    "num_attention_heads": 2,
    "num_key_value_heads": 2,
    "max_position_embeddings": 64,
    "pad_token_id": 0,
}
VISION = {
    "hidden_size": 16,
    "intermediate_size": 32,
    "num_hidden_layers": 1,
    "num_attention_heads": 2,
    "image_size": 8,
    "patch_size": 4,
}


def llava():
    return tiny(
        "LlavaForConditionalGeneration",
        "LlavaConfig",
        text_config={"model_type": "llama", **TEXT},
        vision_config={"model_type": "clip_vision_model", "projection_dim": 16, **VISION},
        image_token_index=59,
    )


def qwen2_vl():
    rope = {"rope_type": "default", "rope_theta": 1e4, "mrope_section": [1, 1, 2]}
    return tiny(
        "Qwen2VLForConditionalGeneration",
        "Qwen2VLConfig",
        text_config={**TEXT, "rope_parameters": rope},
        vision_config={"depth": 1, "embed_dim": 16, "hidden_size": 16, "num_heads": 2},
        image_token_id=59,
        video_token_id=58,
        vision_start_token_id=57,
        vision_end_token_id=56,
    )


def gemma3():
    return tiny(
        "Gemma3ForConditionalGeneration",
        "Gemma3Config",
        text_config={**TEXT, "head_dim": 8, "sliding_window": 32},
        vision_config={"model_type": "siglip_vision_model", **VISION},
        image_token_index=59,
        boi_token_index=58,
        eoi_token_index=57,
        mm_tokens_per_image=4,
    )


def paligemma():
    return tiny(
        "PaliGemmaForConditionalGeneration",
        "PaliGemmaConfig",
        text_config={"model_type": "gemma", **TEXT, "head_dim": 8},
        vision_config={"model_type": "siglip_vision_model", "projection_dim": 16, **VISION},
        image_token_index=59,
        projection_dim=16,
    )


def mistral3():
    return tiny(
        "Mistral3ForConditionalGeneration",
        "Mistral3Config",
        text_config={"model_type": "mistral", **TEXT, "head_dim": 8},
        vision_config={"model_type": "pixtral", "head_dim": 8, **VISION},
        image_token_index=59,
    )


def idefics3():
    return tiny(
        "Idefics3ForConditionalGeneration",
        "Idefics3Config",
        text_config={"model_type": "llama", **TEXT},
        vision_config=VISION,
        image_token_id=59,
    )


def internvl():
    return tiny(
        "InternVLForConditionalGeneration",
        "InternVLConfig",
        text_config={"model_type": "qwen2", **TEXT},
        vision_config={**VISION, "image_size": [8, 8], "patch_size": [4, 4]},
        image_token_id=59,
    )


MULTIMODAL = [llava, qwen2_vl, gemma3, paligemma, mistral3, idefics3, internvl]


@pytest.mark.parametrize("make", MULTIMODAL)
def test_a_multimodal_model_that_looks_up_before_it_calls_its_language_model(make):
    torch.manual_seed(0)
    model, ids = make(), batch()
    call = {"input_ids": ids, "attention_mask": MASK}
    if make in (gemma3, paligemma):
        call |= {"token_type_ids": torch.zeros_like(ids), "labels": ids}
    seen = noisy_lookups(model, NOISE, lambda model: model(**call))
    [[(clean, noisy)]] = seen.values()
    assert torch.equal(noisy, add_noise(clean, NOISE, step=0, mask=MASK))


@pytest.mark.parametrize(
    "kind", ["PromptTuningConfig", "PrefixTuningConfig", "PromptEncoderConfig"]
)
def test_virtual_tokens_of_peft(kind):
    peft = pytest.importorskip("peft")
    config = getattr(peft, kind)(task_type="CAUSAL_LM", num_virtual_tokens=4)
    model, ids = llama(), batch()
    wrapped = peft.get_peft_model(model, config)
    seen = []
    embedding = model.get_input_embeddings()
    clean = embedding(ids).detach()
    with attach(wrapped, NOISE) as handle:
        hook = embedding.register_forward_hook(lambda *call: seen.append(call[2].detach().clone()))
        wrapped(input_ids=ids, attention_mask=MASK, labels=ids)
        hook.remove()
        assert handle.lookups == 1
    [noisy] = [each for each in seen if each.shape == clean.shape and not torch.equal(each, clean)]
    assert torch.equal(noisy, add_noise(clean, NOISE, step=0, mask=MASK))


class Outer(nn.Module):
    """Calls an Embedder with what it is told to."""

    def __init__(self, hand_on):
        super().__init__()
        self.inner = zeroed()
        self.hand_on = hand_on

    def forward(self, input_ids, attention_mask=None, position_ids=None, **kwargs):
        return self.inner(**self.hand_on(input_ids, attention_mask, position_ids))


def noise_with(hand_on, ids, **call):
    model = Outer(hand_on)
    with attach(model, NOISE):
        return model(ids, **call)


def expected(ids, **arguments):
    return add_noise(torch.zeros(*ids.shape, 8), NOISE, step=0, **arguments)


def test_a_mask_that_is_not_handed_on():
    noisy = noise_with(lambda ids, *_: {"input_ids": ids}, batch(), attention_mask=MASK)
    assert torch.equal(noisy, expected(batch(), mask=MASK))


def test_the_innermost_mask_counts():
    inner = MASK.flip(1)
    noisy = noise_with(
        lambda ids, *_: {"input_ids": ids, "attention_mask": inner}, batch(), attention_mask=MASK
    )
    assert torch.equal(noisy, expected(batch(), mask=inner))


def test_a_mask_that_the_inner_call_gets_in_four_dimensions():
    noisy = noise_with(
        lambda ids, *_: {"input_ids": ids, "attention_mask": torch.zeros(2, 1, 8, 8)},
        batch(),
        attention_mask=MASK,
    )
    assert torch.equal(noisy, expected(batch(), mask=MASK))


def test_the_mask_of_other_ids_is_not_taken():
    """A rectangle of the same shape, of a question beside the answer that is looked up."""
    other = batch(seed=1)
    noisy = noise_with(lambda ids, *_: {"input_ids": other}, batch(), attention_mask=MASK)
    assert torch.equal(noisy, expected(other))


def test_the_mask_of_one_call_does_not_meet_the_positions_of_another():
    """The inner call has flattened the rows, and knows their documents."""
    mask = torch.tensor([[1, 1, 1, 0], [1, 1, 0, 0]])
    ids = batch(2, 4)

    def flattened(ids, mask, _):
        real = mask.bool()
        positions = (mask.cumsum(1) - 1)[real][None]
        return {"input_ids": ids[real][None], "position_ids": positions}

    noisy = noise_with(flattened, ids, attention_mask=mask)
    segments = torch.tensor([[1, 1, 1, 2, 2]])
    assert torch.equal(noisy, expected(ids[mask.bool()][None], segment_ids=segments))


def test_a_lookup_that_no_call_explains_is_an_error():
    class Shifted(Embedder):
        def forward(self, input_ids, attention_mask=None):
            return self.embed((input_ids + 1) % 50)

    model = Shifted()
    with (
        attach(model, NOISE),
        pytest.raises(ValueError, match=r"not those that the model was called with.*tokens=") as _,
    ):
        model(batch(), attention_mask=MASK)


def test_tokens_that_the_model_corrupts_keep_their_mask():
    class Corrupted(Embedder):
        def forward(self, input_ids, attention_mask=None):
            return self.embed(torch.where(torch.arange(8) % 3 == 0, 4, input_ids))

    model = zeroed(Corrupted())
    with attach(model, NOISE):
        assert torch.equal(model(batch(), MASK), expected(batch(), mask=MASK))


def test_a_recomputed_lookup_keeps_the_mask_of_a_call_that_has_returned():
    class Checkpointed(Embedder):
        def forward(self, input_ids, attention_mask=None):
            self.seen = getattr(self, "seen", [])
            return torch.utils.checkpoint.checkpoint(self.body, input_ids, use_reentrant=False)

        def body(self, ids):
            x = self.embed(ids)
            self.seen.append(x.detach().clone())
            return x.sin()

    model = zeroed(Checkpointed())
    with attach(model, NOISE):
        model(batch(), MASK).sum().backward()
    first, again = model.seen
    assert torch.equal(first, expected(batch(), mask=MASK))
    assert torch.equal(again, first)


def test_a_cache_makes_the_mask_longer_than_the_ids():
    model, ids = llama(), batch(length=6)
    past = model(input_ids=ids[:, :4], use_cache=True).past_key_values
    mask = torch.tensor([[0, 0, 1, 1, 1, 1], [1] * 6])
    with pytest.warns(RuntimeWarning, match="with a cache of earlier tokens"):
        seen = noisy_lookups(
            model,
            NOISE,
            lambda model: model(input_ids=ids[:, 4:], attention_mask=mask, past_key_values=past),
        )
    [[(clean, noisy)]] = seen.values()
    assert torch.equal(noisy, add_noise(clean, NOISE, step=0, mask=mask[:, 4:]))


def test_a_state_that_is_loaded_again_raises_no_false_alarm():
    model, ids = llama(), batch()
    with attach(model, NOISE) as handle:
        state = handle.state_dict()
        for _ in range(2):
            handle.load_state_dict(state)
            model(input_ids=ids, attention_mask=MASK)
            assert handle.lookups == 1


@pytest.mark.parametrize("make", [llava])
def test_compiled_without_a_graph_break(make):
    model, ids = make(), batch()
    torch._dynamo.reset()
    fast = torch.compile(model, backend="aot_eager", fullgraph=True)
    with attach(fast, NOISE) as handle:
        for _ in range(2):
            handle.load_state_dict(
                {name: dict.fromkeys(state, 0) for name, state in handle.state_dict().items()}
            )
            compiled = fast(input_ids=ids, attention_mask=MASK, labels=ids).loss
        handle.load_state_dict(
            {name: dict.fromkeys(state, 0) for name, state in handle.state_dict().items()}
        )
        eager = model(input_ids=ids, attention_mask=MASK, labels=ids).loss
    assert torch.allclose(compiled, eager, rtol=1e-5)


class Shared(nn.Embedding):
    """An embedding that is the output head as well, as in MPT."""

    def forward(self, x, unembed=False):
        return nn.functional.linear(x, self.weight) if unembed else super().forward(x)


def nothing():
    return {}


def test_an_embedding_that_is_called_as_the_head_adds_no_noise_there():
    table = Shared.from_pretrained(torch.eye(8), freeze=False)
    model = nn.Sequential(table)
    ids = torch.tensor([[1, 2, 3]])
    with attach(model, NOISE, tokens=nothing) as handle:
        hidden = table(ids)
        assert not torch.equal(hidden, table.weight[ids])
        assert torch.equal(table(hidden, unembed=True), hidden)
        assert handle.lookups == 1


class Multitask(nn.Module):
    """Around a model of tokens, which it does not always call."""

    def __init__(self):
        super().__init__()
        self.text, self.image = zeroed(), nn.Linear(3, 8)

    def forward(self, x, task="text"):
        return self.text(x) if task == "text" else self.image(x)


class Bare(nn.Module):
    """The same in one module, none of whose arguments has a known name."""

    def __init__(self):
        super().__init__()
        self.embed, self.image = nn.Embedding(50, 8), nn.Linear(3, 8)

    def forward(self, images=None, texts=None, labels=None):
        return self.image(images) if texts is None else self.embed(texts)


def test_a_call_of_something_else_may_look_nothing_up():
    model = Multitask()
    with attach(model, NOISE) as handle:
        model(torch.ones(2, 3), "image")
        assert torch.equal(model(batch()), expected(batch()))
        assert handle.lookups == 1
    model = Bare()
    with attach(model, NOISE) as handle:
        model(images=torch.ones(2, 3), labels=torch.ones(2, dtype=torch.long))
        model(texts=batch())
        assert handle.lookups == 1
    model.embed.train(False)
    with attach(model, NOISE), pytest.warns(RuntimeWarning, match="got no noise"):
        model(texts=batch())
    model = Multitask()
    model.text.embed.train(False)
    with attach(model, NOISE), pytest.warns(RuntimeWarning, match="got no noise"):
        model(batch())
