"""However a global batch is dealt to ranks, its noise has the same bits, and ids are unique."""

import itertools
import os
import warnings
from functools import partial

import numpy as np
import pytest
import torch
from accelerate import PartialState
from accelerate.data_loader import prepare_data_loader, skip_first_batches
from torch import distributed, nn
from torch.distributed.device_mesh import init_device_mesh
from torch.multiprocessing import spawn
from torch.utils.checkpoint import checkpoint
from torch.utils.data import DataLoader, DistributedSampler, IterableDataset

from embnoise import neftune
from embnoise_torch import EmbeddingNoise, add_noise, attach
from embnoise_torch.ranks.dealing import find_block_size
from embnoise_torch.ranks.sample_ids import SampleIds
from embnoise_torch.transformers import NoiseCallback
from tests.torch.models import Embedder, batch, llama, zeroed
from tests.torch.training import trainer

BATCH = 8
ROWS = 16 + 5  # two global batches, and an uneven rest
IDS = batch(rows=ROWS)


class Stream(IterableDataset):
    def __iter__(self):
        return iter(IDS)


def stream():
    return DataLoader(Stream(), batch_size=4)


def plain(size=4, **options):
    return DataLoader(IDS, batch_size=size, **options)


def place(monkeypatch, rank, ranks):
    monkeypatch.setattr(SampleIds, "_rank_of", lambda ids: (rank, ranks))


@pytest.mark.parametrize(
    ("ranks", "block", "lookups"),
    [
        (1, 4, [4, 4]), (2, 1, [4, 3]), (2, 4, [4, 4, 1]), (4, 3, [2, 5, 3]), (3, 2, [7, 1, 1]),
    ],
)  # fmt: skip
def test_no_two_samples_of_a_step_have_one_id(monkeypatch, ranks, block, lookups):
    """Even if ranks have different numbers of samples."""
    seen = []
    for rank in range(ranks):
        place(monkeypatch, rank, ranks)
        ids, samples = SampleIds(None, block), 0
        for size in lookups[: len(lookups) - rank % 2]:
            first = ids.next_block(samples)
            mine = ids.of_rows(first, np.arange(size))
            assert mine.dtype == np.int64
            assert ids.of_rows(first, torch.arange(size)).tolist() == mine.tolist()
            samples = first + size
            seen.extend(mine.tolist())
    assert len(set(seen)) == len(seen)


