"""``torch.compile``: no graph break, no new compilation, and never silently without noise."""

from contextlib import nullcontext

import pytest
import torch
from torch._dynamo.testing import CompileCounterWithBackend

from embnoise import Noise, linear, neftune
from embnoise_torch import EmbeddingNoise, add_noise, attach
from tests.torch.models import batch, llama, t5, zeroed


@pytest.fixture(autouse=True)
def _fresh_compiler():
    torch._dynamo.reset()


def compiled(model, backend="aot_eager"):
    counter = CompileCounterWithBackend(backend)
    return torch.compile(model, backend=counter, fullgraph=True), counter


def test_step_alpha_and_micro_batches_do_not_recompile():
    model, ids = zeroed(), batch()
    fast, counter = compiled(model)
    optimizer = torch.optim.SGD(model.parameters(), lr=0.0)
    noise = neftune(alpha=linear(8.0, 1.0, 6))
    rows = torch.arange(2)
    with attach(model, noise, optimizer=optimizer) as handle:
        for step in range(6):
            for micro in range(1 + step % 3):
                noisy = fast(ids)
                samples = rows + 2 * micro
                expected = add_noise(torch.zeros(2, 8, 8), noise, step=step, sample_ids=samples)
                assert torch.equal(noisy, expected)
                noisy.sum().backward()
            optimizer.step()
        with handle.paused():
            assert not fast(ids).any()
    assert counter.frame_count == 1


def two_passes(noisy):
    return lambda x: (1 * noisy(x), 2 * noisy(x))


@pytest.mark.parametrize("kind", ["attach", "layer"])
def test_equal_passes_in_one_function_have_noise_of_their_own(kind):
    """SimCSE and R-Drop run a batch twice; the compiler takes equal calls for one."""
    table = torch.nn.Embedding.from_pretrained(torch.zeros(50, 8), freeze=False)
    layer, ids = EmbeddingNoise(neftune(seed=1)), batch()
    zeros = torch.zeros(2, 8, 8)
    model = torch.nn.Sequential(table) if kind == "attach" else lambda ids: layer(table(ids))
    fast, counter = compiled(two_passes(model))
    samples = torch.arange(2)
    with attach(model, neftune(seed=1)) if kind == "attach" else nullcontext() as handle:
        first, second = fast(ids)
        expected = add_noise(zeros, neftune(seed=1), step=0, sample_ids=samples)
        assert torch.equal(first, expected)
        assert not torch.equal(second / 2, expected)
        assert (handle or layer).lookups == 2
    assert counter.frame_count == 1


@pytest.mark.parametrize("kind", ["attach", "layer"])
def test_a_pause_in_a_compiled_function(kind):
    """R3F: a clean and a noisy pass."""
    table = torch.nn.Embedding.from_pretrained(torch.zeros(50, 8), freeze=False)
    layer, ids = EmbeddingNoise(neftune(seed=1)), batch()
    model = torch.nn.Sequential(table) if kind == "attach" else lambda ids: layer(table(ids))
    with attach(model, neftune(seed=1)) if kind == "attach" else nullcontext() as handle:
        state = handle or layer

        def both(ids):
            with state.paused():
                clean = model(ids)
            return clean, model(ids)

        fast, counter = compiled(both)
        for lookups in (1, 2):
            clean, noisy = fast(ids)
            assert not clean.any()
            assert noisy.any()
            assert state.lookups == lookups
        with state.paused():
            assert not fast(ids)[1].any()
    assert counter.frame_count == 1


@pytest.mark.parametrize("kind", ["attach", "layer"])
def test_a_step_that_is_set_in_a_compiled_function_counts_at_once(kind):
    table = torch.nn.Embedding.from_pretrained(torch.zeros(50, 8), freeze=False)
    noise = neftune(linear(5.0, 1.0, 4), seed=1)
    layer, ids = EmbeddingNoise(noise), batch()
    model = torch.nn.Sequential(table) if kind == "attach" else lambda ids: layer(table(ids))
    attached = attach(model, noise, optimizer="manual") if kind == "attach" else nullcontext()
    with attached as handle:
        state = handle or layer

        def train_step(ids, step):
            state.step = step
            return 1 * model(ids)

        fast = torch.compile(train_step, backend="aot_eager")
        for step in (0, 2, 3):
            expected = add_noise(torch.zeros(2, 8, 8), noise, step=step)
            assert torch.equal(fast(ids, step), expected)


