"""Rules of the user's own, each in one file that imports public names only, and all that they get.

The files are ``examples/extensions/*.py``; a third party's adapter is ``tests/third_party``.
"""

import ast
import copy
import importlib.util
import pickle
import sys
from pathlib import Path

import numpy as np
import pytest

import embnoise
from embnoise import Noise, neftune
from embnoise._cli import main
from embnoise.testing import Claims, case, check_layer
from tests.backends import BACKENDS, over_backends
from tests.strategies import embeddings

ROOT = Path(__file__).parent.parent
EXTENSIONS = ROOT / "examples" / "extensions"


def extension(name):
    """The module of an extension, imported once: it registers what it defines."""
    if name not in sys.modules:
        spec = importlib.util.spec_from_file_location(name, EXTENSIONS / f"{name}.py")
        module = importlib.util.module_from_spec(spec)
        sys.modules[name] = module
        spec.loader.exec_module(module)
    return sys.modules[name]


def imports_of(path):
    """The modules that a file imports, with the names that it takes from each."""
    found = []
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.Import):
            found += [(alias.name, "") for alias in node.names]
        elif isinstance(node, ast.ImportFrom):
            found += [(node.module, alias.name) for alias in node.names]
    return found


def is_private(module, name):
    return any(part.startswith("_") for part in (*module.split("."), name))


OUTSIDERS = [
    *EXTENSIONS.glob("*.py"),
    *(ROOT / "tests" / "third_party").glob("*/*.py"),
]
ADAPTERS = list((ROOT / "backends").glob("embnoise_*/**/*.py"))


@pytest.mark.parametrize("path", OUTSIDERS, ids=lambda path: f"{path.parent.name}/{path.name}")
def test_outsiders_import_public_names_only(path):
    ours = [each for each in imports_of(path) if each[0].split(".")[0] == "embnoise"]
    assert not [each for each in ours if is_private(*each)]


@pytest.mark.parametrize("path", ADAPTERS, ids=lambda path: f"{path.parent.name}/{path.name}")
def test_adapters_import_one_module_of_the_core(path):
    """``embnoise.backend``; and ``embnoise.testing`` for what they give to the kit."""
    allowed = ("embnoise.backend",)
    if path.name in ("testing.py", "saved_model.py"):
        allowed += ("embnoise.testing",)
    for module, name in imports_of(path):
        if module.split(".")[0] == "embnoise" and (module, name) != ("embnoise", "backend"):
            assert module.startswith(allowed)
            assert not is_private(module, name)


def test_a_distribution():
    laplace = extension("laplace")
    noise = neftune(distribution="laplace")
    assert noise == Noise.from_dict(noise.to_dict())
    by_function = neftune(distribution=laplace.quantile)
    x = embeddings((2, 3, 8))
    for other in (neftune(distribution=laplace.LAPLACE), by_function):
        assert (embnoise.add_noise(x, noise, step=1) == embnoise.add_noise(x, other, step=1)).all()
    assert laplace.LAPLACE.rms == pytest.approx(2**0.5, rel=1e-3)
    assert laplace.LAPLACE.median == pytest.approx(np.log(2), rel=1e-3)
    claims = Claims(distribution="laplace")
    mine = case("laplace", laplace.make_layer, driver="numpy", claims=claims)
    assert check_layer(mine, profile="quick").ok
    half = case(
        "half",
        lambda *, dim, alpha, seed: laplace.make_layer(dim=dim, alpha=alpha / 2, seed=seed),
        driver="numpy",
        claims=claims,
    )
    assert not check_layer(half, profile="quick", raises=False).ok


def test_a_scale_rule():
    per_length = extension("per_length")
    noise = Noise(5.0, scale="per_length", distribution="rademacher")
    assert noise == Noise.from_dict(noise.to_dict())
    seen = embnoise.add_noise(
        np.zeros((2, 4, 8), np.float32), noise, step=0, mask=np.array([[1, 1, 1, 1], [1, 1, 0, 0]])
    )
    assert abs(seen[0]).max() == np.float32(5 / 4)
    assert abs(seen[1]).max() == np.float32(5 / 2)
    for claimed in ("per_length", per_length.PER_LENGTH, per_length.per_length):
        claims = Claims(scale=claimed)
        mine = case("per_length", per_length.make_layer, driver="numpy", claims=claims)
        assert check_layer(mine, profile="quick").ok
    wrong = case("per_length", per_length.make_layer, driver="numpy")
    assert not check_layer(wrong, profile="quick", raises=False).ok


