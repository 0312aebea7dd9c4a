"""DeepSpeed's ZeRO 1, 2 and 3: one step of the engine is one step of the noise."""

import importlib.util
import itertools
import os
import warnings

import pytest
import torch
from accelerate.state import DistributedType, PartialState
from torch import nn
from torch.multiprocessing import spawn
from transformers.integrations.deepspeed import unset_hf_deepspeed_config

from embnoise import linear, neftune
from embnoise_torch import add_noise, attach
from embnoise_torch.transformers import NoiseCallback
from tests.torch.models import Embedder, batch, llama
from tests.torch.training import ROWS, counts, trainer

WORLD = 2
NOISE = neftune(alpha=linear(9.0, 0.0, 9))

pytestmark = pytest.mark.skipif(
    importlib.util.find_spec("deepspeed") is None, reason="DeepSpeed is not installed"
)


class Model(nn.Module):
    """Returns the noise, exactly: its table is zero, and stays so."""

    def __init__(self):
        super().__init__()
        self.embedder = Embedder()
        self.head = nn.Linear(8, 1)
        nn.init.zeros_(self.embedder.embed.weight)

    def forward(self, input_ids):
        self.seen = self.embedder(input_ids)
        return self.head(self.seen).square().mean()


KINDS = {
    "the engine": lambda model, engine: engine,
    "its optimizer": lambda model, engine: engine.optimizer,
    "the one inside": lambda model, engine: model.optimizer,
    "the engine, later": lambda model, engine: lambda: engine,
    "the one inside, later": lambda model, engine: lambda: model.optimizer,
}
"""What a user may pass as ``optimizer=``."""


def settings(stage, dtype=torch.float32):
    return {
        "train_micro_batch_size_per_gpu": 2,
        "gradient_accumulation_steps": 2,
        "gradient_clipping": 1.0,
        "bf16": {"enabled": dtype is torch.bfloat16},
        "zero_allow_untested_optimizer": True,
        "zero_optimization": {"stage": stage, "stage3_param_persistence_threshold": 0},
    }


def check_engine(deepspeed, rank, stage, kind, dtype):
    case = stage, kind, dtype
    model = Model()
    groups = [{"params": list(part.parameters())} for part in (model.embedder, model.head)]
    model.optimizer = torch.optim.SGD(groups, lr=0.0)
    engine, *_ = deepspeed.initialize(
        model=model, optimizer=model.optimizer, config=settings(stage, dtype)
    )
    handle = attach(engine, NOISE, optimizer=KINDS[kind](model, engine))
    ids, steps = batch(rows=8), []
    for step in range(3):
        whole = add_noise(torch.zeros(8, 8, 8, dtype=dtype), NOISE, step=step)
        for first in (rank, 2 * WORLD + rank):
            if stage == 3:
                assert model.embedder.embed.weight.numel() == 0
            mine = slice(first, first + 2 * WORLD, WORLD)  # as DistributedSampler deals them
            engine.backward(engine(ids[mine]))
            assert torch.equal(model.seen.detach(), whole[mine]), case
            engine.step()
        steps.append((handle.step, engine.global_steps))
    assert steps == [(1, 1), (2, 2), (3, 3)], (case, steps)
    assert handle.lookups == 6
    if stage == 3:
        assert list(handle.noise_ratios().values()) == [None]
    handle.remove()
    engine.backward(engine(ids[:2]))
    assert not model.seen.any()
    assert "step" not in vars(engine.optimizer)
    engine.destroy()


def check_trainer(rank, folder, stage, way):
    model, seen = llama(), []
    clean = model.model.embed_tokens.weight.detach().clone()
    callback = NoiseCallback(neftune(alpha=linear(9.0, 0.0)))
    work = trainer(
        folder, model, *([callback] if way == "callback" else []),
        use_cpu=False, rows=ROWS * 2, gradient_accumulation_steps=2, learning_rate=0.0,
        deepspeed=settings(stage),
    )  # fmt: skip
    model.model.embed_tokens.register_forward_hook(
        lambda module, args, output: seen.append((args[0], output.detach().clone()))
    )
    noise = neftune(linear(9.0, 0.0, 3), seed=42)
    if way == "callback":
        work.train()
        handle, block = callback.handle, 2
    else:
        with attach(model, noise, optimizer=lambda: work.optimizer) as handle:
            work.train()
        block = 1
    assert counts(handle) == (3, 0.0, 6), way
    for number, (ids, noisy) in enumerate(seen):
        step, micro = divmod(number, 2)
        samples = torch.arange(2) + 2 * micro
        samples = (samples // block * WORLD + rank) * block + samples % block
        expected = add_noise(clean[ids], noise, step=step, sample_ids=samples)
        assert torch.equal(noisy, expected), (stage, way, number)
    unset_hf_deepspeed_config()


def _worker(rank, folder, engines, trainers):
    os.environ.update(
        DS_ACCELERATOR="cpu", ACCELERATE_TORCH_DEVICE="cpu", WORLD_SIZE=str(WORLD),
        LOCAL_SIZE=str(WORLD), RANK=str(rank), LOCAL_RANK=str(rank),
    )  # fmt: skip
    import deepspeed  # noqa: PLC0415, it changes the process that imports it

    # It would compile a faster one.
    deepspeed.comm.torch.build_shm_op = lambda: None
    # Accelerate knows no backend for DeepSpeed on a CPU.
    PartialState._prepare_backend = lambda *_, **__: ("gloo", DistributedType.NO)
    torch.set_num_threads(1)
    deepspeed.init_distributed(
        "gloo",
        auto_mpi_discovery=False,
        init_method=f"file://{folder}/store",
        rank=rank,
        world_size=WORLD,
    )
    with warnings.catch_warnings():
        warnings.filterwarnings("error", message="embnoise")
        for case in engines:
            check_engine(deepspeed, rank, *case)
        for case in trainers:
            check_trainer(rank, folder, *case)


@pytest.mark.sweep
def test_zero(tmp_path):
    engines = [
        (1, "the one inside, later", torch.float32),
        (3, "the engine", torch.float32),
    ]
    spawn(_worker, (str(tmp_path), engines, []), nprocs=WORLD)


@pytest.mark.sweep
def test_every_stage_with_every_optimizer(tmp_path):
    stages, dtypes = (1, 2, 3), (torch.float32, torch.bfloat16)
    engines = list(itertools.product(stages, KINDS, dtypes))
    trainers = list(itertools.product(stages, ("callback", "attach")))
    spawn(_worker, (str(tmp_path), engines, trainers), nprocs=WORLD)