@pytest.mark.parametrize("model", [llama, pytest.param(t5, marks=pytest.mark.sweep)])
def test_whole_models_with_inductor(model):
    model, ids = model(), batch()
    mask = torch.ones_like(ids)
    mask[0, 5:] = 0
    call = {"input_ids": ids, "attention_mask": mask, "labels": ids}
    fast, counter = compiled(model, "inductor")
    with attach(fast, neftune(20.0), optimizer="manual") as handle:
        for step in range(3):
            handle.step = step
            loss = fast(**call).loss
            loss.backward()
            gradient = model.get_input_embeddings().weight.grad.clone()
            model.zero_grad()
            start = {"step": step, "calls": 0, "samples": 0, "lookups": 0}
            handle.load_state_dict(dict.fromkeys(handle.state_dict(), start))
            slow = model(**call).loss
            slow.backward()
            assert torch.allclose(loss, slow, rtol=1e-4)
            own = model.get_input_embeddings().weight.grad
            assert torch.allclose(gradient, own, rtol=1e-3, atol=1e-5)
            model.zero_grad()
    assert counter.frame_count == 1


def test_lengths_that_vary_compile_as_often_as_without_noise():
    def frames(noisy):
        torch._dynamo.reset()
        model = llama()
        fast, counter = compiled(model)
        handle = attach(model, neftune()) if noisy else None
        for length in (5, 6, 9):
            ids = batch(length=length)
            fast(input_ids=ids, attention_mask=torch.ones_like(ids), labels=ids).loss.backward()
        assert handle is None or handle.lookups == 3
        return counter.frame_count

    assert frames(noisy=True) == frames(noisy=False)


def test_attached_and_removed_after_a_compiled_call():
    model, ids = zeroed(), batch()
    fast, _ = compiled(model)
    assert not fast(ids).any()
    with attach(model, neftune()):
        assert torch.equal(fast(ids), add_noise(torch.zeros(2, 8, 8), neftune(), step=0))
        assert not fast.eval()(ids).any()
        fast.train()
        with torch.no_grad():
            assert not fast(ids).any()
    assert not fast(ids).any()
    with attach(fast, neftune(seed=1)):
        assert torch.equal(fast(ids), add_noise(torch.zeros(2, 8, 8), neftune(seed=1), step=0))


def test_two_models_that_share_their_code():
    models, ids = [zeroed(), zeroed()], batch()
    fast = [compiled(model)[0] for model in models]
    noises = [neftune(seed=1), neftune(seed=2)]
    with attach(models[0], noises[0]), attach(models[1], noises[1]):
        for model, noise in zip(fast, noises, strict=True):
            assert torch.equal(model(ids), add_noise(torch.zeros(2, 8, 8), noise, step=0))


def test_the_pure_function_and_the_layer():
    x, noise = torch.zeros(2, 3, 8), neftune()
    pure, counter = compiled(lambda x, step, mask: add_noise(x, noise, step=step, mask=mask))
    mask = torch.tensor([[1, 1, 0], [1, 1, 1]])
    for step in range(4):
        expected = add_noise(x, noise, step=step, mask=mask)
        assert torch.equal(pure(x, torch.tensor(step), mask), expected)
    assert counter.frame_count == 1
    layer, counter = compiled(EmbeddingNoise(noise))
    for step in range(4):
        assert torch.equal(layer(x), add_noise(x, noise, step=step))
    assert torch.equal(layer(x, step=torch.tensor(9)), add_noise(x, noise, step=9))
    assert counter.frame_count == 2


def test_gradient_is_one():
    x, noise = torch.zeros(2, 3, 8, requires_grad=True), neftune()
    fast, _ = compiled(lambda x: add_noise(x, noise, step=0))
    (fast(x) * torch.arange(48.0).view(2, 3, 8)).sum().backward()
    assert torch.equal(x.grad, torch.arange(48.0).view(2, 3, 8))