@pytest.mark.parametrize("name", ["laplace", "per_length"])
def test_the_command_line_knows_a_registered_rule(name, monkeypatch, capsys):
    extension(name)
    monkeypatch.syspath_prepend(EXTENSIONS)
    option = "--distribution" if name == "laplace" else "--scale"
    target = f"{name}:make_layer"
    arguments = ["check", target, "--driver", "numpy", "--profile", "quick", option, name]
    assert main(arguments) == 0, capsys.readouterr().out


@over_backends
def test_rules_of_the_users_own_in_every_backend(backend):
    extension("laplace"), extension("per_length")
    x = embeddings((2, 4, 8))
    noise = Noise(3.0, distribution="laplace", scale="per_length", seed=5)
    reference = embnoise.add_noise(x, noise, step=2)
    noisy = backend.add_noise(x, noise, step=2)
    ulp = np.spacing(np.maximum(abs(reference), abs(reference - x)))
    assert (abs(noisy - reference) <= ulp).all()


def test_a_schedule():
    sawtooth = extension("sawtooth").Sawtooth(4.0, 8)
    noise = neftune(alpha=sawtooth)
    assert [noise.alpha_at(step) for step in (0, 2, 7, 8, 10)] == [0.0, 1.0, 3.5, 0.0, 1.0]
    assert noise == Noise.from_dict(noise.to_dict())
    assert noise.bind(100) == noise
    assert through_pickle(sawtooth) == sawtooth
    with_schedule = case(
        "sawtooth",
        lambda *, dim, alpha, seed: (
            lambda x, *, training, mask, step: embnoise.add_noise(
                x,
                neftune(alpha=extension("sawtooth").Sawtooth(alpha, 8), seed=seed),
                training=training,
                mask=mask,
                step=step,
            )
        ),
        driver="numpy",
        claims=Claims(schedule=extension("sawtooth").Sawtooth(1.0, 8)),
    )
    assert check_layer(with_schedule, profile="quick").ok


@pytest.mark.parametrize("backend", [each for each in BACKENDS if each.name == "jax"])
def test_a_schedule_on_a_traced_step(backend):
    import jax  # noqa: PLC0415
    import jax.numpy as jnp  # noqa: PLC0415

    sawtooth = extension("sawtooth").Sawtooth(4.0, 8)
    traced = jax.jit(lambda step: sawtooth(step, jnp))(jnp.int32(10))
    assert float(traced) == sawtooth(10)


def test_a_definition_that_runs_again_replaces_itself():
    """As a cell of a notebook does."""

    def define():
        def quantile(probability):
            return 2 * probability - 1

        return embnoise.register(embnoise.Distribution("rerun", quantile))

    first, second = define(), define()
    assert first != second
    assert neftune(distribution="rerun")._distribution is second
    with pytest.raises(ValueError, match="name must be one that no other distribution has"):
        embnoise.register(embnoise.Distribution("rerun", extension("laplace").quantile))


@pytest.mark.parametrize("backend", BACKENDS, ids=lambda backend: backend.name)
def test_noise_of_a_rule_that_was_registered_again(backend):
    def define(power):
        def quantile(probability):
            return (2 * probability - 1) ** power

        def scaled(alpha, length, dim):
            return power * alpha

        embnoise.register(embnoise.Distribution("cell", quantile))
        embnoise.register(embnoise.ScaleRule("cell", scaled))
        return neftune(distribution="cell", scale="cell")

    x = np.zeros((2, 4, 8), np.float32)
    noises = []
    for power in (1, 3):
        noise = define(power)
        assert noise not in noises
        noises.append(noise)
        expected = embnoise.add_noise(x, noise, step=0)
        with backend.using():
            found = backend.numpy(backend.verb(backend.native(x), noise, step=0))
        assert np.allclose(found, expected, rtol=1e-6)


def through_pickle(rule):
    return pickle.loads(pickle.dumps(rule))  # noqa: S301, our own


@pytest.mark.parametrize("way", [copy.deepcopy, through_pickle])
def test_registered_rules_are_copied_and_pickled_by_name(way):
    extension("laplace"), extension("per_length")
    noise = Noise(5.0, distribution="laplace", scale="per_length")
    _ = noise._distribution, noise._scale  # resolved, and cached on the noise
    assert way(noise) == noise
    assert way(extension("laplace").LAPLACE) is extension("laplace").LAPLACE
    assert way(extension("per_length").PER_LENGTH) is extension("per_length").PER_LENGTH
