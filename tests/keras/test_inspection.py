"""``inspect`` on Keras models, from memory and from disk."""

import json
import math

import keras
import numpy as np
import pytest

from embnoise import neftune
from embnoise._cli import main
from embnoise_keras import attach, inspect
from tests.keras.models import DIM, VOCABULARY, Subclassed, functional, numpy, sequential

# As in tests/torch/test_inspection.py: 40,960 values, of which 1% is four standard deviations.
LENGTHS = np.repeat([20, 60], 32)
MASK = np.arange(60) < LENGTHS[:, None]
IDS = (np.random.default_rng(0).integers(1, VOCABULARY, (64, 60)) * MASK).astype(np.int32)
RIGHT = math.sqrt((20 * 25 / 20 + 60 * 25 / 60) / 80 / 16 / 3)
NOISE = neftune(5.0)


def check(report, *, inner=1.0, outer=1.0):
    measured = report.measured
    assert (measured.lengths, measured.tokens) == ((20, 60), 2560)
    assert measured.predicted == pytest.approx(RIGHT, rel=1e-4)
    assert measured.measured == pytest.approx(RIGHT, rel=0.01)
    assert 3.5 * measured.chance < 0.01
    assert report.inner_multiplier == pytest.approx(inner, rel=1e-3)
    assert report.outer_multiplier == pytest.approx(outer, rel=1e-3)


def decoder(rate=0.0):
    ids = keras.Input((None,), dtype="int32")
    x = 3.0 * keras.layers.Embedding(VOCABULARY, DIM, mask_zero=True)(ids)
    return keras.Model(ids, keras.layers.Dropout(rate)(keras.layers.BatchNormalization()(x)))


def test_the_noise_of_a_model():
    model = decoder(0.5)
    before = [numpy(each.value).copy() for each in model.variables]
    [report] = inspect(model, NOISE, IDS).embeddings
    check(report, outer=3)
    table = numpy(model.layers[1].embeddings)
    assert report.table_rms == pytest.approx(np.sqrt(np.square(table).mean()), rel=1e-5)
    # Not the statistics of the normalization either, nor the generator of the dropout.
    after = [numpy(each.value) for each in model.variables]
    assert all(np.array_equal(one, other) for one, other in zip(before, after, strict=True))
    assert not any("call" in vars(layer) for layer in model.layers)
    attach(model, NOISE).remove()


def test_an_embedding_that_multiplies():
    class Scaled(keras.layers.Embedding):
        def call(self, ids):
            return 4.0 * super().call(ids)

    model = keras.Sequential([Scaled(VOCABULARY, DIM), keras.layers.Dense(2)])
    model(IDS)
    tokens = {"tokens": lambda ids: {"mask": ids != 0}}
    check(inspect(model, NOISE, IDS, **tokens).embeddings[0], inner=4)


def test_several_calls_and_a_model_that_looks_up_in_reverse():
    model = Subclassed()
    model(IDS)
    options = {"tokens": lambda ids: {"mask": ids != 0}}
    [report] = inspect(model, NOISE, IDS, IDS[:, :20], **options).embeddings
    assert report.measured.tokens == 2560 + 64 * 20
    assert inspect(model, NOISE).embeddings[0].measured is None


@pytest.fixture(scope="module")
def gemma(tmp_path_factory):
    """keras-hub multiplies by sqrt(d) outside of the embedding."""
    hub = pytest.importorskip("keras_hub")
    model = hub.models.GemmaBackbone(
        vocabulary_size=VOCABULARY, num_layers=1, num_query_heads=2, num_key_value_heads=1,
        hidden_dim=DIM, intermediate_dim=32, head_dim=8,
    )  # fmt: skip
    folder = tmp_path_factory.mktemp("gemma")
    model.save_to_preset(folder)
    return model, folder


def test_a_model_of_keras_hub(gemma):
    model, _ = gemma
    call = {"token_ids": IDS, "padding_mask": MASK.astype(np.int32)}
    check(inspect(model, NOISE, call).embeddings[0], outer=4)


def test_the_command_on_a_preset(gemma, tmp_path, capsys):
    _, folder = gemma
    (tmp_path / "data.jsonl").write_text('{"input_ids": [1, 2, 3, 4]}\n{"input_ids": [5]}\n')
    data = ["--data", str(tmp_path / "data.jsonl"), "--driver", "keras"]
    assert main(["inspect", str(folder), *data, "--json"]) == 0
    [report] = json.loads(capsys.readouterr().out)["embeddings"]
    right = math.sqrt(2 * 25 / 5 / 16 / 3)
    assert report["measured"]["predicted"] == pytest.approx(right, rel=2e-3)
    assert report["measured"]["measured"] == pytest.approx(right, rel=0.01)
    (tmp_path / "data.jsonl").write_text('{"text": "hello"}\n')
    assert main(["inspect", str(folder), *data]) == 2
    seen = capsys.readouterr().err
    assert "has no tokenizer that keras-hub can load" in seen
    assert seen.count("\n") == 1


def test_the_command_on_a_file(tmp_path, capsys):
    functional().save(tmp_path / "model.keras")
    options = [str(tmp_path / "model.keras"), "--driver", "keras"]
    assert main(["inspect", *options, "--alpha", "2"]) == 0
    text = " ".join(capsys.readouterr().out.split())
    assert "model.keras: Functional" in text
    assert "tokens in sequences of 5" in text
    (tmp_path / "data.jsonl").write_text('{"text": "hello"}\n')
    assert main(["inspect", *options, "--data", str(tmp_path / "data.jsonl")]) == 2
    assert "Functional has no tokenizer for text" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("change", "options", "says"),
    [
        (lambda model: None, {}, "model must be built, and its 'embedding.*' is not"),
        (lambda model: model(IDS), {"layer": "dense*"}, "must be a keras.layers.Embedding"),
        (lambda model: (model(IDS), model.layers[0].quantize("int8")), {}, "is int8; inspect"),
    ],
)
def test_what_is_refused(change, options, says):
    model = sequential()
    change(model)
    with pytest.raises(ValueError, match=says):
        inspect(model, NOISE, IDS, **options)
    with pytest.raises(TypeError, match=r"batches\[0\] must be what the model .* got 5"):
        inspect(model, NOISE, 5)
