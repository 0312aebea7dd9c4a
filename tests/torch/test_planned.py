"""Noise in two parts, a plan and what follows from it, as GPUs and compilers get it.

The Triton kernels run in Triton's interpreter, on tensors on the CPU; the kernel for every device
is compiled by Inductor.
"""

import re

import numpy as np
import pytest
import torch
from torch import nn
from torch.nn.functional import embedding

from embnoise import Noise, neftune
from embnoise.backend import TokenArrays, prepare
from embnoise_torch import EmbeddingNoise, add_noise, attach
from embnoise_torch.kernels import register_kernel
from embnoise_torch.kernels.any_torch import TorchKernel
from embnoise_torch.tracing import planned
from tests.frameworks import installed
from tests.torch.models import batch, llama
from tests.torch.test_compile import compiled

if installed("triton"):
    from tests.torch.triton_code import interpreted_kernel, rounding_as_gpus_do

    KERNEL = interpreted_kernel()

pytestmark = pytest.mark.usefixtures("registry_as_it_was")
needs_triton = pytest.mark.skipif(not installed("triton"), reason="Triton is not installed")


@pytest.fixture(autouse=True)
def _fresh_compiler():
    yield
    torch._dynamo.reset()


@pytest.fixture
def gpu():
    """A CPU that gets its noise from the GPU's kernels."""
    with rounding_as_gpus_do():
        register_kernel("cpu", "interpreted", lambda: KERNEL, priority=99)
        yield


@pytest.fixture
def other():
    """A CPU that gets its noise as a device without a kernel of its own does."""
    register_kernel("cpu", "other", TorchKernel, priority=99)


def noisy_and_gradient(table, ids, noise, **tokens):
    """The output of an attached embedding, and the gradient of its table."""
    table.zero_grad()
    with attach(table, noise, tokens=(lambda ids: tokens) if tokens else None):
        out = table(ids)
        (out * torch.arange(out.numel()).reshape(out.shape).to(out)).sum().backward()
    gradient = table.weight.grad
    return out.detach(), gradient.to_dense() if gradient.is_sparse else gradient


def bits(x):
    return x.view({2: torch.int16, 4: torch.int32, 8: torch.int64}[x.element_size()])


TABLES = {
    "plain": lambda: nn.Embedding(11, 13),
    "padding": lambda: nn.Embedding(11, 40, padding_idx=3),
    "one channel": lambda: nn.Embedding(11, 1),
    "wide": lambda: nn.Embedding(11, 2056),
    "sparse": lambda: nn.Embedding(11, 8, sparse=True),
    "by frequency": lambda: nn.Embedding(11, 8, scale_grad_by_freq=True),
    "bfloat16": lambda: nn.Embedding(11, 24, dtype=torch.bfloat16),
    "float16": lambda: nn.Embedding(11, 24, dtype=torch.float16),
    "float64": lambda: nn.Embedding(11, 24, dtype=torch.float64),
    "sliced": lambda: nn.Embedding(11, 9, _weight=torch.randn(22, 20)[::2, 1:19:2]),
    "transposed": lambda: nn.Embedding(11, 9, _weight=torch.randn(9, 11).T),
}
IDS = {
    "[B, L]": torch.tensor([[1, 3, 3, 7], [10, 0, 3, 5]]),
    "[L]": torch.tensor([1, 3, 3, 7]),
    "int32": torch.tensor([[1, 3, 3, 7], [10, 0, 3, 5]], dtype=torch.int32),
    "strided": torch.tensor([[1, 10], [3, 0], [3, 3], [7, 5]]).T,
}


@needs_triton
@pytest.mark.parametrize("kind", TABLES)
def test_lookup_and_noise_in_one_pass(kind, gpu, monkeypatch):
    table, ids, noise = TABLES[kind](), IDS["[B, L]"], neftune(50.0)
    expected = table(ids).detach()
    expected = add_noise(expected, noise, step=0)
    own = nn.Embedding.from_pretrained(table.weight.detach().clone(), freeze=False)
    for name in ("padding_idx", "sparse", "scale_grad_by_freq"):
        setattr(own, name, getattr(table, name))
    upstream = torch.arange(expected.numel()).reshape(expected.shape).to(expected)
    (own(ids) * upstream).sum().backward()
    monkeypatch.setattr("torch.nn.functional.embedding", _never)  # the lookup is the kernel's
    seen, gradient = noisy_and_gradient(table, ids, noise)
    assert torch.equal(bits(seen), bits(expected))
    assert torch.equal(gradient, own.weight.grad.to_dense())


def _never(*_args, **_kwargs):
    raise AssertionError("this was not to be called")


