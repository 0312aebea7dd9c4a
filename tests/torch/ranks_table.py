"""Ways to run a model on several ranks, and whether each gives the bits of one process.

``python -m tests.torch.ranks_table`` runs all of them and writes the table in
``docs/distributed.md``.
"""

from __future__ import annotations

import os
import sys
import tempfile
import traceback
import warnings
from collections.abc import Callable, Iterable
from datetime import timedelta
from functools import partial
from pathlib import Path
from typing import Any, NamedTuple

import torch
import torch.multiprocessing
from torch import Tensor, distributed, nn
from torch.distributed.device_mesh import init_device_mesh
from torch.distributed.fsdp import fully_shard
from torch.distributed.pipelining import PipelineStage, Schedule1F1B, ScheduleGPipe
from torch.distributed.tensor import Replicate, Shard, distribute_tensor
from torch.distributed.tensor.experimental import context_parallel
from torch.distributed.tensor.experimental._attention import _cp_options
from torch.distributed.tensor.parallel import ColwiseParallel, RowwiseParallel, parallelize_module
from torch.nn.parallel import DistributedDataParallel
from torch.utils.checkpoint import checkpoint

from embnoise import neftune
from embnoise_torch import EmbeddingNoise, add_noise, attach
from embnoise_torch.kernels import register_kernel
from embnoise_torch.kernels.any_torch import TorchKernel
from tests.torch.models import Embedder, Stack, batch, llama

PAGE = Path(__file__).parents[2] / "docs" / "distributed.md"
BEGIN, END = "<!-- ranks: begin -->\n", "<!-- ranks: end -->\n"

NOISE = neftune(alpha=5.0)
ROWS, LENGTH, DIM = 8, 8, 9
IDS = batch(ROWS, LENGTH)
REAL = torch.tensor([8, 5, 8, 3, 1, 8, 7, 6])
MASK = (torch.arange(LENGTH) < REAL[:, None]).long()
POSITIONS = torch.arange(LENGTH).repeat(ROWS, 1)
DOCUMENTS = torch.cat([torch.arange(3), torch.arange(5)]).repeat(ROWS, 1)
SEGMENTS = 1 + (torch.arange(LENGTH) > 2).long().repeat(ROWS, 1)

Sides = tuple[Tensor, Tensor]
"""What this rank computed, and the same part of what one process computes."""


class Way(NamedTuple):
    """One way to run a model on several ranks."""

    name: str
    mesh: str
    """What ``attach`` is told."""
    processes: int
    slow: bool
    """Whether it needs imports that take seconds."""
    run: Callable[[], Sides]


WAYS: list[Way] = []


def way(
    name: str, mesh: str = "", processes: int = 2, *, slow: bool = False
) -> Callable[[Callable], Callable]:
    """Register a function as a way."""

    def register(run):
        WAYS.append(Way(name, mesh, processes, slow, run))
        return run

    return register


def model(dtype=torch.float32) -> Embedder:
    torch.manual_seed(0)
    return Embedder(DIM).to(dtype)


def alone(dtype=torch.float32, **tokens: Tensor) -> Tensor:
    """What one process computes for the whole batch."""
    x = nn.functional.embedding(IDS, model(dtype).embed.weight).detach()
    return add_noise(x, NOISE, step=0, **tokens)


def rank() -> int:
    return distributed.get_rank()


def mesh_of(**dims: int):
    return init_device_mesh("cpu", tuple(dims.values()), mesh_dim_names=tuple(dims))


def dealt(array: Tensor, index: int | None = None) -> Tensor:
    """The rows of one of two ranks, as DistributedSampler deals them."""
    return array[rank() if index is None else index :: 2]


def chunk(array: Tensor, dim: int, index: int | None = None) -> Tensor:
    """What one of two ranks holds of a DTensor."""
    return array.chunk(2, dim)[rank() if index is None else index]


def local(x: Tensor) -> Tensor:
    return x.detach().clone()


