"""Ranks that see other data draw other noise, and together that of one process."""

import torch
import torch.multiprocessing
from torch import distributed
from torch.distributed.device_mesh import init_device_mesh
from torch.distributed.fsdp import fully_shard
from torch.nn.parallel import DistributedDataParallel

from embnoise import neftune, symnoise
from embnoise_torch import EmbeddingNoise, add_noise, attach
from tests.torch.models import Stack, batch, zeroed

WORLD = 2


def _worker(rank, store, results):
    distributed.init_process_group(
        "gloo", init_method=f"file://{store}", rank=rank, world_size=WORLD
    )
    mine = batch(rows=8)[rank::WORLD]  # as DistributedSampler deals them
    seen = {}

    plain = zeroed()
    with attach(DistributedDataParallel(plain), neftune()):
        wrapped = DistributedDataParallel(plain)
        seen["ddp"] = torch.cat([wrapped(mine[:2]), wrapped(mine[2:])]).detach()

    sharded = zeroed()
    for module in (sharded.embed, sharded):
        fully_shard(module)
    with attach(sharded, neftune()):
        seen["fsdp"] = sharded(mine).detach()

    after = zeroed()
    with attach(after, neftune()):
        fully_shard(after)
        seen["fsdp after"] = after(mine).detach()
    seen["fsdp removed"] = after(mine).detach()

    seen["layer"] = EmbeddingNoise(neftune())(torch.zeros(4, 8, 8))

    twice = zeroed()
    with attach(twice, symnoise()):
        parts = [twice(mine[start : start + 2].repeat_interleave(2, 0)) for start in (0, 2)]
        seen["pairs"] = torch.cat(parts).detach()
    seen["pairs of the layer"] = EmbeddingNoise(symnoise())(torch.zeros(8, 8, 8))

    stack = Stack()
    wrapped = DistributedDataParallel(stack)
    with attach(wrapped, neftune(), layer="blocks.*", at="input") as handle:
        with handle.paused():
            clean = wrapped(mine)
        (wrapped(mine) - clean).square().sum().backward()
        assert handle.lookups == len(stack.blocks)
    seen["block"] = stack.blocks[0].seen[1] - stack.blocks[0].seen[0]
    seen["gradient"] = stack.embed.weight.grad

    # Tensor parallelism: both ranks see the same rows and must draw the same noise.
    mesh = init_device_mesh("cpu", (1, WORLD), mesh_dim_names=("data", "tensor"))
    same = zeroed()
    with attach(same, neftune(), mesh=mesh["data"]):
        seen["tensor"] = same(mine).detach()
    torch.save(seen, f"{results}/{rank}.pt")
    distributed.destroy_process_group()


def test_two_ranks(tmp_path):
    torch.multiprocessing.spawn(
        _worker, (str(tmp_path / "store"), str(tmp_path)), nprocs=WORLD, join=True
    )
    ranks = [torch.load(tmp_path / f"{rank}.pt") for rank in range(WORLD)]
    whole = add_noise(torch.zeros(8, 8, 8), neftune(), step=0)
    for way in ("ddp", "fsdp", "fsdp after", "layer"):
        together = torch.stack([seen[way] for seen in ranks], dim=1).reshape(8, 8, 8)
        assert torch.equal(together, whole), way
    # Each sample is two rows, which stay together: samples 0, 2, 4, 6 are of the first rank.
    pairs = add_noise(torch.zeros(16, 8, 8), symnoise(), step=0).view(8, 2, 8, 8)
    assert torch.equal(pairs[:, 0], -pairs[:, 1])
    for rank, seen in enumerate(ranks):
        for way in ("pairs", "pairs of the layer"):
            assert torch.equal(seen[way].view(4, 2, 8, 8), pairs[rank::WORLD]), way
        assert torch.allclose(seen["block"], whole[rank::WORLD], atol=1e-6)
        assert torch.equal(seen["gradient"], ranks[0]["gradient"])
    for seen in ranks:
        assert torch.equal(seen["tensor"], whole[:4])
        assert not seen["fsdp removed"].any()