@needs_triton
@pytest.mark.parametrize("kind", IDS)
@pytest.mark.parametrize("distribution", ["uniform", "rademacher", "gaussian"])
def test_ids_and_distributions(kind, distribution, gpu):
    table, noise = nn.Embedding(11, 13), Noise(5.0, distribution=distribution, antithetic=True)
    ids = IDS[kind]
    expected = add_noise(embedding(ids, table.weight).detach(), noise, step=0)
    assert torch.equal(noisy_and_gradient(table, ids, noise)[0], expected)


@needs_triton
@pytest.mark.parametrize(
    "tokens",
    [
        {"mask": torch.tensor([[1, 1, 1, 0], [0, 0, 1, 1]])},
        {"mask": torch.tensor([[True, True, True, False], [False] * 4])},
        {"segment_ids": torch.tensor([[1, 1, 2, 0], [2, 1, 2, 1]])},
        {"positions": torch.tensor([[5, 6, 7, 8], [0, 1, 2, 3]])},
        {"where": torch.tensor([[0, 1, 0, 1], [1, 1, 1, 1]]), "sample_ids": torch.tensor([7, 2])},
        {
            "segment_ids": torch.tensor([[1, 1, 2, 0], [2, 1, 2, 1]]),
            "sample_ids": torch.tensor([[5, 5, 6, 0], [9, 8, 9, 8]]),
            "mask": torch.tensor([[1, 1, 1, 0], [1, 1, 0, 1]]),
        },
    ],
    ids="+".join,
)
def test_what_is_known_about_tokens(tokens, gpu):
    table, ids = nn.Embedding(11, 13), IDS["[B, L]"]
    table.weight.data[0] = -0.0  # keeps its sign where there is no noise
    expected = add_noise(embedding(ids, table.weight).detach(), neftune(), step=0, **tokens)
    assert torch.equal(bits(noisy_and_gradient(table, ids, neftune(), **tokens)[0]), bits(expected))


@needs_triton
def test_a_row_of_several_chunks():
    """Counts go over all chunks, ranks over those before; of documents, each over all."""
    ids = torch.randint(0, 11, (2, 2100), generator=torch.Generator().manual_seed(0))
    few = ids[:, :300]
    samples = few // 4
    for tokens in (
        {"mask": ids % 3 != 0},
        {"mask": few % 3 != 0, "segment_ids": samples},
        {"segment_ids": samples, "sample_ids": samples},
        {"mask": few[:1] % 3 != 0, "sample_ids": np.arange(5, 305)},  # those of a row's tokens
    ):
        arrays = TokenArrays(**tokens)
        shape = (*next(iter(tokens.values())).shape, 2)
        x, device = torch.zeros(shape), torch.device("cpu")
        prepared = prepare(x, neftune(), step=7, training=True, tokens=arrays)
        plans = [each.plan(x, neftune(), prepared, device) for each in (KERNEL, TorchKernel())]
        real = plans[1][:, 0] != 0  # of padding, only the magnitude has a meaning
        assert torch.equal(plans[0][real], plans[1][real])
        assert torch.equal(plans[0][:, 0], plans[1][:, 0])


@needs_triton
@pytest.mark.parametrize(
    "mask",
    [
        None,
        torch.tensor([[1, 1, 1, 0, 0], [1, 1, 1, 1, 1]]),
        torch.tensor([[1, 1, 2, 2, 0], [1, 2, 2, 3, 3]]),  # documents
    ],
    ids=["none", "padding", "documents"],
)
def test_a_whole_model(mask, gpu):
    model, ids = llama(), batch(length=5)

    def outputs():
        seen = []
        hook = model.get_input_embeddings().register_forward_hook(
            lambda *args: seen.append(args[2])
        )
        with attach(model, neftune(), calls_per_step=1):
            for _ in range(2):
                model(input_ids=ids, attention_mask=mask, labels=ids).loss.backward()
        hook.remove()
        return seen

    interpreted = outputs()
    register_kernel("cpu", "interpreted", lambda: None, priority=99)
    expected = outputs()
    assert not torch.equal(*expected)
    for one, other in zip(interpreted, expected, strict=True):
        assert torch.equal(one, other)


@needs_triton
def test_what_cannot_be_one_pass(gpu):
    ids, noise = IDS["[B, L]"], neftune()
    for table in (nn.Embedding(11, 8, max_norm=0.5), nn.Embedding(11, 8)):
        expected = embedding(ids, table.weight, max_norm=table.max_norm).detach()
        relative = Noise(0.1, scale="relative")
        for each in (noise, relative):
            seen, _ = noisy_and_gradient(table, ids, each)
            assert torch.equal(seen, add_noise(expected, each, step=0))


