"""``check_adapter`` and ``check_driver``: right ones hold, and broken ones are told how."""

import contextlib
import itertools
import json
import re
import sys
from importlib.metadata import entry_points

import numpy as np
import pytest

import embnoise
from embnoise._cli import main
from embnoise.testing import DriverBase, NotClaimedError, case, check_adapter, check_driver
from embnoise.testing.driver_probes import compiles_once
from embnoise.testing.drivers import Driver, completed, named
from embnoise.testing.find_driver import driver_of
from embnoise.testing.known_bad import FAULTS
from embnoise.testing.numpy_driver import NumpyDriver
from embnoise.testing.probe import Probe, run_probe
from tests.frameworks import params
from tests.testing.zoo import some


def failures(report):
    return {result.code: result.message for result in report.results if result.wrong}


def of_driver(driver, add_noise=embnoise.add_noise):
    return failures(check_driver(driver, add_noise, raises=False))


# Right ones.


@pytest.mark.sweep  # test_the_command runs it in the quick profile
def test_a_third_partys_adapter_holds():
    holds("lists")


@pytest.mark.sweep
@pytest.mark.parametrize("name", params("torch", "jax", "keras"))
def test_our_adapters_hold(name):
    holds(name)


def holds(name):
    report = check_adapter(name, raises=False)
    assert report.ok, report.table()
    assert {f"AD0{k}" for k in (1, 2, 3, 4)} <= {
        result.code for result in report.results if result.status == "passed"
    }
    found = {result.code for result in report.results}
    assert found >= {"EN01", "EN40", "DR01", "DR05", *(fault.code for fault in FAULTS)}


@pytest.mark.sweep
def test_hypothesis_draws_in_the_default_profile():
    assert check_adapter("lists", profile="default").ok


def test_the_command(capsys):
    assert main(["check-adapter", "lists"]) == 0
    output = capsys.readouterr().out
    assert output.startswith("adapter lists (profile quick, seed 0)\n")
    assert "lists holds: " in output
    assert main(["check-adapter", "list"]) == 2
    assert "adapter must be one of" in (error := capsys.readouterr().err)
    assert "got 'list' (did you mean 'lists'?)" in error


@pytest.mark.parametrize("name", params("torch"))
def test_the_command_prints_json(name, capsys):
    assert main(["check-adapter", name, "--json", "--seed", "3"]) == 0
    data = json.loads(capsys.readouterr().out)
    assert (data["adapter"], data["seed"], data["ok"]) == (name, 3, True)


def test_a_compiler_that_guards_is_not_asked_for_frozen_values():
    class Guarding(NumpyDriver):
        traces_once = False

        def compile(self, call):
            return call

    report = check_driver(Guarding(), embnoise.add_noise)
    (result,) = (each for each in report.results if each.code == "DR15")
    assert (result.status, result.message) == (
        "not_claimed", "traces_once=False: the compiler guards on Python state",
    )  # fmt: skip


# Broken drivers.


def test_a_compiler_that_traces_at_every_call_is_told():
    class Retracing(NumpyDriver):
        def compile(self, call):
            return call

    found = of_driver(Retracing())
    assert set(found) == {"DR15", "DR16"}
    assert "the layer ran 2 times, and after three more 5 times" in found["DR16"]
    assert "passes EN22 compiled_equals_eager" in found["DR15"]
    assert "`compile` traces at every call" in found["DR15"]


def test_a_compiler_that_traces_for_every_step_is_told():
    class Tracing(NumpyDriver):
        """Replays the noise of the first call in each mode, and at each step that is given."""

        def compile(self, call):
            traced = {}

            def run(layer, inputs, **keywords):
                key = (keywords["training"], keywords.get("step"))
                if "step" not in named(layer, keywords):
                    key = (keywords["training"], None)
                key += (keywords.get("mask", np.ones(())).tobytes(),)
                if key not in traced:
                    traced[key] = call(layer, np.zeros_like(inputs), **keywords)
                return inputs + traced[key]

            return run

    found = of_driver(Tracing())
    assert set(found) == {"DR16"}
    assert "make the step an argument of what is compiled" in found["DR16"]


@pytest.mark.parametrize("name", params("torch", "jax", "keras"))
def test_our_compilers_trace_once_or_guard(name):
    driver = driver_of(name)
    probe = Probe(driver, lambda: None, "quick", 0)
    result = run_probe(probe, "DR16", "compiles_once", compiles_once)
    assert result.status == ("passed" if driver.traces_once else "not_claimed"), result.message


class Views(NumpyDriver):
    def to_numpy(self, array):
        return array


class Shares(NumpyDriver):
    def from_numpy(self, array, dtype=None):
        return np.asarray(array, dtype)


class OneDtype(NumpyDriver):
    def from_numpy(self, array, dtype=None):
        return np.array(array, dtype and "float32")