@way("`DistributedDataParallel`, attached before or after")
def ddp():
    seen = []
    ids, mask = dealt(IDS), dealt(MASK)
    for first in (True, False):
        plain = model()
        if not first:
            wrapped = DistributedDataParallel(plain)
        with attach(plain if first else wrapped, NOISE):
            if first:
                wrapped = DistributedDataParallel(plain)
            seen += [wrapped(ids[:2], mask[:2]), wrapped(ids[2:], mask[2:])]
    return local(torch.cat(seen)), dealt(alone(mask=MASK)).repeat(2, 1, 1)


@way("`fully_shard`, attached before, after, and again after `remove()`")
def fsdp():
    seen = []
    ids, mask = dealt(IDS), dealt(MASK)
    for first in (True, False):
        sharded = model()
        handle = attach(sharded, NOISE) if first else None
        fully_shard(sharded.embed)
        fully_shard(sharded)
        handle = handle or attach(sharded, NOISE)
        seen.append(local(sharded(ids, mask)))
        handle.remove()
        clean = nn.functional.embedding(ids, model().embed.weight)
        assert torch.equal(sharded(ids, mask), clean)
        with attach(sharded, NOISE):
            seen.append(local(sharded(ids, mask)))
    return torch.cat(seen), dealt(alone(mask=MASK)).repeat(4, 1, 1)


_OUTPUTS = {"replicated": Replicate(), "cut along L": Shard(1), "cut along d": Shard(2)}


def tensor_parallel(style, placement, dtype) -> Sides:
    plan = {"embed": style(input_layouts=Replicate(), output_layouts=placement)}
    parallel, looked_up = model(dtype), []
    parallel.embed.register_forward_hook(lambda *call: looked_up.append(local(call[-1].to_local())))
    parallelize_module(parallel, mesh_of(tp=2), plan)
    with attach(parallel, NOISE) as handle:
        noisy = local(parallel(IDS, MASK))
        assert handle.lookups == 1
    table = parallel.embed.weight
    if table.placements == (Shard(0),):  # of tokens in the other rank's part, nothing gets noise
        theirs = (len(table) <= IDS * 2) == (rank() == 0)
        held = looked_up[0][theirs]
        assert torch.equal(held, table.to_local()[0].expand_as(held))
    expected = alone(dtype, mask=MASK)
    return noisy, expected if placement.is_replicate() else chunk(expected, placement.dim)


def in_both_dtypes(run: Callable[..., Sides]) -> Sides:
    pairs = [run(dtype=dtype) for dtype in (torch.float32, torch.bfloat16)]
    seen, expected = zip(*pairs, strict=True)
    return torch.cat([each.float() for each in seen]), torch.cat(
        [each.float() for each in expected]
    )


for _style in (RowwiseParallel, ColwiseParallel):
    for _output, _placement in _OUTPUTS.items():
        way(f"`{_style.__name__}` embedding, output {_output}")(
            partial(in_both_dtypes, partial(tensor_parallel, _style, _placement))
        )


@way("`ColwiseParallel` embedding, model under `torch.compile`")
def compiled():
    parallel = parallelize_module(model(), mesh_of(tp=2), {"embed": ColwiseParallel()})
    seen = torch.compile(parallel, backend="eager")
    with attach(parallel, NOISE):
        noisy = local(seen(IDS, MASK))
    return noisy, chunk(alone(mask=MASK), 2)


@way("DTensors in `EmbeddingNoise` and `add_noise`", 'mesh["dp"]')
def dtensors():
    mesh = mesh_of(dp=1, tp=2)
    x = nn.functional.embedding(IDS, model().embed.weight).detach()
    seen = []
    for placement in (Replicate(), Shard(0), Shard(1), Shard(2)):
        sharded = distribute_tensor(x, mesh["tp"], [placement])
        layer = EmbeddingNoise(NOISE, mesh=mesh["dp"])
        for noisy in (layer(sharded, mask=MASK), add_noise(sharded, NOISE, step=0, mask=MASK)):
            assert noisy.placements == (placement,)
            seen.append(noisy.full_tensor())
    return torch.cat(seen), alone(mask=MASK).repeat(8, 1, 1)


