"""Saved models, as far as no framework is needed."""

from pathlib import Path

import numpy as np
import pytest

from embnoise import Noise, add_noise, backend
from embnoise._cli import main
from embnoise._counter import Counter
from embnoise._state import Handle
from embnoise.backend import Seen, TokenArrays, inspect_seen
from embnoise.testing import ModelReport, check_model, saved_model
from embnoise.testing.model_batches import batches_of, parts_of
from embnoise.testing.model_checks import MODEL_CHECKS
from embnoise.testing.saved_model import Lookup, SavedModel

PAGE = Path(__file__).parents[2] / "docs" / "saved-models.md"


class Attached(Handle):
    def __init__(self, model, noise):
        self.model, self.noise, self.counters = model, noise, {"table": Counter()}
        model.handle = self

    def _counters(self):
        return self.counters

    def _set_counters(self, counters):
        self.counters = counters

    def remove(self):
        self.model.handle = None


class Model(SavedModel):
    """An embedding in NumPy, whose calls a test may replace."""

    name, embedding, shape = "Model", "table", (30, 16)
    token_ids = np.arange(1, 30)
    handle = None

    def __init__(self, **attributes):
        self.table = np.random.default_rng(0).normal(size=(30, 16)).astype(np.float32)
        vars(self).update(attributes)

    def attach(self, noise):
        return Attached(self, noise)

    def inspect(self, noise, *batches, lengths, step, reference_rms):
        lookups = []
        for number, [batch, *_] in enumerate(batches):
            with self.attach(noise):
                noisy = self.noisy(self.table[batch.ids], batch, number)
            tokens = TokenArrays(mask=batch.mask, segment_ids=batch.segments)
            lookups.append(backend.Lookup(batch.ids, self.table[batch.ids], noisy, tokens))
        seen = [Seen("table", self.table, lookups)]
        return inspect_seen(noise, seen, lengths=lengths, step=step, reference_rms=reference_rms)

    def noisy(self, x, batch, step):
        return add_noise(
            x, self.handle.noise, step=step, mask=batch.mask, segment_ids=batch.segments
        )

    def call(self, batches, *, training, gradients=True):
        lookups = []
        for batch in batches:
            x = self.table[batch.ids]
            if self.handle and training and gradients:
                x = self.noisy(x, batch, self.handle.step)
            lookups.append(Lookup(batch.ids, x))
        return lookups, lookups[0].embeddings.sum(axis=-1)

    def state(self):
        return {"table": self.table.tobytes()}


@pytest.fixture
def found(tmp_path, monkeypatch):
    """The codes of what is wrong with a model, and the table."""

    def find(model, noise=None):
        monkeypatch.setattr("embnoise.testing.models.load_model", lambda *_: model)
        report = check_model(tmp_path, noise, raises=False)
        assert isinstance(report, ModelReport)
        return {each.code for each in report.results if each.wrong}, report.table()

    return find


@pytest.mark.parametrize("inputs", [1, 2])
@pytest.mark.parametrize("width", [None, 9])
def test_a_right_model_holds(inputs, width, found):
    assert found(Model(inputs=inputs, width=width))[0] == set()
    assert found(Model(inputs=inputs, longest=7), Noise(3.0, "gaussian"))[0] == set()


def test_a_model_with_other_draws_holds(found):
    """What is claimed is the size of the noise, not the numbers."""

    class Other(Model):
        def noisy(self, x, batch, step):
            masks = {"mask": batch.mask, "segment_ids": batch.segments}
            other = Noise(5.0, seed=self.handle.noise.seed, stream="of its own")
            return add_noise(x, other, step=step, **masks)

    wrong, table = found(Other())
    assert wrong == set()
    assert "rows of 12, 7, 3 tokens: L = 12, 7, 3" in table


@pytest.mark.parametrize(
    ("factor", "says"), [(2, "is 2 times as large"), (2**0.5, "is 1.41 times as large")]
)
def test_a_factor_is_reported_once(factor, says, found):
    class Larger(Model):
        def noisy(self, x, batch, step):
            return x + np.float32(factor) * (super().noisy(x, batch, step) - x)

    wrong, table = found(Larger())
    assert wrong == {"MD02"}
    assert says in table


