"""``inspect`` on models of transformers: predicted and measured noise, and multipliers."""

import json
import math

import pytest
import torch

from embnoise import Noise, linear, neftune
from embnoise._cli import main
from embnoise_torch import attach, inspect
from tests.torch.models import _SIZES, MODELS, VOCABULARY, Embedder, batch, llama, tiny

transformers = pytest.importorskip("transformers")
from tests.torch.test_enclosing_calls import gemma3, llava  # noqa: E402, needs transformers

# Half of the rows have 20 tokens, half have 60: 2,560 tokens of d = 16 are 40,960 values, whose
# RMS has a standard deviation of 0.26%. 1% is four of them.
LENGTHS = torch.tensor([20, 60]).repeat_interleave(32)
MASK = (torch.arange(60) < LENGTHS[:, None]).long()
IDS = torch.randint(3, VOCABULARY, (64, 60), generator=torch.Generator().manual_seed(0)) * MASK
RIGHT = math.sqrt((20 * 25 / 20 + 60 * 25 / 60) / 80 / 16 / 3)
BATCH = {"input_ids": IDS, "attention_mask": MASK}


def granite():
    return tiny("GraniteForCausalLM", "GraniteConfig", **_SIZES, embedding_multiplier=12.0)


def xlnet():
    """It looks up [L, B]."""
    return tiny(
        "XLNetModel", "XLNetConfig", vocab_size=VOCABULARY, d_model=16, n_layer=1, n_head=2,
        d_inner=32, pad_token_id=0, dropout=0.0,
    )  # fmt: skip


CASES = {
    "llama": (MODELS["llama"], 1, 1),
    "gemma": (MODELS["gemma"], 4, 1),
    "gemma3": (MODELS["gemma3"], 4, 1),
    "granite": (granite, 1, 12),
    "bert": (MODELS["bert"], 1, 1),
    "gpt2": (MODELS["gpt2"], 1, 1),
    "xlnet": (xlnet, 1, 1),
    "llava": (llava, 1, 1),
    "gemma3 with images": (gemma3, 4, 1),
}


@pytest.mark.parametrize("name", CASES)
def test_the_noise_of_a_model(name):
    make, inner, outer = CASES[name]
    model = make()
    model.eval()
    modes = {each: each.training for each in model.modules()}
    before = {key: value.clone() for key, value in model.state_dict().items()}
    randomness = torch.get_rng_state()
    [report] = inspect(model, neftune(5.0), BATCH, reference_rms=0.017).embeddings
    measured = report.measured
    assert measured.lengths == (20, 60)
    assert measured.tokens == 2560
    assert measured.predicted == pytest.approx(RIGHT, rel=1e-4)
    assert measured.measured == pytest.approx(RIGHT, rel=0.01)
    assert 3.5 * measured.chance < 0.01
    table = model.get_input_embeddings().weight
    assert report.table_rms == pytest.approx(table.detach().square().mean().sqrt().item())
    assert report.inner_multiplier == pytest.approx(inner, rel=1e-3)
    assert report.outer_multiplier == pytest.approx(outer, rel=1e-3)
    assert [each.tokens for each in report.lengths] == [20, 60]
    # Nothing is left behind.
    assert {each: each.training for each in model.modules()} == modes
    assert all(torch.equal(before[key], value) for key, value in model.state_dict().items())
    assert torch.equal(torch.get_rng_state(), randomness)
    assert not any(each._forward_hooks or each._forward_pre_hooks for each in model.modules())
    with attach(model, neftune(5.0)):
        pass


@pytest.mark.parametrize("name", ["t5", "bart"])
def test_both_sides_of_an_encoder_decoder(name):
    call = {**BATCH, "decoder_input_ids": IDS[:, :30], "decoder_attention_mask": MASK[:, :30]}
    [report] = inspect(MODELS[name](), neftune(5.0), call).embeddings
    assert "decoder.embed_tokens" in report.name
    assert "encoder.embed_tokens" in report.name
    # The decoder's rows have 20 and 30 tokens. A token of a row of L gets the square 25 / (3 L d).
    right = math.sqrt((64 + 64) * 25 / (2560 + 32 * 50) / 16 / 3)
    assert report.measured.tokens == 2560 + 32 * 50
    assert report.measured.predicted == pytest.approx(right, rel=1e-4)
    assert report.measured.measured == pytest.approx(right, rel=0.01)
    assert (report.inner_multiplier, report.outer_multiplier) == pytest.approx((1, 1), rel=1e-3)


