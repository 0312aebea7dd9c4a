"""Fifteen faults of other implementations: each is shown on their way first, and then not on ours.

Theirs is the hook of transformers as it is installed, or a layer of ``tests/conformance`` with the
published rule. Where a release has mended a fault, the first half of its test fails and says so.
"""

import copy
import io
import math

import pytest
import torch
from torch import nn
from torch._dynamo.testing import CompileCounter

from embnoise import Noise, neftune
from embnoise_torch import EmbeddingNoise, add_noise, attach
from embnoise_torch.ranks.sample_ids import SampleIds
from tests.conformance.layers import MaskSum, RowWidthInItsDtype
from tests.torch.models import batch, gemma, gemma2, gemma3, llama, noisy_lookups, t5, zeroed

transformers = pytest.importorskip("transformers")
neftune_hooks = pytest.importorskip("transformers.integrations.neftune")
ALPHA = 5.0


def hooked(model, alpha=ALPHA):
    """The model with the hook of transformers, and the hook's handle."""
    return model, neftune_hooks.activate_neftune(model, alpha)


def table_of(model, ids):
    """What the model's embedding looks up, and what it does so in a training call."""
    embedding = model.get_input_embeddings()
    with torch.no_grad():
        noisy = embedding(ids)
        embedding.eval()
        clean = embedding(ids)
        embedding.train()
    return clean, noisy


def magnitude(noise):
    return noise.abs().max().item()


def of_length(length, dim):
    return pytest.approx(ALPHA / math.sqrt(length * dim), rel=0.05)


def losses(model, **call):
    return model(**call).loss.detach()


def test_1_an_encoder_decoder_gets_no_noise():
    ids = batch()
    call = {"input_ids": ids, "labels": ids}
    model = t5()
    clean = losses(model, **call)
    _, hook = hooked(model)
    assert torch.equal(losses(model, **call), clean)
    hook.remove()
    with attach(model, neftune(ALPHA)) as handle:
        assert not torch.equal(losses(model, **call), clean)
        looked_up = [name for name, count in handle.state_dict().items() if count["lookups"]]
        assert sorted(looked_up) == ["decoder.embed_tokens", "encoder.embed_tokens"]


@pytest.mark.filterwarnings("ignore:embnoise. an embedding was called outside:RuntimeWarning")
def test_2_an_exception_leaves_the_noise_on(tmp_path):
    from embnoise_torch.transformers import NoiseCallback  # noqa: PLC0415

    rows = [{"input_ids": ids, "labels": ids} for ids in batch(rows=4)]

    class Fail(transformers.TrainerCallback):
        def on_step_end(self, args, state, control, **kwargs):
            raise KeyboardInterrupt

    class Count(transformers.TrainerCallback):
        def on_step_begin(self, args, state, control, model=None, **kwargs):
            embedding = model.get_input_embeddings()
            found.append((len(embedding._forward_hooks), magnitude(-sum_of(embedding))))

    def sum_of(embedding):
        ids = batch(length=32)
        with torch.enable_grad():
            noisy = embedding(ids).detach()
        return noisy - nn.functional.embedding(ids, embedding.weight).detach()

    def train(model, *callbacks, **options):
        arguments = transformers.TrainingArguments(
            output_dir=str(tmp_path), max_steps=1, report_to=[], save_strategy="no",
            disable_tqdm=True, use_cpu=True, dataloader_pin_memory=False, **options,
        )  # fmt: skip
        transformers.Trainer(
            model, arguments, train_dataset=rows, callbacks=list(callbacks)
        ).train()

    found = []
    model = llama()
    with pytest.raises(KeyboardInterrupt):
        train(model, Fail(), neftune_noise_alpha=ALPHA)
    train(model, Count(), neftune_noise_alpha=ALPHA)
    hooks, size = found.pop()
    assert hooks == 2
    assert size > 1.2 * ALPHA / math.sqrt(32 * 16)

    model, callback = llama(), NoiseCallback(neftune(ALPHA))
    with pytest.raises(KeyboardInterrupt):
        train(model, callback, Fail())
    train(model, callback, Count())
    hooks, size = found.pop()
    assert (hooks, size) == (0, of_length(32, 16))


