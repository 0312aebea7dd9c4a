"""What ``attach`` and layers on several ranks refuse, since the noise would be wrong."""

from __future__ import annotations

import re

import pytest
import torch
from torch import distributed, nn
from torch.distributed.fsdp import fully_shard
from torch.distributed.pipelining import PipelineStage, ScheduleGPipe
from torch.distributed.tensor import DTensor, Partial, Replicate, Shard, distribute_tensor
from torch.distributed.tensor.parallel import ColwiseParallel, RowwiseParallel, parallelize_module
from torch.nn.parallel import DistributedDataParallel

from embnoise import neftune
from embnoise_torch import EmbeddingNoise, add_noise, attach
from tests.torch.models import Stack
from tests.torch.ranks_table import (
    IDS,
    NOISE,
    POSITIONS,
    columns,
    in_context,
    mesh_of,
    model,
)

ROWWISE = {"embed": RowwiseParallel(input_layouts=Replicate())}


def refused(message: str, error: type[Exception] = ValueError):
    return pytest.raises(error, match=message)


def on_two_ranks() -> None:
    """Everything that two ranks can show."""
    tensor_parallel()
    dtensors()
    sequences()
    contexts()
    pipelines()


def on_four_ranks() -> None:
    """What takes two dimensions to show."""
    mesh = mesh_of(dp=2, tp=2)
    rows = [*mesh["dp"].mesh.tolist()]
    averaged = rf"its gradients are averaged over ranks {re.escape(str(rows))} of 4"
    group = mesh["dp"].get_group()
    for plain in (
        DistributedDataParallel(model(), process_group=group),
        fully_shard(model(), mesh=mesh["dp"]),
    ):
        with refused(f"mesh must be given .*{averaged}"):
            attach(plain, NOISE)
        attach(plain, NOISE, mesh=mesh).remove()
    parallel = parallelize_module(model(), mesh["tp"], ROWWISE)
    with refused("its embeddings are split over ranks .* of 4"):
        attach(parallel, NOISE)
    with refused("mesh says that their samples differ"):
        attach(parallel, NOISE, mesh=mesh_of(a=2, b=2))
    # The shards of both dimensions are told apart, and the other layers are not the embedding's.
    other = nn.Sequential(model(), nn.Linear(9, 2))
    parallelize_module(other, mesh["tp"], {"1": ColwiseParallel()})
    with refused("its parameters are split over ranks"):
        attach(fully_shard(other, mesh=mesh["dp"]), NOISE)


def tensor_parallel() -> None:
    mesh = mesh_of(tp=2)
    late = model()
    with attach(late, NOISE):
        parallelize_module(late, mesh, ROWWISE)
        with refused(r"ranks \[0, 1\] hold parts .* no mesh was given.* after parallelize_module"):
            late(IDS)
    parallel = parallelize_module(model(), mesh, ROWWISE)
    with refused("mesh says that their samples differ"):
        attach(parallel, NOISE, mesh=mesh_of(data=2))
    other = nn.Sequential(model(), nn.Linear(9, 2))
    parallelize_module(other, mesh, {"1": ColwiseParallel()})
    with refused(r"mesh must be given .* its parameters are split over ranks \[0, 1\] of 2"):
        attach(other, NOISE)
    attach(other, NOISE, mesh=mesh).remove()
    with attach(parallel, neftune(scale="relative")), refused("RMS of whole sequences"):
        parallel(IDS)
    with attach(parallel, NOISE):
        compiled = torch.compile(parallel, backend="eager")
        with refused("torch.compile does not support .* Compile the layers", TypeError):
            compiled(IDS)
    stack = parallelize_module(
        Stack(),
        mesh,
        {"embed": RowwiseParallel(input_layouts=Replicate(), output_layouts=Shard(1))},
    )
    with (
        attach(stack, NOISE, layer="blocks.*", at="input", mesh=mesh),
        refused("must see the tokens"),
    ):
        stack(IDS)


