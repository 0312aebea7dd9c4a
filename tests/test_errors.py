"""Wrong input: the error names the argument, the value seen and what is accepted."""

import re

import numpy as np
import pytest

import embnoise
from embnoise import (
    Distribution,
    Noise,
    ScaleRule,
    Schedule,
    constant,
    exponential,
    linear,
    neftune,
    polynomial,
    register,
    sigmoid,
    symnoise,
)
from embnoise.backend import TokenFunctions
from tests.backends import BACKENDS, KERAS
from tests.frameworks import is_tested, needs

if is_tested("jax"):
    import jax
    import jax.numpy as jnp

    import embnoise_jax
if is_tested("torch"):
    import torch
    from torch import nn

    import embnoise_torch
    from embnoise_torch import EmbeddingNoise, attach

OURS = [each for each in BACKENDS if each.name in {"numpy", "torch-numba", "jax", f"keras-{KERAS}"}]
X = np.zeros((2, 3, 4), np.float32)
NAN, INF = float("nan"), float("inf")
ALPHA = "a number, a schedule or a function of the step"

CONFIGURATION = [
    (lambda: Noise(-1.0), ValueError, "alpha must be finite in float32 and at least 0, got -1.0"),
    (lambda: Noise(NAN), ValueError, "alpha must be finite in float32 and at least 0, got nan"),
    (lambda: Noise(INF), ValueError, "alpha must be finite in float32 and at least 0, got inf"),
    (lambda: Noise(1e39), ValueError, "alpha must be finite in float32 and at least 0, got 1e+39"),
    (lambda: Noise(10**400), ValueError, "alpha must be finite in float32 and at least 0, got 10"),
    (lambda: Noise("5"), TypeError, f"alpha must be {ALPHA}, got '5'"),
    (lambda: Noise(None), TypeError, f"alpha must be {ALPHA}, got None"),
    (lambda: Noise(True), TypeError, f"alpha must be {ALPHA}, got True"),
    (lambda: Noise(1 + 2j), TypeError, f"alpha must be {ALPHA}, got (1+2j)"),
    (lambda: Noise(lambda: 5), TypeError, "alpha must be a function of the step, got <function"),
    (lambda: Noise(linear), TypeError, "alpha must be a function of the step, got <function lin"),
    (lambda: Noise(5).alpha_at(-1), ValueError, "step must be at least 0, got -1"),
    (lambda: Noise(5).alpha_at("a"), TypeError, "step must be an integer, got 'a'"),
    (lambda: Noise(lambda step: 5).alpha_at(1.5), TypeError, "step must be an integer, got 1.5"),
    (
        lambda: Noise(1, distribution="normal"),
        ValueError,
        "distribution must be one of ['uniform', 'rademacher', 'gaussian'",
    ),
    (
        lambda: Noise(1, distribution="Normal"),
        ValueError,
        "got 'Normal' (did you mean 'gaussian'?)",
    ),
    (
        lambda: Noise(1, distribution=3),
        TypeError,
        "], a Distribution or a quantile function, got 3",
    ),
    (lambda: Noise(1, scale=3), TypeError, "], a ScaleRule or a function (alpha, L, d), got 3"),
    (lambda: ScaleRule("a", max, formula=5), TypeError, "formula must be a string, got 5"),
    (lambda: Noise(1, scale="neft"), ValueError, "scale must be one of ['neftune', 'per_token'"),
    (
        lambda: Noise(1, length="rows"),
        ValueError,
        "length must be 'tokens', 'padded' or an integer, got 'rows'",
    ),
    (lambda: Noise(1, length=0), ValueError, "length must be at least 1, got 0"),
    (lambda: Noise(1, length=1.5), TypeError, "length must be an integer, got 1.5"),
    (
        lambda: Noise(1, match="std"),
        ValueError,
        "match must be one of ['support', 'rms'], got 'std'",
    ),
    (lambda: Noise(1, antithetic=1), TypeError, "antithetic must be True or False, got 1"),
    (lambda: Noise(1, seed=1.0), TypeError, "seed must be an integer, got 1.0"),
    (lambda: Noise(1, seed=True), TypeError, "seed must be an integer, got True"),
    (lambda: Noise(1, stream=b"a"), TypeError, "stream must be a string, got b'a'"),
    (lambda: neftune(5, color=1), TypeError, "unexpected keyword argument 'color'"),
    (lambda: symnoise(distribution="uniform"), TypeError, "keyword argument 'distribution'"),
    (lambda: symnoise(antithetic=False), TypeError, "keyword argument 'antithetic'"),
    (lambda: neftune().bind(seed=1.5), TypeError, "seed must be an integer, got 1.5"),
    (
        lambda: Noise(1, scale=lambda alpha: alpha),
        TypeError,
        "scale must be a function (alpha, L, d) -> magnitude",
    ),
    (
        lambda: Noise(1, scale=lambda alpha, length, dim: -alpha),
        ValueError,
        "(alpha=1, L=8, d=64) must be finite in float32 and at least 0, got -1.0",
    ),
    (lambda: Distribution("", float), TypeError, "name must be a non-empty string, got ''"),
    (lambda: Distribution("mine", 3), TypeError, "quantile must be a callable, got 3"),
    (lambda: Distribution("mine", float, bound=0), ValueError, "bound must be a number above 0"),
    (
        lambda: Distribution("mine", lambda p: 4 * p - 2, bound=1.0).table,
        ValueError,
        "bound of distribution 'mine' must be at least its largest unit value, 1.99",
    ),
    (
        lambda: Noise(1, scale=lambda alpha, length, dim: alpha).to_dict(),
        TypeError,
        "scale must be registered to be saved, got <function",
    ),
    (
        lambda: Noise(1, distribution=lambda p: 2 * p - 1).to_dict(),
        TypeError,
        "distribution must be registered to be saved, got <function",
    ),
    (lambda: register(5), TypeError, "rule must be a Distribution, a ScaleRule or a subclass of"),
    (
        lambda: register(Distribution("uniform", lambda p: p - 0.5)),
        ValueError,
        "name must be one that no other distribution has, got 'uniform', which embnoise._distr",
    ),
    (
        lambda: register(type("Mine", (Schedule,), {"name": "mine"})),
        TypeError,
        "rule must be a dataclass with a name, got Mine: decorate it with @dataclass(frozen=True)",
    ),
    (lambda: Noise.from_dict([1]), TypeError, "data must be a mapping, got [1]"),
    (
        lambda: Noise.from_dict({"alpha": 5.0}),
        ValueError,
        "Noise.to_dict() writes, must be 1, got None. To make a noise, use neftune() or Noise()",
    ),
    (
        lambda: Noise.from_dict({"embnoise": True, "alpha": 5}),
        ValueError,
        "embnoise, the format version that Noise.to_dict() writes, must be 1, got True",
    ),
    (lambda: chain(5), TypeError, "parts must be a list of schedules, got 5"),
    (lambda: chain([]), ValueError, "parts must be at least one schedule, got none"),
    (
        lambda: chain([5]),
        TypeError,
        "parts[0] must be a mapping with the key 'schedule', got 5",
    ),
    (lambda: linear(1, -2, 10), ValueError, "end must be finite in float32 and at least 0, got -2"),
    (lambda: linear(NAN, 2, 10), ValueError, "start must be finite in float32 and at least 0, got"),
    (lambda: linear(1, 2, 0), ValueError, "steps must be at least 1, got 0"),
    (lambda: linear(1, 2, 10.5), TypeError, "steps must be an integer, got 10.5"),
    (lambda: constant("a"), TypeError, "alpha must be a number, got 'a'"),
    (
        lambda: exponential(1, 0, 10),
        ValueError,
        "end must be finite in float32 and above 0, got 0",
    ),
    (
        lambda: exponential(-1, 1, 10),
        ValueError,
        "start must be finite in float32 and above 0, got -1",
    ),
    (
        lambda: polynomial(1, 2, 10, power=0),
        ValueError,
        "power must be finite in float32 and above 0, got 0",
    ),
    (
        lambda: polynomial(1, 2, 10, power=-1),
        ValueError,
        "power must be finite in float32 and above 0, got -1",
    ),
    (lambda: sigmoid(1, 2, 10, 1000), ValueError, "steepness must be from 0.01 to 100, got 1000"),
    (lambda: linear(1, 2, 3).then(5), TypeError, "following must be a schedule, got 5"),
    (lambda: linear(1, 2).then(linear(2, 1)), ValueError, "(steps=None), got 2: [Linear(start=1.0"),
    (lambda: linear(1, 2, 3)(-1), ValueError, "step must be at least 0, got -1"),
    (lambda: linear(1, 2, 3)(0.5), TypeError, "step must be an integer, got 0.5"),
    (lambda: linear(1, 2).bind(0), ValueError, "total_steps must be at least 1, got 0"),
    (
        lambda: linear(1, 2, 10).then(linear(2, 0)).bind(10),
        ValueError,
        "total_steps must be at least 11, so that",
    ),
    (
        lambda: embnoise.add_noise([[1.0]], neftune(), step=0),
        TypeError,
        "x must be a NumPy array, got [[1.",
    ),
    (
        lambda: embnoise.add_noise(X, neftune(), step=0, mask=[[1, 1], [1]]),
        TypeError,
        "mask must be an array, or lists of numbers of one length, got [[1, 1], [1]]",
    ),
    (
        lambda: embnoise.add_noise(X, neftune(), step=0, where="a"),
        TypeError,
        "where must be an array, or lists of numbers of one length, got 'a'",
    ),
    (
        lambda: TokenFunctions(None, lambda ids: None)({"ids": X}),
        TypeError,
        "where must return an array [B, L], got None",
    ),
]

