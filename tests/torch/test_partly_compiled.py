"""Parts of a model that are compiled by themselves: ``tokens`` and ``where`` see all calls."""

import threading

import pytest
import torch
from torch import nn

from embnoise import Noise, neftune
from embnoise_torch import add_noise, attach
from tests.torch.models import batch, llama, zeroed

NOISE = neftune(20.0, seed=3)
MASK = torch.tensor([[1, 1, 1, 1, 1, 0, 0, 0], [1] * 8])


@pytest.fixture(autouse=True)
def _fresh_compiler():
    torch.compiler.reset()


# Of the compiler, which meets hidden states as the inputs of a part.
hidden_states = pytest.mark.filterwarnings("ignore:The .grad attribute of a Tensor that is not")


class Outer(nn.Module):
    """Takes arguments that the model inside never gets."""

    def __init__(self, inner):
        super().__init__()
        self.inner = inner

    def forward(self, input_ids, my=None, labels=None):
        return self.inner(input_ids=input_ids)


class Broken(Outer):
    """The compiler starts again behind the first line."""

    def forward(self, input_ids, my=None, labels=None):
        torch._dynamo.graph_break()
        return self.inner(input_ids=input_ids)


def labels_of(mask):
    return torch.where(mask != 0, 7, -100)


def inner(model):
    model.inner.compile(backend="aot_eager", fullgraph=True)
    return model


def embedding(model):
    model.inner.embed.compile(backend="aot_eager", fullgraph=True)
    return model


def whole(model):
    return torch.compile(model, backend="aot_eager", fullgraph=True)


class BrokenBehind(Outer):
    """The compiler starts again behind the lookup."""

    def forward(self, input_ids, my=None, labels=None):
        noisy = self.inner(input_ids=input_ids)
        torch._dynamo.graph_break()
        return noisy + 0


WAYS = {
    "inner": (Outer, inner),
    "embedding": (Outer, embedding),
    "graph break": (Broken, lambda model: torch.compile(model, backend="aot_eager")),
    "later break": (BrokenBehind, lambda model: torch.compile(model, backend="aot_eager")),
    "whole": (Outer, whole),
}
FUNCTIONS = {
    "default": ({"tokens": lambda ids, my=None: {} if my is None else {"mask": my}}, "mask"),
    "required": ({"tokens": lambda my: {"mask": my}}, "mask"),
    "call": ({"tokens": lambda call: {"mask": call["my"]}}, "mask"),
    "where": ({"where": lambda my: my != 0}, "where"),
    "completion": ({"where": "completion"}, "where"),
}
"""What tells about tokens, and as what."""
SAMPLED = {"inner": "default", "embedding": "where", "graph break": "call", "whole": "required"}


@hidden_states
@pytest.mark.filterwarnings("ignore:.*under a name that is not known")  # where= tells no length
@pytest.mark.parametrize(
    ("way", "named"),
    [
        pytest.param(way, name, marks=[] if sampled else pytest.mark.sweep)
        for way in WAYS
        for name in FUNCTIONS
        for sampled in [name in ("completion", SAMPLED.get(way))]
    ],
)
def test_functions_get_the_arguments_of_eager_calls(way, named):
    make, compiled = WAYS[way]
    functions, told = FUNCTIONS[named]
    model, ids = make(zeroed()), batch()
    fast = compiled(model)
    with attach(model, NOISE, optimizer="manual", **functions) as handle:
        for step, mask in enumerate([MASK, MASK.flip(0), MASK.flip(1)]):
            handle.step = step
            noisy = fast(ids, mask, labels_of(mask))
            expected = add_noise(torch.zeros(2, 8, 8), NOISE, step=step, **{told: mask})
            assert torch.equal(noisy, expected)
        assert handle.lookups == 3


def test_an_outer_call_that_comes_later_is_known():
    """The graph of a call by itself does not do for one inside of another."""
    model, ids = Outer(zeroed()), batch()
    functions = {"tokens": lambda my=None: {} if my is None else {"mask": my}}
    inner(model)
    with attach(model, NOISE, optimizer="manual", **functions) as handle:
        for step, mask in enumerate((None, MASK, None, MASK)):
            handle.step = step
            noisy = model.inner(input_ids=ids) if mask is None else model(ids, mask)
            assert torch.equal(noisy, add_noise(torch.zeros(2, 8, 8), NOISE, step=step, mask=mask))


@hidden_states
def test_hidden_states_have_the_ids_of_an_eager_call():
    class Layers(nn.Module):
        def __init__(self):
            super().__init__()
            self.embed = nn.Embedding.from_pretrained(torch.zeros(50, 8), freeze=False)
            self.layer = nn.Sequential(nn.Identity())

        def forward(self, input_ids):
            return self.layer(self.embed(input_ids))

    model, ids = Layers(), batch()
    noise = Noise(0.1, scale="absolute")
    model.layer.compile(backend="aot_eager", fullgraph=True)
    with attach(model, noise, layer="layer", tokens=lambda ids: {"mask": ids > 20}):
        assert torch.equal(
            model(ids), add_noise(torch.zeros(2, 8, 8), noise, step=0, mask=ids > 20)
        )


def test_a_call_of_another_thread_is_not_taken_for_an_outer_one():
    model, ids = Outer(zeroed()), batch()
    inner(model)
    functions = {"tokens": lambda my=None: {} if my is None else {"mask": my}}
    inside, leave = threading.Event(), threading.Event()
    original = Outer.forward

    def forward(self, *args, **kwargs):
        inside.set()
        leave.wait(10)
        return original(self, *args, **kwargs)

    model.forward = forward.__get__(model)
    with attach(model, NOISE, optimizer="manual", **functions):
        other = threading.Thread(target=torch.no_grad()(lambda: model(ids, MASK)))
        other.start()
        inside.wait(10)
        noisy = model.inner(input_ids=ids)
        leave.set()
        other.join(10)
    assert torch.equal(noisy, add_noise(torch.zeros(2, 8, 8), NOISE, step=0))


@hidden_states
@pytest.mark.sweep
def test_labels_reach_where_behind_a_graph_break_after_the_lookup():
    losses = []
    for compiled in (False, True):
        model, ids = llama(), batch()
        model.model.layers[0].register_forward_pre_hook(lambda *_: torch._dynamo.graph_break())
        called = torch.compile(model, backend="aot_eager") if compiled else model
        with attach(model, NOISE, where="completion") as handle:
            losses.append(called(input_ids=ids, attention_mask=MASK, labels=labels_of(MASK)).loss)
            assert handle.lookups == 1
    torch.testing.assert_close(*losses)
