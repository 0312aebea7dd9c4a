"""Programs that are traced: ``make_fx``, ``torch.export``, ``torch.jit.trace``, fake tensors."""

import gc
import io

import pytest
import torch
from torch import nn
from torch._functorch.aot_autograd import aot_function
from torch._subclasses import FakeTensorMode
from torch.func import functional_call, grad, vmap
from torch.fx.experimental.proxy_tensor import make_fx
from torch.utils.flop_counter import FlopCounterMode

from embnoise import Noise, linear, neftune, symnoise
from embnoise_torch import EmbeddingNoise, add_noise, attach
from embnoise_torch.model.model_call import CallTokens
from embnoise_torch.tracing.custom_op import apply_
from embnoise_torch.tracing.pure import PureSource
from embnoise_torch.tracing.traced_lookup import resolve
from embnoise_torch.tracing.transforms import counted_key
from embnoise_torch.tracing.transforms import noisy as operator
from tests.torch.models import Embedder, batch, zeroed

# PyTorch's own tracing and saving.
pytestmark = [
    pytest.mark.filterwarnings("ignore:.torch.jit.:DeprecationWarning"),
    pytest.mark.filterwarnings("ignore:.isinstance.treespec, LeafSpec"),
]

X = torch.randn(2, 3, 8, generator=torch.Generator().manual_seed(0))
MASK = torch.tensor([[1, 1, 0], [1, 1, 1]])
STEP = torch.tensor(3)
OTHER = torch.randn(4, 5, 8), torch.tensor(6), torch.arange(20).view(4, 5) % 3
NOISES = [neftune(), symnoise(), Noise(0.1, "gaussian", "relative"), neftune(linear(8.0, 1.0, 9))]
MODES = ["real", "fake", "symbolic"]


def noisy(x, step=3, mask=MASK, noise=NOISES[0]):
    return add_noise(x, noise, step=step, mask=mask)


class Noisy(nn.Module):
    """A module that has everything in its arguments."""

    def __init__(self, noise, layer=False):
        super().__init__()
        self.noise = EmbeddingNoise(noise) if layer else noise

    def forward(self, x, step, mask):
        if isinstance(self.noise, nn.Module):
            return self.noise(x, step=step, mask=mask)
        return noisy(x, step, mask, self.noise)


@pytest.mark.parametrize("mode", MODES)
@pytest.mark.parametrize("noise", NOISES, ids=repr)
def test_make_fx(mode, noise):
    program = make_fx(lambda *given: noisy(*given, noise), tracing_mode=mode)(X, STEP, MASK)
    again = OTHER if mode == "symbolic" else (X + 1, torch.tensor(4), 1 - MASK)
    x = again[0].clone().requires_grad_()
    output = program(x, *again[1:])
    assert torch.equal(output, noisy(*again, noise))
    output.sum().backward()
    assert torch.equal(x.grad, torch.ones_like(x))


@pytest.mark.parametrize("mode", MODES)
def test_make_fx_of_derivatives_and_maps(mode):

    def function(x):
        return noisy(x, mask=None)

    gradient = grad(lambda x: function(x).square().sum())
    assert torch.equal(make_fx(gradient, tracing_mode=mode)(X)(X + 1), 2 * function(X + 1))
    rows = torch.stack([X, -X])
    expected = torch.stack([function(X + 1), function(1 - X)])
    assert torch.equal(make_fx(vmap(function), tracing_mode=mode)(rows)(rows + 1), expected)


@pytest.mark.parametrize("mode", MODES)
def test_make_fx_of_an_attached_model(mode):
    """A program of this process draws as the model would, and tracing with fakes draws nothing."""
    model, ids = zeroed(), batch()
    parameters = dict(model.named_parameters())
    with attach(model, neftune()) as handle:
        program = make_fx(
            lambda parameters, ids: functional_call(model, parameters, (ids,)), tracing_mode=mode
        )(parameters, ids)
        for call in range(handle.lookups, 3):
            rows = torch.arange(2) + 2 * call
            expected = add_noise(torch.zeros(2, 8, 8), neftune(), step=0, sample_ids=rows)
            assert torch.equal(program(parameters, ids), expected)
        assert handle.lookups == 3


@pytest.mark.parametrize("noise", [NOISES[0], NOISES[3]], ids=repr)
@pytest.mark.parametrize(("strict", "layer"), [(True, True), (False, False)])
def test_an_exported_program_contains_its_noise(strict, layer, noise):
    rows, length = torch.export.Dim("rows"), torch.export.Dim("length")
    shape = {0: rows, 1: length}
    exported = torch.export.export(
        Noisy(noise, layer), (X, STEP, MASK), strict=strict, dynamic_shapes=(shape, None, shape)
    )
    expected = noisy(*OTHER, noise)
    assert torch.equal(exported.module()(*OTHER), expected)
    file = io.BytesIO()
    torch.export.save(exported, file)
    file.seek(0)
    assert torch.equal(torch.export.load(file).module()(*OTHER), expected)
    assert torch.equal(exported.run_decompositions().module()(*OTHER), expected)


def test_an_exported_program_that_counts_belongs_to_its_process():
    layer = EmbeddingNoise(neftune())
    exported = torch.export.export(layer, (X,), strict=False).module()
    for step in range(2):
        assert torch.equal(exported(X), add_noise(X, neftune(), step=step))
    assert layer.step == 2
    del exported
    program = make_fx(layer)(X)
    del layer
    gc.collect()
    with pytest.raises(RuntimeError, match="a layer or an attached model that no longer exists"):
        program(X)


def test_a_program_of_another_process_is_refused():
    with pytest.raises(RuntimeError, match="belongs to another process"):
        operator(X, None, None, None, None, None, None, None, None, "0.0@another")