CALLS = [
    ({"x": np.zeros((2, 3, 4), "i4")}, TypeError, "x must be of a floating-point dtype (float16, "),
    ({"x": np.zeros(4)}, ValueError, "x must be of shape [B, L, d] or [L, d], got shape (4,)"),
    ({"x": np.zeros((1, 2, 3, 4))}, ValueError, "got shape (1, 2, 3, 4); flatten ids [B, K, L] to"),
    (
        {"x": np.zeros((2, 3, 0))},
        ValueError,
        "x must have at least one channel (d >= 1), got shape",
    ),
    (
        {"noise": 5.0},
        TypeError,
        "noise must be a Noise, got 5.0; did you mean neftune(alpha=5.0)?",
    ),
    ({"step": -1}, ValueError, "step must be at least 0, got -1"),
    ({"step": 1.5}, TypeError, "step must be an integer, got 1.5"),
    ({"step": True}, TypeError, "step must be an integer, got True"),
    ({"training": 1}, TypeError, "training must be True or False, got 1"),
    ({"mask": np.ones((3, 2))}, ValueError, "mask must be of shape (2, 3), got shape (3, 2)"),
    ({"mask": np.ones(3)}, ValueError, "mask must be of shape (2, 3), got shape (3,)"),
    (
        {"mask": np.ones((2, 3), complex)},
        TypeError,
        "mask must be of a boolean or integer dtype (nonzero marks a token), got complex",
    ),
    (
        {"mask": np.zeros((2, 3), np.float32)},
        TypeError,
        "got float32. A float mask may be additive (0 and -inf): pass mask == 0 or mask != 0",
    ),
    (
        {"where": np.zeros((2, 3), np.float32)},
        TypeError,
        "got float32. A float mask may be additive (0 and -inf): pass where == 0 or where != 0",
    ),
    ({"segment_ids": np.ones((2, 4), int)}, ValueError, "segment_ids must be of shape (2, 3), got"),
    ({"segment_ids": np.ones((2, 3))}, TypeError, "segment_ids must be of an integer dtype, got f"),
    ({"positions": np.ones((3,), int)}, ValueError, "positions must be of shape (2, 3), got shape"),
    ({"positions": np.ones((2, 3))}, TypeError, "positions must be of an integer dtype, got float"),
    (
        {"sample_ids": np.ones(3, int)},
        ValueError,
        "sample_ids must be of shape (2, 3) or (2,), got",
    ),
    ({"sample_ids": np.ones(2)}, TypeError, "sample_ids must be of an integer dtype, got float64"),
    (
        {"where": np.ones((2, 3, 1))},
        ValueError,
        "where must be of shape (2, 3), got shape (2, 3, 1)",
    ),
    ({"noise": neftune(alpha=linear(1, 2))}, ValueError, "alpha is the unbound schedule Linear("),
]