def test_3_packed_documents_get_the_magnitude_of_the_row():
    model = llama()
    nn.init.zeros_(model.model.embed_tokens.weight)
    ids = batch(rows=1, length=16 * 8)
    positions = torch.arange(8).repeat(16)[None]
    _, hook = hooked(model)
    _, noisy = table_of(model, ids)
    assert magnitude(noisy) == of_length(16 * 8, 16)  # a quarter of what 8 tokens should get
    hook.remove()
    seen = noisy_lookups(
        model, neftune(ALPHA), lambda model: model(input_ids=ids, position_ids=positions)
    )
    [(_, noisy)] = seen["model.embed_tokens"]
    assert magnitude(noisy) == of_length(8, 16)


def test_4_padding_makes_the_noise_smaller_and_gets_some():
    model = llama()
    nn.init.zeros_(model.model.embed_tokens.weight)
    ids = batch(length=64)
    mask = torch.zeros_like(ids)
    mask[:, :4] = 1
    _, hook = hooked(model)
    _, noisy = table_of(model, ids)
    assert magnitude(noisy) == of_length(64, 16)  # a quarter of what 4 tokens should get
    assert noisy[:, 4:].any()
    hook.remove()
    seen = noisy_lookups(
        model, neftune(ALPHA), lambda model: model(input_ids=ids, attention_mask=mask)
    )
    [(_, noisy)] = seen["model.embed_tokens"]
    assert magnitude(noisy) == of_length(4, 16)
    assert not noisy[:, 4:].any()


def test_5_sizes_overflow_in_float16():
    length, dim = 64, 2048  # 131,072 elements; float16 ends at 65,504
    theirs = RowWidthInItsDtype(dim, ALPHA).half()
    nn.init.zeros_(theirs.table.weight)
    ids = torch.zeros(1, length, dtype=torch.int64)
    assert not theirs(ids).any()
    noisy = add_noise(theirs.table(ids), neftune(ALPHA), step=0)
    assert magnitude(noisy) == of_length(length, dim)


def test_6_generation_in_training_mode_is_noisy():
    ids = batch()
    model = llama()
    nn.init.zeros_(model.model.embed_tokens.weight)

    def looked_up(model):
        seen = []
        note = model.model.embed_tokens.register_forward_hook(
            lambda module, args, output: seen.append(output.detach().clone())
        )
        model.generate(ids, max_new_tokens=3, min_new_tokens=3, do_sample=False)
        note.remove()
        return seen

    _, hook = hooked(model)
    prompt, *tokens = looked_up(model)
    assert magnitude(prompt) == of_length(8, 16)
    assert magnitude(torch.cat(tokens)) > 2 * ALPHA / math.sqrt(8 * 16)  # L = 1 with a cache
    hook.remove()
    with attach(model, neftune(ALPHA)) as handle:
        assert not torch.cat(looked_up(model), dim=1).any()
        assert handle.lookups == 0


def test_7_the_reference_pass_of_dpo_is_noisy():
    peft = pytest.importorskip("peft")
    model = peft.get_peft_model(llama(), peft.LoraConfig(r=2, target_modules=["q_proj"])).train()
    ids = batch()

    def reference():
        with torch.no_grad(), model.disable_adapter():
            return model(input_ids=ids).logits

    clean = reference()
    _, hook = hooked(model)
    assert not torch.equal(reference(), clean)
    hook.remove()
    with attach(model, neftune(ALPHA)) as handle:
        assert torch.equal(reference(), clean)
        assert not torch.equal(model(input_ids=ids).logits, clean)
        assert handle.lookups == 1