def test_noise_that_a_model_adds_itself_is_measured(monkeypatch):
    """What is measured comes from the model, not from the prediction."""
    from embnoise_torch.tracing import custom_op, planned  # noqa: PLC0415

    add_ = custom_op.add_

    def twice(*arguments):
        add_(*arguments)
        add_(*arguments)

    monkeypatch.setattr(custom_op, "add_", twice)
    monkeypatch.setattr(planned, "can_fuse", lambda *_, **__: False)
    monkeypatch.setattr("embnoise_torch.noisy_layer.can_fuse", lambda *_, **__: False)
    [report] = inspect(llama(), neftune(5.0), BATCH).embeddings
    assert report.measured.measured == pytest.approx(2 * RIGHT, rel=0.01)
    assert report.measured.predicted == pytest.approx(RIGHT, rel=1e-4)


def test_a_mask_that_does_not_arrive_shows_in_the_lengths():
    [report] = inspect(llama(), neftune(5.0), {"input_ids": IDS.clamp(min=3)}).embeddings
    assert report.measured.lengths == (60,)


def test_what_describes_the_tokens():
    model, noise = Embedder(16), neftune(5.0)
    [report] = inspect(model, noise, IDS, tokens=lambda ids: {"mask": ids != 0}).embeddings
    assert (report.measured.lengths, report.name) == ((20, 60), "embed")
    labels = torch.where(torch.arange(60) < 5, -100, IDS)
    call = {**BATCH, "labels": labels}
    [report] = inspect(model, noise, call, where="prompt").embeddings
    assert report.measured.tokens == 64 * 5


def test_several_batches_and_steps():
    noise = neftune(linear(0.0, 5.0, 10))
    short = {name: value[:, :20] for name, value in BATCH.items()}
    [report] = inspect(llama(), noise, BATCH, short, step=10, lengths=[7]).embeddings
    assert report.measured.tokens == 2560 + 64 * 20
    assert [each.tokens for each in report.lengths] == [7]
    assert report.lengths[0].noise_rms == pytest.approx(5 / math.sqrt(7 * 16 * 3))
    assert inspect(llama(), neftune(5.0)).embeddings[0].measured is None


def test_a_compiled_model_and_one_without_gradients():
    model = torch.compile(llama(), backend="eager")
    model(**BATCH)
    with torch.no_grad():
        [report] = inspect(model, neftune(5.0), BATCH).embeddings
    assert report.measured.measured == pytest.approx(RIGHT, rel=0.01)


def test_an_output_that_is_no_multiple_of_the_table():
    class Normed(torch.nn.Embedding):
        def forward(self, ids):
            return torch.nn.functional.layer_norm(super().forward(ids), (16,))

    model = torch.nn.Sequential(Normed(VOCABULARY, 16), torch.nn.Linear(16, 2))
    found = inspect(model, neftune(5.0), IDS)
    assert found.embeddings[0].inner_multiplier is None
    assert found.embeddings[0].measured.embedding_rms == pytest.approx(1, rel=1e-2)
    assert "the embedding's output is no multiple of its rows" in found.table()


@pytest.mark.parametrize(
    ("options", "error", "says"),
    [
        ({"noise": neftune(0.0)}, ValueError, "alpha must be above 0 at step 0"),
        ({"noise": 5.0}, TypeError, "did you mean neftune"),
        ({"batch": 5}, TypeError, r"batches\[0\] must be what the model is called with, .* got 5"),
        ({"layer": "model.layers.0"}, ValueError, "'model.layers.0', a Llama.*, has none"),
        ({"layer": "lm_head"}, ValueError, "'lm_head', a Linear, has none"),
        ({"batch": {"inputs_embeds": torch.ones(1, 4, 16)}}, ValueError,
         "batch must have token ids that 'model.embed_tokens' looks up"),
        ({"batch": {"input_ids": IDS, "attention_mask": 0 * MASK}}, ValueError,
         "batch must have tokens that get noise"),
    ],
)  # fmt: skip
def test_what_is_refused(options, error, says):
    model = llama()
    options = {"noise": neftune(5.0), "batch": BATCH, **options}
    noise, call = options.pop("noise"), options.pop("batch")
    with pytest.raises(error, match=says):
        inspect(model, noise, call, **options)
    with attach(model, neftune(5.0)):  # nothing is left attached
        pass