@pytest.mark.parametrize("rows", [1, 2])
def test_together_the_ranks_have_the_global_batch(monkeypatch, rows):
    """Also with antithetic noise, whose pairs of rows stay on one rank."""
    for ranks, block in [(2, 4), (4, 2), (2, 1), (8, 1), (2, 2)]:
        if BATCH // ranks % rows:
            continue
        dealt = {}
        for rank in range(ranks):
            place(monkeypatch, rank, ranks)
            ids = SampleIds(None, block, rows=rows)
            for micro in range(2):
                first = ids.next_block(micro * BATCH // ranks)
                dealt[rank, micro] = ids.of_rows(first, np.arange(BATCH // ranks)).tolist()
        for micro in range(2):
            whole = sorted(itertools.chain(*(dealt[rank, micro] for rank in range(ranks))))
            assert whole == list(range(micro * BATCH, (micro + 1) * BATCH)), (ranks, block)


CPU = {"device": torch.device("cpu"), "num_processes": 2, "process_index": 0}
ALONE = {**CPU, "num_processes": 1}

LOADERS = {
    "DistributedSampler": (lambda: plain(sampler=DistributedSampler(IDS, 2, 0)), 1),
    "Accelerate with DistributedSampler": (
        lambda: prepare_data_loader(plain(sampler=DistributedSampler(IDS, 2, 0)), **ALONE), 1,
    ),
    "batches": (lambda: prepare_data_loader(plain(), **CPU), 4),
    "a resumed run": (lambda: skip_first_batches(prepare_data_loader(plain(), **CPU), 1), 4),
    "split batches": (lambda: prepare_data_loader(plain(), split_batches=True, **CPU), 2),
    "stream": (lambda: prepare_data_loader(stream(), **CPU), 4),
    "split stream": (lambda: prepare_data_loader(stream(), split_batches=True, **CPU), 2),
    "dispatched": (
        lambda: prepare_data_loader(plain(), dispatch_batches=True, put_on_device=True, **CPU), 4,
    ),
    "one process": (lambda: prepare_data_loader(plain(), **ALONE), 4),
    "no batch size": (
        lambda: prepare_data_loader(
            DataLoader(IDS, batch_sampler=[[0, 1, 2], [3]]), even_batches=False, **CPU
        ),
        None,
    ),
    "plain": (plain, None),
    "stream of its own": (stream, None),
}  # fmt: skip
"""Loaders of rank 0 of 2, with the size of the blocks that they deal."""


@pytest.mark.parametrize("name", list(LOADERS))
def test_a_loader_says_how_it_deals(name):
    make, block = LOADERS[name]
    assert find_block_size(make()) == block


def test_what_the_ranks_get_is_what_the_loader_says():
    """The ids of the rule are the places of the samples in the data."""
    for split, stream, size in itertools.product((False, True), (False, True), (2, 4)):
        seen = {}
        for rank in range(2):
            loader = prepare_data_loader(
                DataLoader(_Numbers() if stream else list(range(24)), batch_size=size),
                device=torch.device("cpu"), num_processes=2, process_index=rank,
                split_batches=split,
            )  # fmt: skip
            numbers = torch.cat(list(loader))
            block = find_block_size(loader)
            q = torch.arange(12)
            expected = (q // block * 2 + rank) * block + q % block
            assert torch.equal(numbers, expected), (split, stream, size)
            seen[rank] = numbers


class _Numbers(IterableDataset):
    def __iter__(self):
        return iter(range(24))


def test_a_loader_that_does_not_say(monkeypatch):
    place(monkeypatch, 0, 2)
    for make in (partial(attach, Embedder(), neftune()), partial(EmbeddingNoise, neftune())):
        with pytest.raises(ValueError, match=r"dealing must be an integer for a data loader"):
            make(dealing=plain())
        with pytest.raises(ValueError, match=r"dealing must be at least 1, got 0"):
            make(dealing=0)
        with pytest.raises(TypeError, match=r"dealing must be an integer, got 'all'"):
            make(dealing="all")
    place(monkeypatch, 0, 1)
    attach(Embedder(), neftune(), dealing=plain()).remove()


def test_the_handle_says_what_it_assumes(monkeypatch):
    with attach(Embedder(), neftune()) as handle:
        assert "dealing" not in repr(handle)
        place(monkeypatch, 1, 2)
        assert repr(handle).endswith(", rank=1 of 2, dealing=1 (assumed))")
    with attach(Embedder(), neftune(), dealing=4) as handle:
        assert repr(handle).endswith(", rank=1 of 2, dealing=4)")
    layer = EmbeddingNoise(neftune(), dealing=4)
    assert repr(layer).endswith(", rank=1 of 2, dealing=4)")


def test_state_in_the_middle_of_a_step(monkeypatch):
    place(monkeypatch, 1, 2)
    model = zeroed()
    with attach(model, neftune(), dealing=4) as handle:
        model(IDS[:3])  # fewer than a block
        state = handle.state_dict()
        rest = model(IDS[:4])
    with attach(model, neftune(), dealing=4) as handle:
        handle.load_state_dict(state)
        assert torch.equal(model(IDS[:4]), rest)
    whole = add_noise(torch.zeros(16, 8, 8), neftune(), step=0)
    assert torch.equal(rest.detach(), whole[12:])


# On real ranks, whose data come from loaders: of steps of 16 rows, the last one has 5.


def checkpointed(model):
    def call(ids):
        anchor = torch.zeros((), requires_grad=True)

        def body(ids, anchor):
            noisy.append(model(ids).detach().clone())
            return noisy[-1] * anchor

        noisy: list[torch.Tensor] = []
        checkpoint(body, ids, anchor, use_reentrant=False).sum().backward()
        assert torch.equal(*noisy)
        return noisy[0]

    return call


def mapped(model):
    return torch.func.vmap(lambda ids: model(ids[None])[0], randomness="different")


WAYS = {
    "eager": lambda model: model,
    "compiled": lambda model: torch.compile(model, backend="aot_eager", fullgraph=True),
    "mapped": mapped,
    "checkpointed": checkpointed,
}


class Layer(nn.Module):
    def __init__(self, dealing):
        super().__init__()
        self.noise = EmbeddingNoise(neftune(), calls_per_step=2, dealing=dealing)

    def forward(self, ids):
        return self.noise(nn.functional.embedding(ids, torch.zeros(50, 8)))


def lookups_of(loader, way, *, layer=False):
    """One epoch, two batches a step: the step, the ids and the noise of every lookup."""
    model, seen = Layer(loader) if layer else zeroed(), []
    handle = None if layer else attach(model, neftune(), dealing=loader, calls_per_step=2)
    call = WAYS[way](model)
    for number, ids in enumerate(loader):
        seen.append((number // 2, ids, call(ids).detach().clone()))
    if handle is not None:
        handle.remove()
    return seen


def lookups_of_trainer(folder, size, accumulated, mesh=None, **options):
    """A run of the Trainer, one global batch of 8 a step.

    Args:
        folder: Where it writes.
        size: The batch size of a rank.
        accumulated: The number of micro-batches in a step.
        mesh: That of the trainer's accelerator, which gives ranks along "tp" the same samples.
        **options: Training arguments.
    """
    callback, seen = NoiseCallback(neftune()), []
    model = llama()
    model.model.embed_tokens.register_forward_hook(
        lambda module, args, output: seen.append(
            (callback.handle.step, args[0], output.detach().clone())
        )
    )
    work = trainer(
        folder, model, callback, rows=[{"input_ids": ids, "labels": ids} for ids in IDS],
        max_steps=-1, num_train_epochs=1, learning_rate=0.0, per_device_train_batch_size=size,
        gradient_accumulation_steps=accumulated, train_sampling_strategy="sequential",
        ddp_find_unused_parameters=False, **options,
    )  # fmt: skip
    work.accelerator.state.device_mesh = mesh
    work.train()
    return seen


def _worker(rank, ranks, folder):
    torch.set_num_threads(1)
    os.environ.update(
        RANK=str(rank), LOCAL_RANK=str(rank), WORLD_SIZE=str(ranks), LOCAL_WORLD_SIZE=str(ranks),
        OMP_NUM_THREADS="1",
    )  # fmt: skip
    distributed.init_process_group(
        "gloo", init_method=f"file://{folder}/store-{ranks}", rank=rank, world_size=ranks
    )
    state = PartialState(cpu=True)
    assert state.num_processes == ranks
    warnings.filterwarnings("error", message="embnoise")
    size = BATCH // ranks
    batches = prepare_data_loader(plain(size))
    strided = plain(size, sampler=DistributedSampler(IDS, ranks, rank, shuffle=False))
    seen = {way: lookups_of(batches, way) for way in WAYS}
    for way in ("eager", "compiled", "mapped"):
        seen[f"layer, {way}"] = lookups_of(batches, way, layer=True)
    seen["strided"] = lookups_of(strided, "eager")
    dispatched = {"dispatch_batches": True, "put_on_device": True, "device": state.device}
    seen["split"] = lookups_of(prepare_data_loader(plain(BATCH), split_batches=True), "eager")
    seen["dispatched"] = lookups_of(prepare_data_loader(plain(size), **dispatched), "eager")
    seen["split and dispatched"] = lookups_of(
        prepare_data_loader(plain(BATCH), split_batches=True, **dispatched), "eager"
    )
    seen["trainer"] = lookups_of_trainer(folder, size, 1)
    seen["trainer, accumulated"] = lookups_of_trainer(folder, size // 2, 2)
    seen["trainer, split"] = lookups_of_trainer(
        folder, BATCH, 1, accelerator_config={"split_batches": True}
    )
    seen["trainer, dispatched"] = lookups_of_trainer(
        folder, size, 1, accelerator_config={"dispatch_batches": True}
    )
    mesh = init_device_mesh("cpu", (1, ranks), mesh_dim_names=("dp_replicate", "tp"))
    seen["trainer, tensor parallel"] = lookups_of_trainer(folder, BATCH, 1, mesh=mesh)
    with attach(same := zeroed(), neftune(), mesh=mesh) as handle:
        seen["tensor parallel"] = same(IDS[:2]).detach()
        assert "rank=" not in repr(handle)
    torch.save(seen, f"{folder}/{ranks}-{rank}.pt")
    distributed.destroy_process_group()


NUMBERS = {tuple(ids.tolist()): number for number, ids in enumerate(IDS)}


def check_noise(name, parts, per_step, noise, table):
    """Every full global batch has the noise of one process, and no noise is there twice."""
    rest = []
    for step, ids, noisy in itertools.chain(*parts):
        numbers = torch.tensor([NUMBERS[tuple(row.tolist())] for row in ids])
        clean = table[ids]
        expected = add_noise(clean, noise, step=step, sample_ids=numbers % per_step)
        if step < ROWS // per_step:
            assert torch.equal(noisy, expected), (name, step)
        else:
            rest.extend((noisy - clean).sign().flatten(1).tolist())
    assert len(rest) >= ROWS % per_step
    assert len(set(map(tuple, rest))) == len(rest), name


@pytest.mark.parametrize(
    "ranks", [2, *(pytest.param(ranks, marks=pytest.mark.sweep) for ranks in (1, 4))]
)
def test_ranks(tmp_path, ranks):
    spawn(_worker, (ranks, str(tmp_path)), nprocs=ranks)
    saved = [torch.load(tmp_path / f"{ranks}-{rank}.pt") for rank in range(ranks)]
    zeros, table = torch.zeros(50, 8), llama().model.embed_tokens.weight.detach()
    for name in saved[0]:
        parts = [each[name] for each in saved]
        if name == "tensor parallel":
            expected = add_noise(torch.zeros(2, 8, 8), neftune(), step=0)
            assert all(torch.equal(part, expected) for part in parts)
        elif name == "trainer, tensor parallel":
            for part in parts:
                check_noise(name, [part], BATCH, neftune(seed=42), table)
        elif "trainer" in name:
            check_noise(name, parts, BATCH, neftune(seed=42), table)
        else:
            check_noise(name, parts, 2 * BATCH, neftune(), zeros)
    assert len(saved[0]) == 17