# Known where values are, and asked for where there is noise.
OF_VALUES = [
    (
        {"mask": np.array([[0, 0, -10000], [0, -10000, -10000]], "i4")},
        ValueError,
        "got -10000; it may be additive (0 and a large negative number): pass mask == 0 or mask",
    ),
    (
        {"where": np.array([[0, 0, -1], [0, 0, 0]], "i4")},
        ValueError,
        "where must be at least 0 (nonzero marks a token), got -1; it may be additive",
    ),
    (
        {"segment_ids": np.array([[1, 1, -1], [1, 2, 0]], "i4")},
        ValueError,
        "segment_ids must be at least 0 (0 marks padding), got -1",
    ),
]

TORCH = [
    (lambda: attach(Net(), 5.0), TypeError, "noise must be a Noise, got 5.0"),
    (lambda: attach(print, neftune()), TypeError, "model must be a torch.nn.Module, got <built-in"),
    (
        lambda: attach(Net(), neftune(), layer=3),
        TypeError,
        "layer must be a module or its name, got",
    ),
    (
        lambda: attach(Net(), neftune(), layer="e"),
        ValueError,
        "got 'e'; names like it: none; embeddings: '0' (5, 4)",
    ),
    (
        lambda: attach(Net(), neftune(), where="some"),
        ValueError,
        "where must be 'all', 'prompt', 'completion' or a callable, got 's",
    ),
    (
        lambda: attach(Net(), neftune(), where=3),
        TypeError,
        "where must be 'all', 'prompt', 'completion' or a callable, g",
    ),
    (lambda: attach(Net(), neftune(), optimizer="adam"), TypeError, "or 'manual', got 'adam'"),
    (
        lambda: attach(Net(), neftune(), mesh=3),
        ValueError,
        "mesh must be a DeviceMesh that this ra",
    ),
    (
        lambda: attach(Net(), neftune(alpha=linear(5, 0, 10))),
        ValueError,
        "optimizer must be given for the schedule alpha=Linear(",
    ),
    (
        lambda: attach(Net(), neftune(alpha=linear(5, 0)), optimizer="manual"),
        ValueError,
        "alpha is the unbound schedule",
    ),
    (lambda: EmbeddingNoise("neftune"), TypeError, "noise must be a Noise, got 'neftune'"),
    (lambda: EmbeddingNoise(neftune(alpha=linear(5, 0))), ValueError, "unbound schedule"),
    (lambda: torch_noise(torch.zeros(2, 3, 4).to_sparse()), TypeError, "x must be a dense tensor"),
    (
        lambda: torch_noise(torch.nested.nested_tensor([torch.zeros(2, 4)], layout=torch.jagged)),
        TypeError,
        r"x must be a dense tensor, got a nested tensor; pad it",
    ),
    (
        lambda: torch_noise(torch.zeros(2, 3, 4, dtype=torch.float8_e4m3fn)),
        TypeError,
        "got float8_e4m3fn",
    ),
    (
        lambda: torch_noise(torch.zeros(2, 3, 4), step=torch.zeros(2)),
        ValueError,
        "step must be an i",
    ),
    (
        lambda: torch_noise(torch.zeros(2, 3, 4), mask=[1, 2]),
        TypeError,
        "mask must be an array, got",
    ),
    (lambda: torch_noise([[1.0]]), TypeError, "x must be a torch.Tensor, got [[1.0]]"),
]


