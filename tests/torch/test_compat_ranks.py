"""The private parts of PyTorch that several ranks need are still what they were.

If one of these tests fails after an upgrade, change ``embnoise_torch/_compat.py``.
"""

import pytest
import torch
from torch import distributed, nn
from torch.distributed._functional_collectives import AsyncCollectiveTensor
from torch.distributed.device_mesh import init_device_mesh
from torch.distributed.fsdp import fully_shard
from torch.distributed.pipelining import PipelineStage, ScheduleGPipe
from torch.distributed.tensor import Shard, distribute_tensor
from torch.distributed.tensor.experimental import context_parallel
from torch.distributed.tensor.experimental._attention import _cp_options

from embnoise_torch import _compat

CHANGED = "PyTorch changed a private part: see embnoise_torch/_compat.py, "


@pytest.fixture(autouse=True)
def mesh():
    distributed.init_process_group("gloo", store=distributed.HashStore(), rank=0, world_size=1)
    yield init_device_mesh("cpu", (1,))
    distributed.destroy_process_group()


def test_local_part(mesh):
    x = distribute_tensor(torch.arange(6.0).view(2, 3), mesh, [Shard(1)])
    assert _compat.local_part(x) == ((2, 3), (0, 0)), CHANGED + "local_part"
    held = _compat.local_tensor(x.detach())
    held += 1
    assert torch.equal(x.full_tensor(), torch.arange(1.0, 7.0).view(2, 3)), CHANGED + "local_tensor"


def test_is_awaited():
    x = torch.zeros(2)
    assert _compat.is_awaited(AsyncCollectiveTensor(x)), CHANGED + "is_awaited"
    assert type(AsyncCollectiveTensor(x).clone()) is torch.Tensor
    assert not _compat.is_awaited(x)
    assert not _compat.is_awaited(nn.Parameter(x))


def test_fsdp_mesh(mesh):
    sharded = fully_shard(nn.Linear(2, 2), mesh=mesh)
    assert _compat.fsdp_mesh(sharded) == mesh, CHANGED + "fsdp_mesh"
    assert _compat.fsdp_mesh(nn.Linear(2, 2)) is None


@pytest.mark.parametrize("balanced", [False, True])
def test_context_parallel_balances(mesh, balanced, monkeypatch):
    monkeypatch.setattr(_cp_options, "enable_load_balance", balanced)
    assert _compat.context_parallel_balances() is None
    with context_parallel(mesh, buffers=[torch.zeros(1, 4)], buffer_seq_dims=[1]):
        assert _compat.context_parallel_balances() is balanced, CHANGED + "context_parallel"
    assert _compat.context_parallel_balances() is None


def test_pipelines():
    seen = []

    class Stage(nn.Linear):
        def forward(self, x):
            seen.append((_compat.pipeline_stage(), _compat.pipeline_rehearses()))
            return super().forward(x)

    stage = PipelineStage(Stage(2, 2), 0, 1, torch.device("cpu"))
    schedule = ScheduleGPipe(stage, n_microbatches=2, loss_fn=lambda y, _: y.sum())
    schedule.step(torch.zeros(2, 2), target=torch.zeros(2, 2))
    assert seen == [(stage, True), (stage, False), (stage, False)], CHANGED + "pipeline_stage"
    assert (_compat.pipeline_stage(), _compat.pipeline_rehearses()) == (None, False)


def test_deepspeed_cuts_sequences(monkeypatch):
    name = "deepspeed.runtime.sequence_parallel.parallel_state_sp"
    state = pytest.importorskip(name, exc_type=ImportError)
    assert not _compat.deepspeed_cuts_sequences()
    monkeypatch.setattr(state, "_SEQUENCE_PARALLEL_GROUP", object())
    assert _compat.deepspeed_cuts_sequences(), "DeepSpeed changed: see _compat.py"