def test_rules_that_cannot_be_described():
    """They stay in the process: ``make_fx`` takes them, programs that are saved do not."""
    noise = neftune(lambda step: 1.0 + step)
    program = make_fx(lambda x: noisy(x, noise=noise))(X)
    assert torch.equal(program(X), noisy(X, noise=noise))
    for trace in (torch.jit.trace, lambda m, x: torch.export.export(m, x, strict=False)):
        with pytest.raises(TypeError, match="alpha must be a number or a registered schedule"):
            trace(Noisy(noise), (X, STEP, MASK))


def test_equal_lookups_in_one_program_draw_twice():
    """To a compiler, two equal calls of a pure operator are one."""
    layer = EmbeddingNoise(neftune(), calls_per_step=2)

    def twice(x):
        return layer(x) - layer(x)

    program = make_fx(twice)(X)
    compiled = aot_function(program, lambda graph, _: graph)
    assert compiled(X.clone().requires_grad_()).any()


def saved(program):
    file = io.BytesIO()
    torch.jit.save(program, file)
    file.seek(0)
    return torch.jit.load(file)


@pytest.mark.parametrize("noise", NOISES, ids=repr)
def test_jit_trace_of_a_function(noise):
    program = torch.jit.trace(lambda *given: noisy(*given, noise), (X, STEP, MASK))
    assert torch.equal(program(*OTHER), noisy(*OTHER, noise))
    assert torch.equal(saved(program)(*OTHER), noisy(*OTHER, noise))


def test_jit_trace_of_a_layer_that_is_given_its_step():
    # PyTorch's check runs the layer without gradients, where it adds no noise.
    program = torch.jit.trace(Noisy(neftune(), layer=True), (X, STEP, MASK), check_trace=False)
    assert torch.equal(program(*OTHER), noisy(*OTHER))


def test_jit_trace_warns_of_a_constant_step():
    with pytest.warns(torch.jit.TracerWarning, match="step=3 is a constant of the trace"):
        program = torch.jit.trace(lambda x: noisy(x, mask=None), (X,))
    assert torch.equal(program(OTHER[0]), noisy(OTHER[0], mask=None))


@pytest.mark.parametrize("kind", ["layer", "attached"])
def test_jit_trace_refuses_what_counts_its_calls(kind):
    model = nn.Sequential(nn.Embedding(50, 8), *([EmbeddingNoise(neftune())] * (kind == "layer")))
    ids = batch()
    handle = attach(model, neftune()) if kind == "attached" else model[1]
    with pytest.raises(RuntimeError, match="a traced program has no counter"):
        torch.jit.trace(model, (ids,))
    clean = nn.functional.embedding(ids, model[0].weight)
    with handle.paused():
        assert torch.equal(torch.jit.trace(model, (ids,))(ids), clean)
    model.eval()
    assert torch.equal(torch.jit.trace(model, (ids,))(ids), clean)
    assert handle.lookups == 0


def test_fake_tensors():
    with FakeTensorMode() as mode:
        x = mode.from_tensor(X)
        assert noisy(x, mask=None).shape == X.shape
        model = Embedder()
        with attach(model, neftune()) as handle:
            assert model(torch.zeros(2, 3, dtype=torch.long)).shape == (2, 3, 8)
    layer = EmbeddingNoise(neftune())
    assert type(noisy(x, mask=None)) is type(layer(x)) is type(x)
    assert (handle.lookups, layer.lookups) == (0, 0)


def test_tensors_without_data():
    x, mask = X.to("meta"), MASK.to("meta")
    assert noisy(x, STEP.to("meta"), mask).device.type == "meta"
    layer = EmbeddingNoise(neftune())
    assert layer(x, mask=mask, segment_ids=mask).shape == X.shape
    assert layer.lookups == 0


def test_other_modes_see_the_noise():
    with FlopCounterMode(display=False):
        assert torch.equal(noisy(X), add_noise(X, neftune(), step=3, mask=MASK))


OPERATOR_CALLS = [
    (X, None, STEP, MASK, None, None, None, None, None),
    (X.double(), None, STEP, MASK, MASK, MASK, MASK, MASK == 1, None),
    (X[0], None, STEP, MASK[0], None, None, torch.tensor([4]), None, torch.tensor([0])),
    (X.bfloat16(), None, STEP, None, None, None, None, None, torch.tensor([1, 0])),
]


@pytest.mark.parametrize("arguments", OPERATOR_CALLS)
def test_the_operator_keeps_what_it_promises(arguments):
    program = make_fx(lambda x: add_noise(x, neftune(), step=0))(X)
    (node,) = [n for n in program.graph.nodes if n.target is torch.ops.embnoise.noisy.default]
    torch.library.opcheck(operator, (*arguments, node.args[-1]))


def test_the_operator_of_the_compiler_keeps_what_it_promises():
    source = PureSource(neftune())
    arguments = X.clone(), [STEP, MASK, None, None, None, None], source.number, 0
    torch.library.opcheck(apply_, arguments)


RESOLVE_CALLS = [
    (X, None, []),
    (X, batch(2, 3), [None] * len(CallTokens._fields)),
    (X, batch(2, 3), [*CallTokens(batch(2, 3), None, MASK, None, None, None)]),
    (X[0], batch(1, 3)[0], [*CallTokens(None, None, None, torch.tensor([[0, 1, 0]]), None, None)]),
]


@pytest.mark.parametrize(("x", "ids", "told"), RESOLVE_CALLS)
def test_the_operator_that_finds_the_mask_keeps_what_it_promises(x, ids, told):
    model = Embedder()
    with attach(model, neftune()) as handle:
        source = counted_key(handle._sources["embed"].number)
        torch.library.opcheck(resolve, (x, ids, told, source))