def chain(parts):
    return Noise.from_dict({"embnoise": 1, "alpha": {"schedule": "chain", "parts": parts}})


def Net():  # noqa: N802, it stands for a model's class
    return nn.Sequential(nn.Embedding(5, 4), nn.Linear(4, 4))


def torch_noise(x, **arguments):
    return embnoise_torch.add_noise(x, neftune(), **{"step": 0, **arguments})


def raises(kind, message):
    return pytest.raises(kind, match=re.escape(message))


def ids(case):
    return case[-1][:40] if isinstance(case, tuple) else None


@pytest.mark.parametrize("case", CONFIGURATION, ids=ids)
def test_wrong_calls(case):
    call, kind, message = case
    with raises(kind, message):
        call()


@needs("torch")
@pytest.mark.parametrize("case", TORCH, ids=ids)
def test_wrong_calls_of_torch(case):
    test_wrong_calls(case)


@pytest.mark.parametrize("backend", OURS, ids=lambda backend: backend.name)
@pytest.mark.parametrize("case", CALLS + OF_VALUES, ids=ids)
def test_wrong_calls_of_add_noise_have_one_message_everywhere(case, backend):
    wrong, kind, message = case
    arguments = {"x": np.zeros((2, 3, 4), np.float32), "noise": neftune(), "step": 0, **wrong}
    before = arguments["x"].copy()
    x = backend.native(arguments.pop("x"))
    with raises(kind, message):
        backend.add_noise_native(x, **arguments)
    assert (backend.numpy(x) == before).all()