class GradientsOfNothing(NumpyDriver):
    def gradient(self, call, layer, inputs, weights, *, of):
        return [np.array(weights)]


class SeedsByTheClock(NumpyDriver):
    states = itertools.count()

    def random_state(self):
        return str(next(self.states)).encode()


class KeepsNothing(NumpyDriver):
    current = 0

    def seed(self, seed):
        self.current = seed

    def random_state(self):
        return str(self.current).encode()

    def kept_state(self):
        return contextlib.nullcontext()


class StepLost(NumpyDriver):
    def call(self, layer, inputs, **keywords):
        return super().call(layer, inputs, **{**keywords, "step": 0})


class SilentInEvaluation(NumpyDriver):
    def call(self, layer, inputs, **keywords):
        return super().call(layer, inputs, **keywords) if keywords["training"] else inputs.copy()


class SeedLost(NumpyDriver):
    seeds = itertools.count()

    def make(self, make_layer, *, dtype, dim, alpha, seed):
        return make_layer(dim=dim, alpha=alpha, seed=next(self.seeds))


class NoBfloat(NumpyDriver):
    dtypes = ("float32", "float8")


BROKEN_DRIVERS = [  # every second one is always tested: one for each probe
    (Views(), "DR01", "to_numpy returns a view"),
    (Shares(), "DR01", "from_numpy shares memory"),
    (OneDtype(), "DR02", "'float16'. returns float32"),
    (NoBfloat(), "DR02", "float8"),
    (GradientsOfNothing(), "DR03", r"for y = x \+ x is not 2 \* weights"),
    (KeepsNothing(), "DR04", "kept_state does not restore"),
    (SeedsByTheClock(), "DR04", "differs after seed.1. and seed.1. again"),
    (StepLost(), "EN06", "the same noise"),
    (StepLost(), "DR05", "gives a layer that names training and step"),
    (SeedLost(), "EN05", "draw different noise"),
    (SilentInEvaluation(), "DR06", "passes EN02 eval_is_identity"),
]


@pytest.mark.parametrize(
    "broken", some(BROKEN_DRIVERS, 2), ids=lambda broken: f"{type(broken[0]).__name__}-{broken[1]}"
)
def test_a_broken_driver_is_told(broken):
    driver, code, says = broken
    with pytest.raises(ExceptionGroup) as caught:
        check_driver(driver, embnoise.add_noise)
    messages = [str(error) for error in caught.value.exceptions]
    assert any(message.startswith(code) and re.search(says, message) for message in messages), (
        messages
    )


def test_nothing_more_is_said_of_an_adapter_that_cannot_be_called():
    def broken(x, noise, **arguments):
        raise RuntimeError("no kernel")

    found = of_driver("numpy", broken)
    assert set(found) == {"EN01"}
    assert "no kernel" in found["EN01"]


# Broken adapters.


def changed(change):
    def add_noise(x, noise, **arguments):
        return change(x, noise, arguments)

    return add_noise


def unchecked(x, noise, arguments):
    try:
        return embnoise.add_noise(x, noise, **arguments)
    except (TypeError, ValueError):
        return x


def other_errors(x, noise, arguments):
    try:
        return embnoise.add_noise(x, noise, **arguments)
    except ValueError as error:
        raise RuntimeError("wrong") from error


def in_place(x, noise, arguments):
    noisy = embnoise.add_noise(x, noise, **arguments)
    x[...] = noisy
    return noisy


def doubly_rounded(x, noise, arguments):
    noisy = embnoise.add_noise(np.zeros(x.shape, np.float32), noise, **arguments)
    return (x + noisy.astype(x.dtype)).astype(x.dtype)


BROKEN = {  # every second one is always tested
    "another_key": (
        lambda x, noise, arguments: embnoise.add_noise(
            x, embnoise.Noise(**{**vars_of(noise), "seed": (noise.seed or 0) + 1}), **arguments
        ),
        {"AD01": "the lattice integers are", "AD04": "differ from those of embnoise.add_noise"},
    ),
    "doubly_rounded": (doubly_rounded, {"AD04": "the sum is rounded twice"}),
    "a_coarser_table": (
        lambda x, noise, arguments: embnoise.add_noise(x, noise, **arguments)
        * (1 + 2.0**-20 * (noise.distribution == "gaussian")),
        {"AD02": "gaussian unit values differ from the table"},
    ),
    "other_errors": (other_errors, {"AD03": "raises RuntimeError: wrong; expected ValueError"}),
    "no_validation": (unchecked, {"AD03": "is accepted; expected"}),
    "promoted": (
        lambda x, noise, arguments: embnoise.add_noise(
            x.astype(np.float64), noise, **arguments
        ),
        {"AD04": "the output is float64", "EN04": "promoted"},
    ),
    "in_place": (in_place, {"AD04": "the input is changed", "EN16": "in place"}),
    "where_ignored": (
        lambda x, noise, arguments: embnoise.add_noise(
            x, noise, **{**arguments, "where": None}
        ),
        {"AD04": "tokens without noise change"},
    ),
}  # fmt: skip