def test_8_ranks_that_are_seeded_alike_draw_the_same_noise(monkeypatch):
    ids = batch()

    def theirs():
        torch.manual_seed(0)  # as launchers do on every rank
        model, _ = hooked(llama())
        clean, noisy = table_of(model, ids)
        return noisy - clean

    assert torch.equal(theirs(), theirs())
    model = zeroed()
    with attach(model, neftune(ALPHA)):
        first = model(ids)
    monkeypatch.setattr(SampleIds, "_rank_of", lambda ids: (1, 2))
    with attach(model, neftune(ALPHA)):
        second = model(ids)
    assert (first != second).float().mean() > 0.99


# What PyTorch says when it breaks the graph inside the hook.
@pytest.mark.filterwarnings("ignore:The .grad attribute of a Tensor:UserWarning")
def test_9_compiled_models_are_compiled_again_or_get_no_noise():
    def hook(model):
        model.embed.neftune_noise_alpha = ALPHA
        return model.embed.register_forward_hook(neftune_hooks.neftune_post_forward_hook)

    def frames(prepare):
        torch._dynamo.reset()
        model, counter = zeroed(), CompileCounter()
        prepare(model)
        fast = torch.compile(model, backend=counter)
        for length in (5, 6, 7, 9, 12):
            fast(batch(length=length))
        return counter.frame_count

    plain = frames(lambda model: None)
    assert frames(hook) > plain
    assert frames(lambda model: attach(model, neftune(ALPHA))) == plain

    ids = batch()
    torch._dynamo.reset()
    model = zeroed()
    fast = torch.compile(model, backend="eager", fullgraph=True)
    fast(ids)
    late = hook(model)
    assert not fast(ids).any()  # a hook that comes later never runs
    late.remove()
    with attach(model, neftune(ALPHA)):
        assert fast(ids).any()
    torch._dynamo.reset()


def test_10_a_multiplier_of_the_embeddings_changes_what_the_noise_means():
    """Inside of the embedding the noise comes after it, outside before it."""
    ids = batch(length=64)
    granite = transformers.GraniteForCausalLM(
        transformers.GraniteConfig(
            vocab_size=50, hidden_size=16, intermediate_size=32, num_hidden_layers=1,
            num_attention_heads=2, num_key_value_heads=2, embedding_multiplier=4.0,
        )
    ).train()  # fmt: skip
    inside = [gemma(), gemma2(), gemma3()]  # they multiply by sqrt(16) = 4 inside
    models = [granite, *inside]
    for model in models:
        nn.init.normal_(model.get_input_embeddings().weight)

    def ratio(clean, noisy):
        return ((noisy - clean).pow(2).mean() / clean.pow(2).mean()).sqrt().item()

    theirs = []
    for model in models:
        _, hook = hooked(model)
        theirs.append(ratio(*table_of(model, ids)))
        hook.remove()
    assert theirs[1:] == pytest.approx([theirs[0] / 4] * len(inside), rel=0.1)

    for model in models:
        seen = noisy_lookups(
            model, Noise(0.1, scale="relative"), lambda model: model(input_ids=ids)
        )
        [(clean, noisy)] = next(iter(seen.values()))
        assert ratio(clean, noisy) == pytest.approx(0.1 / math.sqrt(3), rel=0.05)


def test_11_bfloat16_is_coarser_than_the_noise():
    """No implementation can store what the dtype has not; ours loses nothing before that.

    The hook draws in bfloat16 and rounds the sum again. We add in float32 and round once, so what
    is lost is lost at random: on average over the draws, the noise arrives.
    """
    generator = torch.Generator().manual_seed(0)
    x = torch.randn(1, 1024, 2304, generator=generator).bfloat16()
    module = nn.Identity().train()
    module.neftune_noise_alpha = ALPHA
    theirs = neftune_hooks.neftune_post_forward_hook(module, None, x)
    ours = add_noise(x, neftune(ALPHA), step=0)
    unchanged = [(noisy == x).float().mean().item() for noisy in (theirs, ours)]
    assert unchanged == pytest.approx([0.57, 0.57], abs=0.03)

    zero = torch.zeros_like(x)
    drawn = neftune_hooks.neftune_post_forward_hook(module, None, zero)
    exact = add_noise(zero.float(), neftune(ALPHA), step=0)
    assert torch.equal(add_noise(zero, neftune(ALPHA), step=0), exact.bfloat16())
    once = (x.float() + exact).bfloat16()
    assert (ours == once).float().mean() > 0.9999  # a fused multiply-add may round the other way
    assert drawn.unique().numel() < exact.unique().numel() / 10