def columns(balanced: bool, index: int | None = None) -> Tensor:
    """The tokens of a row that one of two ranks holds."""
    index = rank() if index is None else index
    if not balanced:
        return torch.arange(LENGTH).chunk(2)[index]
    chunks = torch.arange(LENGTH).chunk(4)
    return torch.cat([chunks[index], chunks[3 - index]])


def in_context(mesh, balanced: bool, run, *arrays: Tensor) -> Tensor:
    """What ``run`` returns inside of ``context_parallel``, which cuts the arrays."""
    cut = [each.clone() for each in arrays]
    _cp_options.enable_load_balance = balanced
    with context_parallel(mesh, buffers=cut, buffer_seq_dims=[1] * len(cut)):
        return local(run(*cut))


def with_mask(plain, ids, mask, positions):
    return plain(ids, mask, position_ids=positions)


def with_mask_alone(plain, ids, mask):
    return plain(ids, mask)


def with_documents(plain, ids, positions):
    return plain(ids, position_ids=positions)


_CONTEXTS = {
    "a padding mask": (with_mask, (MASK, POSITIONS), {"mask": MASK}),
    "a padding mask and no position ids": (with_mask_alone, (MASK,), {"mask": MASK}),
    "packed documents": (with_documents, (DOCUMENTS,), {"segment_ids": SEGMENTS}),
}


def context(balanced: bool, call, arrays, tokens) -> Sides:
    mesh = mesh_of(dp=1, cp=2)
    plain = model()
    with attach(plain, NOISE, mesh=mesh):
        noisy = in_context(mesh["cp"], balanced, partial(call, plain), IDS, *arrays)
    return noisy, alone(**tokens)[:, columns(balanced)]


for _balanced in (False, True):
    for _name, _context in _CONTEXTS.items():
        way(f"`context_parallel`{', load-balanced' if _balanced else ''}, with {_name}", "mesh")(
            partial(context, _balanced, *_context)
        )


@way("Hidden states, inside of `context_parallel`, load-balanced", "mesh")
def hidden_states():
    mesh, stack = mesh_of(dp=1, cp=2), Stack()
    with attach(stack, NOISE, layer="blocks.*", at="input", mesh=mesh):
        in_context(mesh["cp"], True, partial(with_mask_alone, stack), IDS, MASK)
    x = nn.functional.embedding(IDS, stack.embed.weight).detach()
    whole = add_noise(x, NOISE, step=0, mask=MASK)
    return local(stack.blocks[0].seen[0]), whole[:, columns(balanced=True)]


@way("Sequences that you cut yourself, with position ids", "mesh")
def cut_sequences():
    plain, here = model(), columns(balanced=False)
    with attach(plain, NOISE, mesh=mesh_of(dp=1, cp=2)) as handle:
        noisy = plain(IDS[:, here], MASK[:, here], position_ids=POSITIONS[:, here])
        assert handle.noise_ratios()["embed"] > 0
    return local(noisy), alone(mask=MASK)[:, here]


@way("The same through the GPU's kernels, interpreted, and compiled", "mesh", slow=True)
def cut_sequences_on_a_gpu():
    from tests.torch.triton_code import interpreted_kernel, rounding_as_gpus_do  # noqa: PLC0415

    kernel, here = interpreted_kernel(), columns(balanced=False)
    mesh, seen = mesh_of(dp=1, cp=2), []
    try:
        for each in (kernel, TorchKernel()):
            register_kernel("cpu", "of a GPU", lambda each=each: each, priority=99)
            for compiling in (False, True):
                plain = model()
                run = torch.compile(plain, backend="aot_eager") if compiling else plain
                with attach(plain, NOISE, mesh=mesh), rounding_as_gpus_do():
                    noisy = run(IDS[:, here], MASK[:, here], position_ids=POSITIONS[:, here])
                seen.append(local(noisy))
    finally:
        register_kernel("cpu", "of a GPU", lambda: None, priority=99)
    return torch.cat(seen), alone(mask=MASK)[:, here].repeat(4, 1, 1)


