"""Every kind of model is noised once per forward in training, and never else."""

import pytest
import torch

from embnoise import Noise, neftune
from embnoise_torch import add_noise, attach
from tests.torch.models import DECODERS, ENCODER_DECODERS, MODELS, batch

over_models = pytest.mark.parametrize("name", MODELS)


def loss_of(model, ids, **call):
    return model(input_ids=ids, labels=ids, **call).loss


@over_models
def test_noised_in_training_and_clean_in_evaluation(name):
    model, ids = MODELS[name](), batch()
    clean = loss_of(model.eval(), ids)
    with attach(model, neftune(alpha=20.0)) as handle:
        assert torch.equal(loss_of(model, ids), clean)
        assert handle.lookups == 0
        noisy = loss_of(model.train(), ids)
        assert handle.lookups == (2 if name in ENCODER_DECODERS else 1)
        assert not torch.equal(noisy, clean)
        assert not torch.equal(loss_of(model, ids), noisy)
        noisy.backward()
        lookups = handle.lookups
        # Another layout in memory may change the last bit of a matrix product.
        with torch.no_grad():
            torch.testing.assert_close(loss_of(model, ids), clean.detach(), rtol=1e-6, atol=0)
        with handle.paused():
            torch.testing.assert_close(loss_of(model, ids), clean, rtol=1e-6, atol=0)
        assert handle.lookups == lookups
    torch.testing.assert_close(loss_of(model, ids), clean, rtol=1e-6, atol=0)


@pytest.mark.parametrize("name", [*DECODERS, *ENCODER_DECODERS])
def test_generate_is_clean_even_in_training_mode(name):
    model, ids = MODELS[name](), batch()
    options = {"attention_mask": torch.ones_like(ids), "max_new_tokens": 4, "do_sample": False}
    clean = model.generate(ids, **options)
    with attach(model, Noise(100.0, scale="absolute")) as handle:
        assert torch.equal(model.generate(ids, **options), clean)
        assert handle.lookups == 0


@pytest.mark.parametrize("name", DECODERS)
def test_the_lookup_gets_the_noise_of_the_specification(name):
    """Whatever the model does, its embedding returns the lookup with ``add_noise`` on it."""
    model, ids = DECODERS[name](), batch()
    mask = torch.tensor([[0, 0, 0, 1, 1, 1, 1, 1], [1] * 8])
    embedding = model.get_input_embeddings()
    clean = embedding.eval()(ids)
    seen = []
    embedding.train().register_forward_hook(lambda module, args, output: seen.append(output))
    with attach(model, neftune(seed=3)):
        loss_of(model, ids, attention_mask=mask)
    assert torch.equal(seen[0], add_noise(clean, neftune(seed=3), step=0, mask=mask))


@pytest.mark.parametrize("name", ENCODER_DECODERS)
def test_encoder_and_decoder_get_noise_of_their_own(name):
    model, ids = MODELS[name](), batch()
    seen = {}
    for part in ("encoder", "decoder"):
        embedding = getattr(model, "model", model).get_submodule(part).embed_tokens
        torch.nn.init.zeros_(embedding.weight)
        embedding.register_forward_hook(
            lambda module, args, output, part=part: seen.update({part: output.detach()})
        )
    mask = torch.tensor([[1, 1, 0, 0, 0, 0, 0, 0], [1] * 8])
    with attach(model, neftune(distribution="rademacher")):
        loss_of(model, ids, attention_mask=mask, decoder_attention_mask=torch.ones_like(ids))
    encoder, decoder = seen["encoder"], seen["decoder"]
    dim = encoder.shape[-1]
    assert abs(encoder[0, :2]).unique().tolist() == pytest.approx([5 / (2 * dim) ** 0.5])
    assert not encoder[0, 2:].any()
    assert abs(decoder).unique().tolist() == pytest.approx([5 / (8 * dim) ** 0.5])
    assert (encoder[1].sign() != decoder[1].sign()).float().mean() > 0.3


@over_models
def test_nothing_of_it_is_saved(name, tmp_path):
    model = MODELS[name]()
    names, kind = list(model.state_dict()), type(model)
    model.save_pretrained(tmp_path / "before")
    with attach(model, neftune()):
        assert list(model.state_dict()) == names
        assert type(model).__name__ == kind.__name__
        model.save_pretrained(tmp_path / "after")
    assert type(model) is kind
    for file in (tmp_path / "before").iterdir():
        assert (tmp_path / "after" / file.name).read_bytes() == file.read_bytes()


def test_the_output_head_that_shares_the_table_is_never_noised():
    model, ids = DECODERS["llama"](tie_word_embeddings=True), batch()
    assert model.lm_head.weight is model.model.embed_tokens.weight
    head = type(model.lm_head)
    with attach(model, Noise(100.0, scale="absolute")) as handle:
        assert type(model.lm_head) is head
        loss_of(model, ids)
        assert handle.lookups == 1