def dtensors() -> None:
    mesh = mesh_of(dp=1, tp=2)
    x = torch.zeros(2, 4, 8)
    partial = DTensor.from_local(x, mesh["tp"], [Partial()])
    with refused("a sum over ranks that is still to be taken"):
        add_noise(partial, NOISE, step=0)
    with refused("a sum over ranks that is still to be taken"):
        EmbeddingNoise(NOISE, mesh=mesh["dp"])(partial)
    with refused(r"ranks \[0, 1\] hold parts of the same embeddings"):
        EmbeddingNoise(NOISE)(distribute_tensor(x, mesh["tp"], [Shard(1)]))
    whole = distribute_tensor(x, mesh["tp"], [Replicate()])
    with refused("RMS of whole sequences"):
        add_noise(whole, neftune(scale="relative"), step=0)


def sequences() -> None:
    mesh, here = mesh_of(dp=1, cp=2), columns(balanced=False)
    plain, mine = model(), IDS[:, here]
    with attach(plain, NOISE, mesh=mesh) as handle:
        with refused("same tokens at the same positions. Cut the sequences"):
            plain(IDS, position_ids=POSITIONS)
        with refused("nothing tells which tokens this rank holds: pass position_ids"):
            plain(mine)
        with refused("position_ids must go up by 1"):
            plain(mine, position_ids=POSITIONS[:, here].flip(1))
        with refused("cu_seq_lens_q cannot be read"):
            plain(mine, position_ids=POSITIONS[:, here], cu_seq_lens_q=torch.tensor([0, 8]))
        assert handle.lookups == 0
        with refused("not supported under transformations", RuntimeError):
            torch.func.functionalize(plain)(mine)
    layer = EmbeddingNoise(NOISE, mesh=mesh)
    with refused("not supported under transformations", RuntimeError):
        torch.func.grad(lambda x: layer(x).sum())(torch.zeros(2, 4, 8))
    with attach(plain, neftune(scale="relative"), mesh=mesh), refused("RMS of whole sequences"):
        plain(mine, position_ids=POSITIONS[:, here])
    with refused("along one dimension, got"):
        attach(plain, NOISE, mesh=FakeMesh())


class FakeMesh:
    """A mesh of four ranks, of which there are two."""

    mesh_dim_names = ("cp", "sp")
    ndim, shape = 2, (2, 2)
    mesh = torch.arange(4).view(2, 2)

    def get_coordinate(self):
        return [0, 0]

    def size(self, dim=None):
        return 2


def contexts() -> None:
    mesh, plain = mesh_of(dp=1, cp=2), model()
    x = torch.zeros(*IDS.shape, 4)
    layer = EmbeddingNoise(NOISE)
    for run, message in (
        (plain, "dimension named 'cp' inside of context_parallel"),
        (lambda ids: layer(x[:, : ids.shape[1]]), "dimension named 'cp'"),
        (lambda ids: layer(x[:, : ids.shape[1]], step=1), "dimension named 'cp'"),
        (lambda ids: add_noise(x, NOISE, step=0), "positions must be given"),
        (lambda ids: torch.compile(add_noise, backend="eager")(x, NOISE, step=0), "positions must"),
        (
            lambda ids: add_noise(x, NOISE, step=0, positions=POSITIONS),
            "must not depend on the length of whole sequences",
        ),
    ):
        with attach(plain, NOISE, mesh=mesh["dp"]), refused(message):
            in_context(mesh["cp"], True, run, IDS)
    plain(IDS)  # outside of it, nothing is asked


def pipelines() -> None:
    with refused("found no nn.Embedding .* layer=.* In a pipeline, attach to the stage that"):
        attach(nn.Linear(2, 2), NOISE)
    group = [distributed.new_group([each]) for each in range(2)][distributed.get_rank()]
    plain = model()
    stage = PipelineStage(plain, 0, 1, torch.device("cpu"), group=group)
    schedule = ScheduleGPipe(stage, n_microbatches=2, loss_fn=lambda y, _: y.sum())
    with attach(plain, NOISE), refused("mesh must be given for a stage of a pipeline", Exception):
        schedule.step(IDS, target=torch.zeros(len(IDS)))