@way("`EmbeddingNoise` on sequences that are cut, with `positions=`", "mesh")
def cut_layer():
    here = columns(balanced=True)
    layer = EmbeddingNoise(NOISE, mesh=mesh_of(dp=1, cp=2))
    x = nn.functional.embedding(IDS[:, here], model().embed.weight).detach()
    tokens = {"mask": MASK[:, here], "positions": POSITIONS[:, here]}
    seen = torch.cat([layer(x, **tokens), layer(x, step=0, **tokens)])
    return seen, alone(mask=MASK, positions=POSITIONS)[:, here].repeat(2, 1, 1)


class Stage(nn.Module):
    """The first stage of a pipeline, recomputed in the backward pass."""

    def __init__(self, plain):
        super().__init__()
        self.plain = plain

    def forward(self, input_ids, attention_mask=None):
        return checkpoint(self._squares, input_ids, attention_mask, use_reentrant=False)

    def _squares(self, ids, mask):
        return self.plain(ids, mask).square()  # whose gradient needs what is recomputed


def pipeline(schedule, mesh, ids: Tensor, mask: Tensor) -> Tensor:
    """What the embedding of the first stage returned, in two steps; nothing on other stages."""
    index, seen = mesh["pp"].get_local_rank(), []
    stage = Stage(model()) if index == 0 else nn.Linear(DIM, 1)
    handle = None
    if index == 0:
        optimizer = torch.optim.SGD(stage.parameters(), lr=0.0)
        handle = attach(stage, NOISE, mesh=mesh, optimizer=optimizer)
        stage.plain.embed.register_forward_hook(lambda *call: seen.append(local(call[-1])))
    runtime = PipelineStage(stage, index, 2, torch.device("cpu"), group=mesh["pp"].get_group())
    schedule = schedule(runtime, n_microbatches=4, loss_fn=lambda y, _: y.sum())
    if index == 0:
        schedule.step(ids, attention_mask=mask)
        optimizer.step()
        assert handle.step == 1
        handle.remove()
        # Before the first step, the first micro-batch is run once to learn the shapes.
        rehearsal, *seen = seen
        assert torch.equal(rehearsal, seen[0])
        first = [each for i, each in enumerate(seen) if not _is_among(each, seen[:i])]
        assert len(seen) == 2 * len(first)  # each is recomputed
        return torch.cat(first)
    schedule.step(target=torch.zeros(len(ids)))
    return torch.empty(0)


def _is_among(x: Tensor, others: list[Tensor]) -> bool:
    return any(torch.equal(x, each) for each in others)


def stages(schedule) -> Sides:
    mesh = mesh_of(dp=1, pp=2)
    seen = pipeline(schedule, mesh, IDS, MASK)
    return seen, alone(mask=MASK) if rank() == 0 else torch.empty(0)


for _schedule in (ScheduleGPipe, Schedule1F1B):
    way(f"Pipeline stages, `{_schedule.__name__}`, recomputed", "mesh")(partial(stages, _schedule))


@way("dp x tp: `fully_shard` of a `RowwiseParallel` embedding", processes=4)
def fsdp_of_tensor_parallel():
    mesh = mesh_of(dp=2, tp=2)
    plan = {"embed": RowwiseParallel(input_layouts=Replicate(), output_layouts=Shard(1))}
    parallel = parallelize_module(model(), mesh["tp"], plan)
    fully_shard(parallel, mesh=mesh["dp"])
    at, across = mesh.get_coordinate()
    with attach(parallel, NOISE):
        noisy = local(parallel(dealt(IDS, at), dealt(MASK, at)))
    return noisy, chunk(dealt(alone(mask=MASK), at), 1, across)