def test_noise_of_one_step_is_found(found):
    class Frozen(Model):
        def noisy(self, x, batch, step):
            return super().noisy(x, batch, 0)

    wrong, table = found(Frozen())
    assert wrong == {"MD11"}
    assert "step 0 and step 1 have the same noise in 3 of 3 rows" in table


def test_noise_that_cannot_be_repeated_is_found(found):
    draws = np.random.default_rng(1)

    class Unseeded(Model):
        def noisy(self, x, batch, step):
            units = draws.uniform(-1, 1, x.shape).astype(np.float32)
            size = 5 / np.sqrt(batch.mask.sum(axis=1) * 16)
            return x + units * size[:, None, None].astype(np.float32) * batch.mask[..., None]

    wrong, table = found(Unseeded(no_segments="takes none"))
    assert wrong == {"MD10"}
    assert "attached twice with one seed, the noise of step 0 is another" in table


def test_noise_that_stays_is_found(found):
    class Sticky(Model):
        kept = None

        def attach(self, noise):
            self.kept = super().attach(noise)
            return self.kept

        def call(self, batches, **mode):
            self.handle = self.handle or self.kept
            return super().call(batches, **mode)

    assert "MD13" in found(Sticky())[0]


def test_noise_without_gradients_is_found(found):
    class Always(Model):
        def call(self, batches, *, training, gradients=True):
            return super().call(batches, training=training)

    assert found(Always())[0] == {"MD09"}


def test_ids_that_the_model_was_not_called_with_cannot_be_told_apart(found):
    class Prompted(Model):
        def call(self, batches, **mode):
            lookups, output = super().call(batches, **mode)
            return [Lookup(each.ids + 1, each.embeddings) for each in lookups], output

    wrong, table = found(Prompted())
    assert wrong == {"MD01"}
    assert "the kit cannot tell the tokens apart" in table


@pytest.mark.parametrize("width", [None, 5, 8, 32])
def test_no_batch_is_like_another(width):
    """Lengths of a batch tell each mistake with its mask from the others."""
    model = Model(width=width, inputs=2)
    square, other = batches_of(model, "square")
    lengths = square.mask.sum(axis=1)
    assert sorted(lengths) == list(range(1, square.mask.shape[0] + 1))
    for wrong in (square.mask.T, square.mask[:, ::-1], other.mask):
        assert not np.array_equal(square.mask, wrong)
    packed, _ = batches_of(model, "packed")
    assert len(parts_of(packed)) == 5
    assert all(part.length >= 1 for part in parts_of(packed))


def test_a_framework_may_be_missing(tmp_path, monkeypatch, capsys):
    def missing(name):
        raise ModuleNotFoundError(f"No module named {name!r}", name="a_framework")

    monkeypatch.setattr(saved_model, "import_module", missing)
    assert main(["check", str(tmp_path)]) == 2
    seen = capsys.readouterr().err
    assert f"no model found in {str(tmp_path)!r}" in seen
    assert "torch needs a_framework, which is not installed" in seen
    assert seen.count("\n") == 1


@pytest.mark.parametrize(
    ("command", "says"),
    [
        (["nothing/there"], "there is no file or folder 'nothing/there'"),
        (["model.keras"], "there is no file or folder 'model.keras'"),
        (["layers:make_layer", "--alpha", "3"], "--alpha is for saved models"),
        (["layers:make_layer", "--layer", "x"], "--layer is for saved models"),
        ([".", "--inputs", "ids"], "--inputs is for layers"),
        ([".", "--profile", "quick"], "--profile is for layers"),
        ([".", "--driver", "tensor"], "--driver must be one of ["),
        ([".", "--length", "0"], "length must be"),
        ([".", "--alpha", "-1"], "alpha must be finite in float32 and at least 0"),
    ],
)
def test_wrong_usage_is_one_line(command, says, capsys):
    assert main(["check", *command]) == 2
    seen = capsys.readouterr().err
    assert says in seen
    assert seen.count("\n") == 1


@pytest.mark.parametrize("code", MODEL_CHECKS)
def test_the_checks_are_explained(code, capsys):
    check = MODEL_CHECKS[code]
    assert main(["explain", code.lower()]) == 0
    assert capsys.readouterr().out == f"{code} {check.__name__}\n{check.__doc__}\n"
    assert f"\n| {code} `{check.__name__}` | {check.__doc__} |\n" in PAGE.read_text()
