"""``inspect`` for NNX, Linen and Equinox models, and of the table of a checkpoint."""

import json
import math

import equinox as eqx
import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx

from embnoise import neftune
from embnoise._cli import main
from embnoise_jax.inspection import equinox, linen
from embnoise_jax.inspection import nnx as in_nnx
from tests.jax.models import DIM, VOCABULARY
from tests.jax.nnx_model import NnxModel
from tests.jax.test_equinox import EquinoxModel

# As in tests/torch/test_inspection.py, twice: of 81,920 values 1% is five standard deviations.
LENGTHS = np.repeat([20, 60], 32)
MASK = np.arange(60) < LENGTHS[:, None]
IDS = jnp.array(np.random.default_rng(0).integers(1, VOCABULARY, (64, 60)) * MASK)
RIGHT = math.sqrt((20 * 25 / 20 + 60 * 25 / 60) / 80 / 16 / 3)
NOISE = neftune(5.0)


def mask_of(ids):
    return {"mask": ids != 0}


def check(report, *, inner=1.0, outer=1.0):
    """The noise of two calls with one batch."""
    measured = report.measured
    assert (measured.lengths, measured.tokens) == ((20, 60), 2 * 2560)
    assert measured.predicted == pytest.approx(RIGHT, rel=1e-4)
    assert measured.measured == pytest.approx(RIGHT, rel=0.01)
    assert 5 * measured.chance < 0.01
    assert report.inner_multiplier == pytest.approx(inner, rel=1e-3)
    assert report.outer_multiplier == (None if outer is None else pytest.approx(outer, rel=1e-3))
    assert report.shape == (VOCABULARY, DIM)


class Scaled(nnx.Module):
    """Gemma in NNX: an embedder that cannot be called, and multiplies."""

    def __init__(self, rngs):
        self.input_embedding = nnx.Param(rngs.params.normal((VOCABULARY, DIM)))

    def encode(self, ids):
        return self.input_embedding[ids] * math.sqrt(DIM)


class Gemma(nnx.Module):
    def __init__(self, rngs, factor=1.0):
        self.embedder = Scaled(rngs)
        self.norm = nnx.RMSNorm(DIM, rngs=rngs)
        self.factor = factor

    def __call__(self, ids):
        return self.norm(self.factor * self.embedder.encode(ids))


def test_nnx():
    model = NnxModel(nnx.Rngs(0))
    before = nnx.state(model)
    [report] = in_nnx.inspect(model, NOISE, IDS, IDS, tokens=mask_of).embeddings
    check(report)
    table = model.embed.embedding[...]
    assert report.table_rms == pytest.approx(float(jnp.sqrt(jnp.square(table).mean())))
    assert report.name == "embed"
    assert jax.tree.structure(nnx.state(model)) == jax.tree.structure(before)
    assert type(model) is NnxModel
    assert type(model.embed) is nnx.Embed
    assert in_nnx.inspect(model, NOISE).embeddings[0].measured is None


def test_nnx_with_multipliers():
    model, options = Gemma(nnx.Rngs(0), 12.0), {"tokens": mask_of, "layer": "embedder"}
    batches = {"ids": IDS}, {"ids": IDS}
    [report] = in_nnx.inspect(model, NOISE, *batches, **options).embeddings
    check(report, inner=4, outer=12)


class LinenGemma(nn.Module):
    factor: float = 1.0

    @nn.compact
    def __call__(self, ids):
        x = nn.Embed(VOCABULARY, DIM, name="embed")(ids)
        return nn.Dense(4)(nn.RMSNorm()(x * self.factor))


@pytest.mark.parametrize("layer", [None, "embed", "em*"])
def test_linen(layer):
    model = LinenGemma(4.0)
    variables = model.init(jax.random.key(0), IDS)
    options = {"variables": variables, "tokens": mask_of, "layer": layer}
    found = linen.inspect(model, NOISE, IDS, IDS, **options)
    check(found.embeddings[0], outer=4)
    table = variables["params"]["embed"]["embedding"]
    right = float(jnp.sqrt(jnp.square(table).mean()))
    assert found.embeddings[0].table_rms == pytest.approx(right)
    with pytest.raises(ValueError, match="batches must have at least one"):
        linen.inspect(model, NOISE, variables=variables)
    with pytest.raises(TypeError, match=r"batches\[1\] must be what the model .* got 5"):
        linen.inspect(model, NOISE, IDS, 5, variables=variables)


def test_equinox():
    model = EquinoxModel(jax.random.key(0))
    [report] = equinox.inspect(model, NOISE, IDS, IDS, tokens=mask_of).embeddings
    check(report, outer=None)
    assert equinox.inspect(model, NOISE).embeddings[0].measured is None
    linear = eqx.nn.Sequential([eqx.nn.Linear(4, 4, key=jax.random.key(0))])
    with pytest.raises(
        ValueError, match=r"must be an eqx.nn.Embedding, and 'layers.0' is a Linear"
    ):
        equinox.inspect(linear, NOISE, layer="layers.0")


def test_what_is_refused():
    model = NnxModel(nnx.Rngs(0))
    with pytest.raises(ValueError, match="alpha must be above 0 at step 0"):
        in_nnx.inspect(model, neftune(0.0), IDS)
    with pytest.raises(ValueError, match=r"must have one embedding table .* 'norm' has 0 arrays"):
        in_nnx.inspect(Gemma(nnx.Rngs(0)), NOISE, layer="norm")
    for inspect in (in_nnx.inspect, equinox.inspect):
        with pytest.raises(TypeError, match=r"batches\[1\] must be what the model .* got 5"):
            inspect(model, NOISE, IDS, 5)
    with pytest.raises(ValueError, match="must look its tokens up outside of compiled code"):
        nnx.jit(lambda model: in_nnx.inspect(model, NOISE, IDS).reference_rms)(model)


def test_the_table_of_a_checkpoint(tmp_path, capsys):
    ocp = pytest.importorskip("orbax.checkpoint")
    model = NnxModel(nnx.Rngs(0))
    with ocp.StandardCheckpointer() as checkpointer:
        checkpointer.save(tmp_path / "saved", nnx.state(model))
    assert main(["inspect", str(tmp_path / "saved"), "--driver", "jax", "--json"]) == 0
    [report] = json.loads(capsys.readouterr().out)["embeddings"]
    right = float(jnp.sqrt(jnp.square(model.embed.embedding[...]).mean()))
    assert report["table_rms"] == pytest.approx(right)
    assert report["name"].startswith("embed.embedding")
    assert main(["inspect", str(tmp_path / "saved"), "--driver", "jax", "--layer", "x"]) == 2
    assert "--layer must name one array, got 'x'" in capsys.readouterr().err
    (tmp_path / "saved" / "_METADATA").write_text("{")
    assert main(["inspect", str(tmp_path / "saved"), "--driver", "jax"]) == 2
    assert "cannot be loaded: " in capsys.readouterr().err