def test_12_images_count_in_the_length_and_inputs_embeds_get_nothing():
    model = llama(image_token_id=7)
    nn.init.zeros_(model.model.embed_tokens.weight)
    ids = batch(length=64)
    ids[ids == 7] = 8
    ids[:, :48] = 7
    call = {"inputs_embeds": torch.randn(2, 8, 16), "labels": batch()}
    clean = losses(model, **call)
    _, hook = hooked(model)
    _, noisy = table_of(model, ids)
    assert magnitude(noisy[:, 48:]) == of_length(64, 16)
    assert noisy[:, :48].any()
    assert torch.equal(losses(model, **call), clean)  # and not a word
    hook.remove()
    seen = noisy_lookups(model, neftune(ALPHA), lambda model: model(input_ids=ids))
    [(_, noisy)] = seen["model.embed_tokens"]
    assert magnitude(noisy[:, 48:]) == of_length(16, 16)
    assert not noisy[:, :48].any()
    with attach(model, neftune(ALPHA)), pytest.warns(RuntimeWarning, match="inputs_embeds"):
        model(**call)


def test_13_alpha_is_not_checked():
    ids = batch()
    state = torch.get_rng_state()
    table_of(hooked(llama(), 0.0)[0], ids)
    torch.manual_seed(0)
    model, _ = hooked(llama(), 0.0)
    state = torch.get_rng_state()
    table_of(model, ids)
    assert not torch.equal(torch.get_rng_state(), state)  # it draws noise of size 0
    with pytest.raises(RuntimeError, match="uniform_"):
        table_of(hooked(llama(), -1.0)[0], ids)

    model = zeroed()
    state = torch.get_rng_state()
    with attach(model, neftune(0.0)):
        assert not model(ids).any()
    assert torch.equal(torch.get_rng_state(), state)
    for alpha in (-1.0, math.nan, math.inf):
        with pytest.raises(ValueError, match="alpha must be"):
            neftune(alpha)


def test_14_a_copy_keeps_the_noise_and_a_wrapped_model_cannot_be_cleaned():
    peft = pytest.importorskip("peft")
    ids = batch()
    copied = copy.deepcopy(hooked(llama())[0])
    clean, noisy = table_of(copied, ids)
    assert not torch.equal(clean, noisy)

    def wrap(model):
        config = peft.LoraConfig(r=2, target_modules=["q_proj"], modules_to_save=["embed_tokens"])
        return peft.get_peft_model(model, config)

    model, hook = hooked(llama())
    wrapped = wrap(model)
    with pytest.raises(AttributeError, match="neftune_noise_alpha"):
        del wrapped.get_input_embeddings().neftune_noise_alpha  # what deactivate_neftune does
    hook.remove()

    model = llama()
    handle = attach(model, neftune(ALPHA))
    clean, noisy = table_of(copy.deepcopy(model), ids)
    assert torch.equal(clean, noisy)
    wrapped = wrap(model).train()
    handle.remove()
    assert torch.equal(wrapped(input_ids=ids).logits, wrapped(input_ids=ids).logits)
    torch.save(wrapped.state_dict(), io.BytesIO())


def test_15_a_row_that_is_all_padding_divides_by_zero():
    x = torch.ones(2, 8, 4)
    mask = torch.ones(2, 8, dtype=torch.int64)
    mask[1] = 0
    assert MaskSum(ALPHA)(x, mask)[1].isnan().all()
    noisy = EmbeddingNoise(neftune(ALPHA))(x, mask=mask)
    assert torch.equal(noisy[1], x[1])
    assert 0 < magnitude(noisy[0] - x[0]) <= ALPHA / math.sqrt(8 * 4)