@way("dp x tp, of a `ColwiseParallel` embedding", "mesh", processes=4)
def told_tensor_parallel():
    mesh = mesh_of(dp=2, tp=2)
    parallel = parallelize_module(model(), mesh["tp"], {"embed": ColwiseParallel()})
    at, across = mesh.get_coordinate()
    with attach(parallel, NOISE, mesh=mesh):
        noisy = local(parallel(dealt(IDS, at), dealt(MASK, at)))
    return noisy, chunk(dealt(alone(mask=MASK), at), 2, across)


@way("Replicas of shards: `fully_shard` over two dimensions (HSDP)", processes=4)
def hybrid():
    sharded = fully_shard(model(), mesh=mesh_of(replicate=2, shard=2))
    with attach(sharded, NOISE):
        noisy = local(sharded(IDS[rank() :: 4], MASK[rank() :: 4]))
    return noisy, alone(mask=MASK)[rank() :: 4]


@way("dp x cp: `fully_shard` over both, `context_parallel`", "mesh", processes=4)
def fsdp_and_context():
    mesh = mesh_of(dp=2, cp=2)
    sharded = fully_shard(model(), mesh=mesh["dp", "cp"]._flatten("dp_cp"))
    at, across = mesh.get_coordinate()
    with attach(sharded, NOISE, mesh=mesh):
        arrays = (dealt(each, at) for each in (IDS, MASK, POSITIONS))
        noisy = in_context(mesh["cp"], True, partial(with_mask, sharded), *arrays)
    return noisy, dealt(alone(mask=MASK), at)[:, columns(balanced=True, index=across)]


@way("cp x tp: `context_parallel` of a `RowwiseParallel` embedding", "mesh", processes=4)
def context_of_tensor_parallel():
    mesh = mesh_of(cp=2, tp=2)
    plan = {"embed": RowwiseParallel(input_layouts=Replicate(), output_layouts=Shard(1))}
    parallel = parallelize_module(model(), mesh["tp"], plan)
    at, across = mesh.get_coordinate()
    with attach(parallel, NOISE, mesh=mesh):
        noisy = in_context(mesh["cp"], True, partial(with_mask, parallel), IDS, MASK, POSITIONS)
    return noisy, chunk(alone(mask=MASK)[:, columns(balanced=True, index=at)], 1, across)


@way("dp x pp: pipelines of two stages, `Schedule1F1B`", "mesh", processes=4)
def pipelines():
    mesh = mesh_of(dp=2, pp=2)
    at, stage = mesh.get_coordinate()
    seen = pipeline(Schedule1F1B, mesh, dealt(IDS, at), dealt(MASK, at))
    return seen, torch.empty(0) if stage else dealt(alone(mask=MASK), at)


def transformers_tensor_parallel(plan: str | dict[str, str]) -> Sides:
    from transformers import LlamaForCausalLM  # noqa: PLC0415, slow to import
    from transformers.distributed import DistributedConfig  # noqa: PLC0415

    plain = llama()
    plain.save_pretrained("llama")  # which only the first rank does
    distributed.barrier()
    config = DistributedConfig(tp_plan=plan, tp_size=2)
    parallel = LlamaForCausalLM.from_pretrained("llama", distributed_config=config).train()
    seen = []
    with attach(parallel, NOISE):
        table = parallel.get_input_embeddings()
        table.register_forward_hook(lambda *call: seen.append(local(call[-1])))
        parallel(input_ids=IDS, attention_mask=MASK, labels=IDS).loss.backward()
    x = nn.functional.embedding(IDS, plain.get_input_embeddings().weight).detach()
    return seen[0], add_noise(x, NOISE, step=0, mask=MASK)


for _name, _plan in (
    ("auto", "auto"),
    ("embedding_rowwise", {"model.embed_tokens": "embedding_rowwise"}),
):
    way(f"transformers with `tp_plan`, `{_name}`", slow=True)(
        partial(transformers_tensor_parallel, _plan)
    )