def test_a_quantized_table_is_refused():
    model = Embedder(16)
    model.embed.weight = torch.nn.Parameter(torch.ones(50, 16, dtype=torch.int8), False)
    with pytest.raises(
        ValueError, match=r"that of 'embed' is torch.int8; inspect the model before"
    ):
        inspect(model, neftune(5.0), IDS)


def test_the_command_on_a_folder(tmp_path, capsys):
    tokenizers = pytest.importorskip("tokenizers")
    granite().save_pretrained(tmp_path)
    words = {f"w{number}": number for number in range(VOCABULARY)}
    model = tokenizers.Tokenizer(tokenizers.models.WordLevel(words, unk_token="w1"))  # noqa: S106
    model.pre_tokenizer = tokenizers.pre_tokenizers.Whitespace()
    (tmp_path / "data.jsonl").write_text(
        '{"text": "w3 w4 w5 w6"}\n{"input_ids": [9, 9, 9, 9, 9, 9, 9, 9]}\n'
    )
    capsys.readouterr()
    options = ["inspect", str(tmp_path), "--data", str(tmp_path / "data.jsonl")]
    assert main(options) == 2
    assert "has no tokenizer that transformers can load" in capsys.readouterr().err
    transformers.PreTrainedTokenizerFast(tokenizer_object=model).save_pretrained(tmp_path)
    files = {file.name: file.read_bytes() for file in tmp_path.iterdir()}
    assert main([*options, "--json"]) == 0
    seen = capsys.readouterr()
    assert not seen.err
    [report] = json.loads(seen.out)["embeddings"]
    assert report["measured"]["lengths"] == [4, 8]
    assert [each["tokens"] for each in report["lengths"]] == [4, 8]
    right = math.sqrt(2 * 25 / 12 / 16 / 3)
    assert report["measured"]["predicted"] == pytest.approx(right, rel=2e-3)
    assert report["measured"]["measured"] == pytest.approx(right, rel=0.01)
    assert report["outer_multiplier"] == pytest.approx(12, rel=1e-3)
    assert {file.name: file.read_bytes() for file in tmp_path.iterdir()} == files
    assert main(["inspect", str(tmp_path)]) == 0
    text = " ".join(capsys.readouterr().out.split())
    assert "none in the embedding; 12 after the noise, of the noise and the embeddings" in text
    (tmp_path / "data.jsonl").write_text(json.dumps({"input_ids": [3] * 65}))
    assert main(["inspect", str(tmp_path), "--data", str(tmp_path / "data.jsonl")]) == 2
    assert "rows of at most 64 tokens for GraniteForCausalLM" in capsys.readouterr().err
    for name, says in (("empty", "no model found in"), ("none", "there is no file or folder")):
        (tmp_path / "empty").mkdir(exist_ok=True)
        assert main(["inspect", str(tmp_path / name), "--driver", "torch"]) == 2
        message = capsys.readouterr().err
        assert says in message
        assert message.count("\n") == 1


def test_both_tables_of_an_untied_encoder_decoder(tmp_path):
    model = MODELS["bart"]()
    model.config.tie_word_embeddings = False
    decoder = model.model.decoder
    decoder.embed_tokens = torch.nn.Embedding(VOCABULARY, 16)
    call = {"input_ids": batch(), "decoder_input_ids": batch(length=5)}
    reports = inspect(model, Noise(0.1, scale="absolute"), call).embeddings
    assert [each.measured.tokens for each in reports] == [16, 10]
    assert reports[1].table_rms == pytest.approx(1, rel=0.1)