@needs_triton
def test_an_id_that_is_not_in_the_table_is_seen(gpu):
    table, ids = nn.Embedding(11, 8), torch.tensor([[1, 11, 2, -1]])
    with attach(table, neftune()):
        out = table(ids).detach()
    assert torch.equal(out.isnan().all(-1), torch.tensor([[False, True, False, True]]))


@needs_triton
def test_an_additive_mask_is_seen(gpu, monkeypatch):
    monkeypatch.setattr("embnoise._tokens._known", lambda array: None)  # as those of a GPU
    model, ids = llama(), batch(length=3)
    mask = torch.tensor([[0, 0, -10_000], [0, 0, 0]])
    with attach(model, neftune()):
        assert model(input_ids=ids, attention_mask=mask, labels=ids).loss.isnan()


@pytest.mark.parametrize("kernel", ["Triton's", "PyTorch's"])
@pytest.mark.parametrize("device", ["cuda", "xpu"])
def test_a_captured_graph_is_refused(kernel, device, monkeypatch):
    if kernel == "Triton's" and not installed("triton"):
        pytest.skip("Triton is not installed")
    module = getattr(torch, device)
    monkeypatch.setattr(module, "is_current_stream_capturing", lambda: True)
    used = KERNEL if kernel == "Triton's" else TorchKernel()
    with pytest.raises(RuntimeError, match="the same noise in every replay"):
        used.plan(torch.zeros(1, 8), neftune(), None, torch.device(device))


def graphs_of(function):
    """A function compiled by AOTAutograd, and the graphs of its forward passes."""
    from functorch.compile import make_boxed_func  # noqa: PLC0415
    from torch._dynamo.backends.common import aot_autograd  # noqa: PLC0415

    graphs = []

    def keep(graph, inputs):
        graphs.append(graph)
        return make_boxed_func(graph.forward)

    def rest(graph, inputs):
        return make_boxed_func(graph.forward)

    backend = aot_autograd(fw_compiler=keep, bw_compiler=rest)
    return torch.compile(function, backend=backend, fullgraph=True), graphs


def names(graph):
    return [str(node.target) for node in graph.graph.nodes if node.op == "call_function"]


@needs_triton
def test_a_compiled_lookup(gpu):
    """Two operators, of which the second, and only that, may be in a CUDA graph."""
    from torch._inductor.utils import get_first_incompatible_cudagraph_node  # noqa: PLC0415

    table, ids = nn.Embedding(11, 13), IDS["[B, L]"]
    expected = [add_noise(embedding(ids, table.weight).detach(), neftune(), step=n) for n in (0, 1)]
    with attach(table, neftune(), calls_per_step=1):
        fast, graphs = graphs_of(table)
        for each in expected:
            out = fast(ids)
            out.sum().backward()
            assert torch.equal(out, each)
    (graph,) = graphs
    ours = [name for name in names(graph) if name.startswith("embnoise")]
    assert ours == ["embnoise.plan.default", "embnoise.lookup.default"]
    # Without partitions, Inductor makes no CUDA graph of it.
    assert get_first_incompatible_cudagraph_node(graph).target is torch.ops.embnoise.plan.default
    unsafe = torch.Tag.cudagraph_unsafe
    assert unsafe in torch.ops.embnoise.plan.default.tags
    assert unsafe not in torch.ops.embnoise.lookup.default.tags
    counts = torch.tensor([1.0, 1, 0, 3, 0, 1, 0, 1, 0, 0, 1])
    assert torch.equal(table.weight.grad, 2 * counts[:, None].expand(11, 13))


@needs_triton
def test_a_lookup_compiled_by_inductor(gpu):
    """The lookup without noise, whose gradient it has, is not made."""
    from torch._inductor.utils import run_and_get_code  # noqa: PLC0415

    table, ids = nn.Embedding(11, 13), IDS["[B, L]"]
    expected = add_noise(embedding(ids, table.weight).detach(), neftune(), step=0)
    with attach(table, neftune()):
        out, codes = run_and_get_code(torch.compile(table), ids)
    assert torch.equal(out, expected)
    assert "cpp_fused" not in codes[0]
    assert "empty_strided_cpu((" not in codes[0]


FUNCTIONS = {
    "attach": lambda table, noise: attach(table, noise, calls_per_step=1) and table,
    "EmbeddingNoise": lambda table, noise: nn.Sequential(table, EmbeddingNoise(noise)),
}