@way("The mesh of Accelerate's `ParallelismConfig`, dp x cp", "mesh", processes=4, slow=True)
def accelerate_mesh():
    from accelerate import ParallelismConfig  # noqa: PLC0415, slow to import

    mesh = ParallelismConfig(dp_shard_size=2, cp_size=2).build_device_mesh("cpu")
    sharded = fully_shard(model(), mesh=mesh["dp_shard_cp"])
    at, across = mesh.get_coordinate()
    with attach(sharded, NOISE, mesh=mesh):
        arrays = (dealt(each, at) for each in (IDS, MASK, POSITIONS))
        noisy = in_context(mesh["cp"], True, partial(with_mask, sharded), *arrays)
    return noisy, dealt(alone(mask=MASK), at)[:, columns(balanced=True, index=across)]


_WARNINGS = (
    "FSDP2-wrapped module .* returned a view tensor",  # nothing is done to it in place
    "The .grad attribute of a Tensor that is not a leaf",  # compilers ask for that of DTensors
    "Slicing a flattened dim from root mesh",  # as Accelerate does
)
"""Of PyTorch and others, about themselves."""


def _worker(
    index: int, processes: int, folder: str, slow: bool, also: Callable[[], None] | None
) -> None:
    warnings.simplefilter("error")
    for message in _WARNINGS:
        warnings.filterwarnings("ignore", message=message)
    torch.set_num_threads(1)
    os.chdir(folder)
    os.environ.update(RANK=str(index), LOCAL_RANK=str(index), WORLD_SIZE=str(processes))
    distributed.init_process_group(
        "gloo",
        init_method=f"file://{folder}/store",
        rank=index,
        world_size=processes,
        timeout=timedelta(seconds=60),  # for a rank that waits for one that has failed
    )
    found = {}
    for each in WAYS:
        if each.processes == processes and each.slow <= slow:
            try:
                seen, expected = each.run()
                found[each.name] = torch.equal(seen, expected) or f"{seen} is not {expected}"
            except Exception:  # the other ranks go on, and what failed is told by name
                found[each.name] = traceback.format_exc()
    if also is not None:
        also()
    torch.save(found, f"{index}.pt")
    distributed.destroy_process_group()


def run(
    processes: int, *, slow: bool = False, also: Callable[[], None] | None = None
) -> dict[str, str]:
    """Run the ways of so many processes; what went wrong by name, "" if every rank was right.

    Args:
        processes: How many.
        slow: Whether to run the slow ones too.
        also: A function that each of them calls afterwards.
    """
    with tempfile.TemporaryDirectory() as folder:
        arguments = processes, folder, slow, also
        torch.multiprocessing.spawn(_worker, arguments, nprocs=processes, join=True)
        ranks = [torch.load(f"{folder}/{index}.pt") for index in range(processes)]
    return {name: _fault(each[name] for each in ranks) for name in ranks[0]}


def _fault(told: Iterable[Any]) -> str:
    return "\n".join(f"rank {index}: {each}" for index, each in enumerate(told) if each is not True)


def table(faults: dict[str, str]) -> str:
    """The table of all ways."""
    lines = [
        "| Setup | `mesh=` | Processes | Bits of one process |",
        "| --- | --- | --- | --- |",
    ]
    for each in WAYS:
        told = f"`{each.mesh}`" if each.mesh else ""
        same = "no" if faults[each.name] else "yes"
        lines.append(f"| {each.name} | {told} | {each.processes} | {same} |")
    return "\n".join(lines) + "\n"


def main() -> None:
    """Write the table; with ``--check``, print what is wrong and write nothing."""
    faults = run(2, slow=True) | run(4, slow=True)
    for name, fault in faults.items():
        print(f"{name}: {fault or 'same bits'}")
    if "--check" in sys.argv:
        return
    text = PAGE.read_text()
    before, rest = text.split(BEGIN)
    PAGE.write_text(before + BEGIN + table(faults) + END + rest.split(END)[1])


if __name__ == "__main__":
    main()
