"""Wrapped layers: the kit sees what the layer inside accepts, and no keyword is withheld."""

import functools
import inspect
import re

import pytest

import embnoise
from embnoise import neftune
from embnoise.testing import Claims, case, check_layer, iter_checks
from embnoise.testing.signatures import is_opaque, named, parameters_of
from tests.frameworks import needs
from tests.testing.zoo import some


def plain(*, dim, alpha, seed):
    noise = neftune(alpha, seed=seed)

    def layer(x, *, training, mask=None, step):
        return embnoise.add_noise(x, noise, training=training, mask=mask, step=step)

    return layer


def anything(layer):
    def wrapper(x, **keywords):
        return layer(x, **keywords)

    return wrapper


def holds(make, driver="numpy", **options):
    report = check_layer(
        case("mine", make, driver=driver, **options), profile="quick", raises=False
    )
    assert report.ok, report.table()
    return {each.code: each for each in report.results}


def test_a_partial_layer_holds():
    def make(**options):
        return functools.partial(plain(**options), mask=None)

    holds(lambda *, dim, alpha, seed: make(dim=dim, alpha=alpha, seed=seed))


def test_a_decorated_layer_holds():
    def make(*, dim, alpha, seed):
        layer = plain(dim=dim, alpha=alpha, seed=seed)

        @functools.wraps(layer)
        def logged(*arguments, **keywords):
            return layer(*arguments, **keywords)

        return logged

    holds(make)


def test_a_layer_that_takes_any_keyword_is_given_mask_and_step():
    def make(*, dim, alpha, seed):
        layer = plain(dim=dim, alpha=alpha, seed=seed)
        return anything(layer)

    results = holds(make)
    assert results["EN09"].status == results["EN19"].status == "passed"
    assert results["EN20"].message == "the layer takes no segment_ids"


def test_a_keyword_that_the_layer_inside_refuses_is_left_out():
    def make(*, dim, alpha, seed):
        noise, steps = neftune(alpha, seed=seed), iter(range(10**6))

        def layer(x, *, training, mask=None):
            step = next(steps) if training else 0
            return embnoise.add_noise(x, noise, training=training, mask=mask, step=step)

        return anything(layer)

    holds(make)
    made = case("mine", make, driver="numpy")
    alone, *_ = (each for each in iter_checks(made, profile="quick") if each.spec.code == "EN06")
    assert alone.run().status == "passed"


def test_padding_noise_of_a_layer_that_takes_any_keyword_is_caught():
    def make(*, dim, alpha, seed):
        layer = plain(dim=dim, alpha=alpha, seed=seed)
        return lambda x, **keywords: layer(x, **{**keywords, "mask": None})

    report = check_layer(case("mine", make, driver="numpy"), profile="quick", raises=False)
    assert {each.code for each in report.results if each.wrong} == {"EN09", "EN19"}


def test_what_a_call_that_takes_any_keyword_gets():
    def call(layer, x, **keywords):
        return layer(x, **keywords)

    holds(plain, call=call)


class Signatures:
    def method(self, x, *, training=False): ...

    def takes_all(*arguments, **keywords): ...

    @classmethod
    def of_the_class(cls, x): ...

    @staticmethod
    def of_none(x): ...

    @functools.wraps(method)
    def decorated(self, *arguments, **keywords): ...

    def __call__(self, x, mask): ...


@pytest.mark.parametrize(
    "function",
    [
        Signatures.method,
        Signatures().method,
        Signatures().takes_all,
        Signatures().of_the_class,
        Signatures.of_none,
        Signatures().decorated,
        Signatures(),
        functools.partial(Signatures().method, 1),
        len,
    ],
    ids=range(9),
)
def test_parameters_are_those_of_the_signature(function):
    for _ in range(2):  # what is known of a function is kept
        assert list(parameters_of(function)) == list(inspect.signature(function).parameters)
    assert parameters_of(dict) == {}  # it has no signature


def test_named_keywords():
    assert is_opaque(lambda x, **keywords: x)
    assert not is_opaque(lambda x, mask, **keywords: x)
    assert named(lambda x, mask: x, {"mask": 1, "step": 2}) == {"mask": 1}
    assert named(lambda x, **keywords: x, {"mask": 1, "rngs": 2}) == {"mask": 1}


