"""``embnoise check FILE``: Keras models from disk, whole ones and broken ones."""

import json

import keras
import pytest

from embnoise._cli import main
from embnoise.testing import check_model
from tests.keras.models import DIM, IDS, VOCABULARY


def functional(path, looked_up=lambda embedding, ids: embedding(ids), **options):
    """A model with an embedding, on disk."""
    ids = keras.Input((None,), dtype="int32")
    embedding = keras.layers.Embedding(VOCABULARY, DIM, **options)
    keras.Model(ids, keras.layers.Dense(1)(looked_up(embedding, ids))).save(path)
    return path


def lines(report):
    return {each.code: each.message for each in report.results}


def test_a_file_holds(tmp_path, capsys):
    path = functional(tmp_path / "model.keras", mask_zero=True)
    before = path.read_bytes()
    assert main(["check", str(path)]) == 0
    seen = capsys.readouterr()
    assert "model.keras: Functional, noise on embedding" in seen.out
    assert "lengths_padded_left      passed       rows of 12, 7, 3 tokens: L = 12, 7, 3" in seen.out
    assert "holds: 11 passed, 2 not claimed" in seen.out
    assert path.read_bytes() == before


def test_rows_may_have_one_width(tmp_path):
    keras.Sequential(
        [
            keras.Input((5,), dtype="int32"),
            keras.layers.Embedding(VOCABULARY, DIM, mask_zero=True),
            keras.layers.Dropout(0.5),
        ]
    ).save(tmp_path / "model.keras")
    report = check_model(tmp_path / "model.keras")
    assert lines(report)["MD05"] == "rows of 3, 2, 1, 5, 4 tokens: L = 3, 2, 1, 5, 4"


def test_lengths_are_not_claimed_without_a_mask(tmp_path):
    report = check_model(functional(tmp_path / "model.keras"))
    skipped = {each.code for each in report.results if each.status == "not_claimed"}
    assert skipped == {"MD03", "MD04", "MD05", "MD06", "MD07", "MD09"}
    assert "no input for a mask, and its embedding no mask_zero" in report.table()


@pytest.fixture(scope="module")
def bert(tmp_path_factory):
    hub = pytest.importorskip("keras_hub")
    sizes = {"vocabulary_size": 20, "num_layers": 1, "num_heads": 2, "hidden_dim": 16}
    model = hub.models.BertBackbone(**sizes, intermediate_dim=32, max_sequence_length=8)
    folder = tmp_path_factory.mktemp("bert")
    model.save_to_preset(folder)
    return folder


def test_a_preset_holds(bert):
    report = check_model(bert)
    assert (report.model, report.embedding) == ("BertBackbone", "token_embedding")
    assert lines(report)["MD03"] == "rows of 8, 5, 2 tokens: L = 8, 5, 2"


def test_a_mask_that_does_not_arrive_is_found(bert, monkeypatch):
    from embnoise_keras import lookups  # noqa: PLC0415
    from embnoise_keras.comparisons import Comparisons  # noqa: PLC0415

    monkeypatch.setattr(lookups, "find_mask", lambda inputs, places: None)
    monkeypatch.setattr(Comparisons, "padding", lambda self, call, of_inputs: None)
    report = check_model(bert, raises=False)
    wrong = {each.code for each in report.results if each.wrong}
    assert wrong == {"MD02", "MD03", "MD04", "MD05", "MD07"}
    assert "how padding_mask is computed from the input 'padding_mask' is not" in report.table()
    assert "5 real tokens in row 1, of width 8, get the noise of L = 8" in report.table()


def test_two_lookups_of_the_same_tokens_are_found(tmp_path):
    path = functional(
        tmp_path / "model.keras",
        lambda embedding, ids: keras.layers.add([embedding(ids), embedding(ids)]),
        mask_zero=True,
    )
    report = check_model(path, raises=False)
    assert "MD02 noised_once: one forward looks the same tokens up 2 times" in report.table()


@keras.saving.register_keras_serializable("embnoise_tests")
class Noisy(keras.layers.Embedding):
    """An embedding with noise of its own."""

    def call(self, inputs):
        return super().call(inputs) + keras.random.normal((1,))


def test_noise_of_its_own_is_found(tmp_path):
    keras.Sequential([keras.Input((None,), dtype="int32"), Noisy(VOCABULARY, DIM)]).save(
        tmp_path / "model.keras"
    )
    (wrong,) = check_model(tmp_path / "model.keras", raises=False).results
    assert "two training calls look up different embeddings" in wrong.message


@keras.saving.register_keras_serializable("embnoise_tests")
class Forgetful(keras.Model):
    """A model that does not say whether it trains."""

    def __init__(self, **options):
        super().__init__(**options)
        self.embed = keras.layers.Embedding(VOCABULARY, DIM, mask_zero=True)

    def call(self, ids):
        return self.embed(ids)


def test_what_attach_warns_of_is_reported(tmp_path):
    model = Forgetful()
    model(IDS)
    model.save(tmp_path / "model.keras")
    (wrong,) = [each for each in check_model(tmp_path / "model.keras", raises=False).results
                if each.wrong]  # fmt: skip
    assert wrong.code == "MD02"
    assert "attach warns of this model: Forgetful.call has no argument `training`" in wrong.message


def two_embeddings(path):
    ids = keras.Input((None,), dtype="int32")
    keras.Model(ids, keras.layers.add([keras.layers.Embedding(9, 4, name=name)(ids)
                                       for name in ("one", "other")])).save(path)  # fmt: skip


def two_inputs(path):
    ids = keras.Input((None,), dtype="int32", name="token_ids")
    image = keras.Input((1,), name="image")
    x = keras.layers.Embedding(9, 4)(ids)
    keras.Model({"token_ids": ids, "image": image}, [x, image]).save(path)


def not_a_model(path):
    path.write_bytes(b"")


@pytest.mark.parametrize(
    ("write", "says"),
    [
        (two_embeddings, "found 2 embeddings in the model; pass layer="),
        (two_inputs, "the model has an input 'image', and the kit only knows how to fill"),
        (not_a_model, "cannot be loaded: "),
        (lambda path: None, "there is no file or folder"),
    ],
)
def test_what_cannot_be_checked_is_one_line(write, says, tmp_path, capsys):
    write(tmp_path / "model.keras")
    assert main(["check", str(tmp_path / "model.keras")]) == 2
    seen = capsys.readouterr()
    assert says in seen.err
    assert seen.err.count("\n") == 1
    assert not seen.out


def test_the_embedding_may_be_named(tmp_path, capsys):
    two_embeddings(tmp_path / "model.keras")
    assert main(["check", str(tmp_path / "model.keras"), "--layer", "other", "--json"]) == 0
    assert json.loads(capsys.readouterr().out)["embedding"] == "other"


def test_a_preset_without_keras_hub(tmp_path, capsys, monkeypatch):
    import sys  # noqa: PLC0415

    (tmp_path / "config.json").write_text(json.dumps({"registered_name": "hub>Bert"}))
    monkeypatch.setitem(sys.modules, "keras_hub", None)
    assert main(["check", str(tmp_path)]) == 2
    assert "is not installed: pip install keras-hub" in capsys.readouterr().err
