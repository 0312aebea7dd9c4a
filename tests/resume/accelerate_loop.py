"""A loop over Accelerate: state saved in the middle of an epoch, the handle registered with it."""

from __future__ import annotations

import torch
from accelerate import Accelerator, DataLoaderConfiguration
from torch.utils.data import DataLoader

from embnoise import linear, neftune
from embnoise_torch import attach
from tests.torch.models import batch, llama

EPOCHS = 2


def train(folder, note, kill):
    accelerator = Accelerator(
        cpu=True,
        gradient_accumulation_steps=2,
        dataloader_config=DataLoaderConfiguration(use_seedable_sampler=True),
    )
    torch.manual_seed(0)
    model = llama(attention_dropout=0.1)
    model.model.embed_tokens.register_forward_hook(
        lambda module, args, output: note(output.detach())
    )
    optimizer = torch.optim.AdamW(model.parameters(), lr=0.01)
    # A generator of its own: otherwise the loader draws from the one of dropout as it begins.
    order = torch.Generator().manual_seed(1)
    loader = DataLoader(batch(rows=12), batch_size=2, shuffle=True, generator=order)
    model, optimizer, loader = accelerator.prepare(model, optimizer, loader)
    noise = neftune(alpha=linear(20.0, 1.0, 6), seed=5)
    with attach(model, noise, optimizer=optimizer) as handle:
        accelerator.register_for_checkpointing(handle)
        done = 0
        checkpoint = max(folder.glob("step*"), default=None)
        if checkpoint is not None:
            done = int(checkpoint.name.removeprefix("step"))
            accelerator.load_state(checkpoint)
        for epoch in range(done // len(loader), EPOCHS):
            loader.set_epoch(epoch)
            skipped = done % len(loader) if epoch == done // len(loader) else 0
            batches = accelerator.skip_first_batches(loader, skipped) if skipped else loader
            for ids in batches:
                with accelerator.accumulate(model):
                    accelerator.backward(model(input_ids=ids, labels=ids).loss)
                    optimizer.step()
                    optimizer.zero_grad()
                kill()
                done += 1
                if done % 4 == 0:
                    accelerator.save_state(folder / f"step{done:03}")
    return {name: value.detach() for name, value in model.state_dict().items()}