@needs("torch")
@pytest.mark.filterwarnings("ignore::UserWarning")
@pytest.mark.parametrize("kind", some(["compiled", "partial", "ddp", "renamed", "peft"], 2))
def test_wrapped_torch_layers_hold(kind, tmp_path):
    import torch  # noqa: PLC0415
    from torch import nn  # noqa: PLC0415

    from tests.testing.torch_layers import Embedded, Uniform  # noqa: PLC0415

    class Wrapper(nn.Module):
        def __init__(self, inner, name):
            super().__init__()
            self.name = name
            setattr(self, name, inner)

        def forward(self, *arguments, **keywords):
            return getattr(self, self.name)(*arguments, **keywords)

    class Masked(Uniform):
        def forward(self, x, mask=None):
            mask = torch.ones(x.shape[:2], dtype=torch.bool) if mask is None else mask
            return super().forward(x, mask)

    def make(*, dim, alpha, seed):
        layer = Masked(alpha, seed)
        if kind == "compiled":
            return torch.compile(layer, backend="eager")
        if kind == "partial":
            return functools.partial(Wrapper(layer, "module"))
        if kind == "ddp":
            return nn.parallel.DistributedDataParallel(Embedded(dim, layer))
        return Wrapper(layer, {"renamed": "inner", "peft": "base_layer"}[kind])

    if kind == "ddp":
        store = f"file://{tmp_path / 'store'}"
        torch.distributed.init_process_group("gloo", init_method=store, rank=0, world_size=1)
    try:
        results = holds(
            make, "torch", inputs="ids" if kind == "ddp" else "embeddings",
            claims=Claims(compilable=kind in ("partial", "peft")),
        )  # fmt: skip
    finally:
        if kind == "ddp":
            torch.distributed.destroy_process_group()
    assert results["EN09"].status == results["EN19"].status == "passed"


def test_a_mode_of_another_name_is_named_with_the_call_that_passes_it():
    def make(*, dim, alpha, seed):
        noise = neftune(alpha, seed=seed)

        def layer(x, *, mask=None, step, deterministic=False):
            return embnoise.add_noise(x, noise, training=not deterministic, mask=mask, step=step)

        return layer

    made = case("mine", make, driver="numpy")
    report = check_layer(made, profile="quick", raises=False)
    messages = [each.message for each in report.results if each.wrong]
    assert {each.code for each in report.results if each.wrong} == {"EN02"}
    assert "layer(x, deterministic=not training)" in messages[0]


@needs("jax")
@pytest.mark.parametrize(
    ("parameters", "says"),
    [
        ("x, rng", r"the layer has `rng`: pass call=lambda layer, x, \*, key: layer\(x, rng=key\)"),
        ("x, *, key, is_training", r"layer\(x, is_training=training\)"),
        ("x, y", "mask, step, segment_ids, training, train, deterministic, inference, key are"),
    ],
)
def test_what_a_call_lacks_is_named_with_the_call_that_passes_it(parameters, says):
    make = lambda *, dim, alpha, seed: eval(f"lambda {parameters}: x")  # noqa: E731, S307
    made = case("mine", make, driver="jax")
    (result,) = check_layer(made, profile="quick", raises=False).results
    assert result.code == "EN01"
    assert re.search(says, result.message), result.message


def test_a_mask_of_another_name_is_named_with_the_call_that_passes_it():
    def make(*, dim, alpha, seed):
        noise = neftune(alpha, seed=seed)

        def layer(x, *, training, step, attention_mask=None):
            kept = {"mask": attention_mask, "step": step}
            return embnoise.add_noise(x, noise, training=training, **kept)

        return layer

    def call(layer, x, *, training, step, mask=None):
        return layer(x, training=training, step=step, attention_mask=mask)

    report = check_layer(case("mine", make, driver="numpy"), profile="quick", raises=False)
    first = next(each.message for each in report.results if each.code == "EN09")
    assert "layer(x, attention_mask=mask)" in first
    holds(make, call=call)


def test_a_layer_may_refuse_alphas_of_0_and_above_100():
    def make(*, dim, alpha, seed):
        if not 0 < alpha <= 100:
            raise ValueError(f"alpha must be above 0 and at most 100, got {alpha}")
        return plain(dim=dim, alpha=alpha, seed=seed)

    report = check_layer(case("mine", make, driver="numpy"), profile="quick", raises=False)
    assert report.ok, report.table()
    assert "EN03" in {each.code for each in report.results if each.status == "not_claimed"}


def test_noise_that_starts_late_holds():
    def share(step):
        return 0.0 if step < 30 else 1.0

    def make(*, dim, alpha, seed):
        noise = neftune(alpha, seed=seed)

        def layer(x, *, training, mask=None, step):
            return embnoise.add_noise(
                x, noise, training=training and share(step) > 0, mask=mask, step=step
            )

        return layer

    holds(make, claims=Claims(schedule=share))
