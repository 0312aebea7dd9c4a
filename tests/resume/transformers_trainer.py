"""The Hugging Face Trainer: accumulation, annealed alpha, packed rows, bf16 and checkpointing."""

from __future__ import annotations

import torch
from transformers import (
    DataCollatorWithFlattening,
    Trainer,
    TrainerCallback,
    TrainingArguments,
)
from transformers.trainer_utils import get_last_checkpoint

from embnoise import linear, neftune
from embnoise_torch.transformers import NoiseCallback
from tests.torch.models import llama


def train(folder, note, kill):
    model = llama(attention_dropout=0.1)
    generator = torch.Generator().manual_seed(3)
    rows = [
        {"input_ids": torch.randint(3, 50, (length,), generator=generator).tolist()}
        for length in torch.randint(2, 12, (24,), generator=generator).tolist()
    ]
    for row in rows:
        row["labels"] = list(row["input_ids"])
    embedding = model.model.embed_tokens
    embedding.register_forward_hook(
        lambda module, args, output: note(output.detach().float()) if module.training else None
    )

    class Callback(TrainerCallback):
        def on_substep_end(self, args, state, control, **kwargs):
            kill()

        def on_step_end(self, args, state, control, **kwargs):
            kill()

    arguments = TrainingArguments(
        output_dir=str(folder), per_device_train_batch_size=2, gradient_accumulation_steps=2,
        max_steps=5, save_steps=2, bf16=True, gradient_checkpointing=True, report_to=[],
        disable_tqdm=True, use_cpu=True, dataloader_pin_memory=False, logging_steps=1,
        learning_rate=0.01,
    )  # fmt: skip
    work = Trainer(
        model,
        arguments,
        train_dataset=rows,
        data_collator=DataCollatorWithFlattening(),
        callbacks=[NoiseCallback(neftune(alpha=linear(20.0, 1.0))), Callback()],
    )
    work.train(resume_from_checkpoint=get_last_checkpoint(str(folder)))
    return {name: value.detach() for name, value in model.state_dict().items()}