@pytest.mark.parametrize("backend", OURS, ids=lambda backend: backend.name)
def test_documents_that_may_share_their_noise_are_warned_of(backend):
    segments, positions = np.array([[1, 1, 2, 2]]), np.array([[0, 1, 0, 1]])
    x, noise = np.zeros((1, 4, 16), np.float32), neftune()
    given = {"step": 0, "segment_ids": segments, "positions": positions}
    with pytest.warns(RuntimeWarning, match="Leave positions out, or pass sample_ids"):
        alike = backend.add_noise(x, noise, **given)
    assert (alike[:, :2] == alike[:, 2:]).all()
    apart = backend.add_noise(x, noise, **given, sample_ids=np.array([[0, 0, 1, 1]]))
    assert (apart[:, :2] != apart[:, 2:]).any()
    assert (backend.add_noise(x, noise, **given, training=False) == x).all()


@pytest.mark.parametrize("backend", OURS, ids=lambda backend: backend.name)
def test_a_step_is_required(backend):
    """A default would repeat one draw in every call."""
    x = backend.native(np.zeros((2, 3, 4), np.float32))
    with raises(TypeError, "add_noise() missing 1 required keyword-only argument: 'step'"):
        backend.verb(x, neftune())


@needs("jax")
def test_a_traced_call_checks_what_it_can():
    wrong = [case for case in CALLS if {"x", "mask", "positions", "noise", "step"} & case[0].keys()]
    for arguments, kind, message in wrong:
        rest = {"x": np.zeros((2, 3, 4), np.float32), "noise": neftune(), "step": 0, **arguments}
        static = {name: value for name, value in rest.items() if not isinstance(value, np.ndarray)}
        arrays = {name: jnp.asarray(value) for name, value in rest.items() if name not in static}
        call = jax.jit(lambda arrays, static=static: embnoise_jax.add_noise(**arrays, **static))
        with raises(kind, message):
            call(arrays)


@pytest.mark.parametrize("case", [case for case in CALLS if "mask" in case[0]], ids=ids)
def test_a_wrong_mask_is_refused_in_evaluation_too(case):
    wrong, kind, message = case
    with raises(kind, message):
        embnoise.add_noise(np.zeros((2, 3, 4)), neftune(), step=0, training=False, **wrong)


@needs("torch")
def test_a_failed_attach_leaves_the_model_alone():
    model = Net()
    optimizer = torch.optim.SGD(model.parameters())
    for wrong in ({"where": "some"}, {"layer": "e"}, {"optimizer": "adam"}):
        with pytest.raises((ValueError, TypeError)):
            attach(model, neftune(), **{"optimizer": optimizer, **wrong})
    assert type(model[0]) is nn.Embedding
    assert not optimizer._optimizer_step_post_hooks