@pytest.mark.parametrize("device", ["gpu", "other"])
@pytest.mark.parametrize("kind", FUNCTIONS)
def test_compiled_noise_is_the_same_and_new_in_every_call(device, kind, request):
    if device == "gpu" and not installed("triton"):
        pytest.skip("Triton is not installed")
    noises = [neftune(), Noise(0.1, scale="relative")]
    tables = [nn.Embedding(11, 13) for _ in noises]
    ids = IDS["[B, L]"]
    expected = [
        [add_noise(embedding(ids, table.weight).detach(), noise, step=n) for n in range(3)]
        for table, noise in zip(tables, noises, strict=True)
    ]
    request.getfixturevalue(device)
    for table, noise, own in zip(tables, noises, expected, strict=True):
        fast, graphs = graphs_of(FUNCTIONS[kind](table, noise))
        for each in own:
            assert torch.equal(fast(ids), each)
        assert len(graphs) == 1
        seen = names(graphs[0])
        assert "embnoise.plan.default" in seen
        assert not [name for name in seen if name.startswith("embnoise.apply_")]
        if device == "other":  # the compiler sees what it is made of
            assert seen.count("aten.bitwise_xor.Tensor") == 20
            assert [name for name in seen if name.startswith("embnoise")] == [
                "embnoise.plan.default"
            ]


@pytest.mark.sweep
@pytest.mark.parametrize("device", ["gpu", "other"])
def test_a_compiled_model_with_lengths_that_vary(device, request):
    """It compiles as often as on the CPU, and gives the same."""
    if device == "gpu" and not installed("triton"):
        pytest.skip("Triton is not installed")
    model = llama()

    def run():
        torch._dynamo.reset()
        fast, counter = compiled(model)
        losses = []
        with attach(model, neftune()):
            for length in (5, 6, 9):
                ids = batch(length=length)
                out = fast(input_ids=ids, attention_mask=torch.ones_like(ids), labels=ids)
                out.loss.backward()
                losses.append(out.loss.item())
        return counter.frame_count, losses

    expected = run()
    request.getfixturevalue(device)
    assert run() == expected


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float16])
@pytest.mark.parametrize("distribution", ["uniform", "rademacher", "gaussian"])
def test_a_device_without_float64(dtype, distribution, request, monkeypatch):
    generator = torch.Generator().manual_seed(0)
    x = torch.randn(3, 50, 37, generator=generator).to(dtype)
    mask = torch.rand(3, 50, generator=generator) < 0.8
    noise = Noise(20.0, distribution=distribution)
    expected = add_noise(x, noise, step=5, mask=mask)
    request.getfixturevalue("other")
    monkeypatch.setattr("embnoise_torch.namespace._WITHOUT_FLOAT64", ("cpu",))
    seen = add_noise(x, noise, step=5, mask=mask)
    assert torch.equal(bits(seen), bits(expected))


@pytest.mark.parametrize(
    "dtype", [torch.float32, pytest.param(torch.bfloat16, marks=pytest.mark.sweep)]
)
def test_inductor_fuses_the_noise_into_one_loop(dtype, other):
    """Beside the output, one array of its size is written, and eight of an eighth of that."""
    from torch._inductor.utils import run_and_get_code  # noqa: PLC0415

    table, ids = nn.Embedding(11, 24, dtype=dtype), IDS["[B, L]"]
    expected = add_noise(embedding(ids, table.weight).detach(), neftune(), step=0)
    with attach(table, neftune()):
        out, codes = run_and_get_code(torch.compile(table), ids)
    assert torch.equal(bits(out), bits(expected))
    forward = codes[0][codes[0].index("def call(") :]
    made = re.findall(r"= empty_\w+\(\((\d+), (\d+)\)", forward)
    assert sum(int(rows) * int(width) for rows, width in made) <= 3 * out.numel()
    assert "embnoise.plan" in forward
    assert "aten.embedding" not in forward  # it is part of the loop
    assert forward.count("cpp_fused") == 1


def test_the_operators_follow_the_rules_of_pytorch(request):
    """``opcheck``, with a source that does not count, since it calls them again."""
    if installed("triton"):
        request.getfixturevalue("gpu")
    from embnoise_torch.tracing.pure import pure_source  # noqa: PLC0415

    number = pure_source(neftune()).number
    table, ids = torch.randn(11, 8), IDS["[B, L]"]
    arrays = [torch.tensor(3), None, None, None, None, None]
    plan = torch.ops.embnoise.plan(ids, None, 8, arrays, number, 0)
    torch.library.opcheck(torch.ops.embnoise.plan.default, (ids, None, 8, arrays, number, 0))
    if installed("triton"):
        flat = ids.reshape(-1)
        torch.library.opcheck(torch.ops.embnoise.lookup.default, (table, flat, plan, number))
        torch.library.opcheck(torch.ops.embnoise.from_plan.default, (table[flat], plan, number))
    assert planned.plan_of(None, table[ids], neftune(), ids.device).eq(0).all()