def vars_of(noise):
    return {name: getattr(noise, name) for name in type(noise).__dataclass_fields__}


@pytest.fixture
def install(tmp_path, monkeypatch):
    """Installs an adapter, as pip would; it adds noise as the function says."""

    def installed(function):
        info, package = tmp_path / "broken-1.0.dist-info", tmp_path / "embnoise_broken"
        for folder in (info, package):
            folder.mkdir()
        (info / "METADATA").write_text("Metadata-Version: 2.1\nName: broken\nVersion: 1.0\n")
        (info / "entry_points.txt").write_text("[embnoise.backends]\nbroken = embnoise_broken\n")
        (package / "__init__.py").write_text("")
        (package / "testing.py").write_text(
            "from embnoise.testing.numpy_driver import NumpyDriver\n"
            "class Broken(NumpyDriver):\n    name = 'broken'\n"
            "driver = Broken()\n"
        )
        monkeypatch.syspath_prepend(tmp_path)
        (entry,) = entry_points(group="embnoise.backends", name="broken")
        module = entry.load()
        if function is not None:
            module.add_noise = changed(function)

    yield installed
    for name in [name for name in sys.modules if name.startswith("embnoise_broken")]:
        del sys.modules[name]


@pytest.mark.parametrize("fault", some(list(BROKEN), 2))
def test_a_broken_adapter_is_told(fault, install):
    function, expected = BROKEN[fault]
    install(function)
    found = failures(check_adapter("broken", raises=False))
    for code, says in expected.items():
        assert says in found[code], found


def test_the_command_tells_it(install, capsys):
    install(BROKEN["where_ignored"][0])
    assert main(["check-adapter", "broken"]) == 1
    assert "broken does not hold" in capsys.readouterr().out


def test_an_adapter_without_the_function(install):
    install(None)
    with pytest.raises(TypeError, match="adapter 'broken': its package has no add_noise"):
        check_adapter("broken")


# Misuse.


@pytest.mark.parametrize(
    ("call", "error", "says"),
    [
        (lambda: check_adapter("numpy"), ValueError, "adapter must be one of"),
        (lambda: check_adapter(3), TypeError, "adapter must be one of"),
        (lambda: check_adapter("lists", profile="fast"), ValueError, "profile must be one of"),
        (lambda: check_adapter("lists", seed="x"), TypeError, "seed must be an integer"),
        (lambda: check_driver(3, embnoise.add_noise), TypeError, "driver must be a name or a"),
        (lambda: check_driver(NumpyDriver, embnoise.add_noise), TypeError, "driver must be a name"),
        (lambda: check_driver("numpy", 3), TypeError, "add_noise must be a callable, got 3"),
    ],
)
def test_misuse(call, error, says):
    with pytest.raises(error, match=says):
        call()


# Drivers that follow the protocol alone.


class Duck:
    """No subclass of anything."""

    name = "duck"

    def __init__(self):
        self.seeded = None

    def make(self, make_layer, *, dtype, dim, alpha, seed):
        return make_layer(dim=dim, alpha=alpha, seed=seed)

    def call(self, layer, inputs, **keywords):
        return layer(inputs, training=keywords["training"])

    def to_numpy(self, array):
        return np.array(array)

    def from_numpy(self, array, dtype=None):
        return np.array(array, dtype)

    def gradient(self, call, layer, inputs, weights, *, of):
        return None

    def seed(self, seed):
        self.seeded = seed


def test_a_driver_of_the_protocol_gets_the_defaults():
    duck = Duck()
    driver = completed(duck)
    assert isinstance(duck, Driver)
    assert isinstance(driver, DriverBase)
    assert isinstance(driver, Duck)
    assert completed(driver) is driver
    assert (driver.dtypes, driver.examples, driver.fused, driver.key) == (
        ("float32",), 25, False, None,
    )  # fmt: skip
    driver.seed(3)
    assert duck.seeded == 3
    duck.seeded = 4
    assert driver.seeded == 4
    for method in ("random_state", "state", "compile", "without_gradients", "rank"):
        arguments = {"state": [None], "compile": [None], "rank": [0, 2]}.get(method, [])
        with pytest.raises(NotClaimedError, match=f"the driver 'duck' has no {method}"):
            getattr(driver, method)(*arguments)
    made = case("mine", lambda *, dim, alpha, seed: None, driver=duck)
    assert made.driver.seeded == 4
    assert not made.driver.overrides("switch")


def test_a_driver_lacks_a_method():
    class Incomplete(DriverBase):
        name = "incomplete"

    with pytest.raises(TypeError, match="abstract"):
        Incomplete()
