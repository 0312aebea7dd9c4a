"""DeepSpeed ZeRO 2: the noise's state is part of the engine's checkpoint."""

from __future__ import annotations

import os

import torch

from embnoise import linear, neftune
from embnoise_torch import attach
from tests.torch.models import batch, llama

STEPS = 6


def train(folder, note, kill):
    os.environ.update(
        DS_ACCELERATOR="cpu", WORLD_SIZE="1", LOCAL_SIZE="1", RANK="0", LOCAL_RANK="0"
    )
    import deepspeed  # noqa: PLC0415, it reads these variables

    if not torch.distributed.is_initialized():
        deepspeed.init_distributed(
            "gloo",
            auto_mpi_discovery=False,
            init_method=f"file://{folder}/store{os.getpid()}",
            rank=0,
            world_size=1,
        )
    torch.manual_seed(0)
    model = llama(attention_dropout=0.1)
    model.model.embed_tokens.register_forward_hook(
        lambda module, args, output: note(output.detach())
    )
    engine, *_ = deepspeed.initialize(
        model=model,
        optimizer=torch.optim.AdamW(model.parameters(), lr=0.01),
        config={
            "train_micro_batch_size_per_gpu": 2,
            "gradient_accumulation_steps": 2,
            "zero_allow_untested_optimizer": True,
            "zero_optimization": {"stage": 2},
        },
    )
    noise = neftune(alpha=linear(20.0, 1.0, STEPS), seed=5)
    with attach(engine, noise, optimizer=engine) as handle:
        if (folder / "latest").exists():
            _, state = engine.load_checkpoint(str(folder))
            handle.load_state_dict(state["noise"])
            torch.set_rng_state(state["random"])  # of dropout
        rows = batch(rows=4 * STEPS).split(2)
        for ids in rows[2 * engine.global_steps :]:
            engine.backward(engine(input_ids=ids, labels=ids).loss)
            engine.step()
            kill()
            if engine.micro_steps % 4 == 0:
                state = {"noise": handle.state_dict(), "random": torch.get_rng_state()}
                engine.save_checkpoint(str(folder), client_state=state)
    weights = {name: value.detach().clone() for name, value in model.state_dict().items()}
    engine.destroy()
    return weights