@pytest.mark.parametrize("backend", ["eager", "aot_eager"])
def test_a_layer_that_is_compiled_in_evaluation_mode_first(backend):
    """Nothing happens there, so Dynamo skips the frame, and would trace what it calls later."""
    mask = torch.tensor([[1, 1, 1, 0]])
    arguments = {"mask": mask, "segment_ids": mask}
    layer, x = EmbeddingNoise(neftune()), torch.zeros(1, 4, 8)
    fast = torch.compile(layer, backend=backend)
    layer.eval()
    assert fast(x, **arguments) is x
    layer.train()
    for step in range(3):
        expected = add_noise(x, neftune(), step=step, **arguments)
        assert torch.equal(fast(x, step=step, **arguments), expected)


class Pooled(torch.nn.Module):
    """What embeds is a part that knows no mask."""

    def __init__(self, *, breaks):
        super().__init__()
        self.encoder = Encoder()
        self.breaks = breaks

    def forward(self, input_ids, attention_mask):
        if self.breaks:
            torch._dynamo.graph_break()
        return self.encoder(input_ids)


class Encoder(torch.nn.Module):
    def __init__(self):
        super().__init__()
        self.embed = torch.nn.Embedding(50, 8)
        torch.nn.init.zeros_(self.embed.weight)

    def forward(self, input_ids):
        return self.embed(input_ids)


@pytest.mark.parametrize("part", ["behind a break", "by itself"])
def test_a_part_that_is_compiled_knows_the_eager_calls_around_it(part):
    model = Pooled(breaks=part == "behind a break")
    fast = model
    if part == "by itself":
        model.encoder.compile(backend="aot_eager")
    else:
        fast = torch.compile(model, backend="aot_eager")
    mask = torch.tensor([[1] * 4 + [0] * 4, [1] * 8])
    noise = neftune(alpha=8.0)
    with attach(model, noise):
        noisy = fast(batch(), mask)
    assert torch.equal(noisy, add_noise(torch.zeros(2, 8, 8), noise, step=0, mask=mask))


def calling(model):
    def call(ids):
        return model(ids)

    return call


@pytest.mark.parametrize("kind", ["models", "one model", "one function", "layers"])
def test_noise_of_its_own_needs_no_graph_of_its_own(kind):
    """The compiler gives up after eight graphs for one piece of code, which models share."""
    ids, counter = batch(), CompileCounterWithBackend("aot_eager")
    model, fast = None, None
    for number in range(10):
        noise = neftune(seed=number) if number % 3 else Noise(2.0, "gaussian", seed=number)
        if kind == "layers":
            table = torch.nn.Embedding.from_pretrained(torch.zeros(50, 8), freeze=False)
            model = fast = torch.nn.Sequential(table, EmbeddingNoise(noise))
            fast = torch.compile(model, backend=counter, fullgraph=True)
        elif kind == "models" or model is None:
            model = zeroed()
            fast = model if kind != "one function" else calling(model)
            fast = torch.compile(fast, backend=counter, fullgraph=True)
        with nullcontext() if kind == "layers" else attach(model, noise):
            for samples in ([0, 1], [2, 3]) if kind != "layers" else ([0, 1],):
                expected = {"step": 0, "sample_ids": torch.tensor(samples)}
                assert torch.equal(fast(ids), add_noise(torch.zeros(2, 8, 8), noise, **expected))
    assert counter.frame_count == 1


def test_a_graph_of_its_own_where_a_handle_does_something_else():
    model, ids = zeroed(), batch()
    fast, counter = compiled(model)
    zeros, ones = torch.zeros(2, 8, 8), torch.ones(2, 8, dtype=torch.int64)
    first = ones * (torch.arange(8) < 3)
    options = {
        "all": ({}, {}),
        "tokens": ({"tokens": lambda: {"mask": first}}, {"mask": first}),
        "others": ({"tokens": lambda: {"mask": 1 - first}}, {"mask": 1 - first}),
        "where": ({"where": lambda ids: ids > 20}, {"where": ids > 20}),
    }
    for given, told in [*options.values(), *options.values()]:
        with attach(model, neftune(), **given):
            assert torch.equal(fast(ids), add_noise(zeros, neftune(), step=0, **told))
    assert counter.frame_count <= 4
