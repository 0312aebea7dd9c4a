"""TRL's SFTTrainer: rows packed with several conversations, noise on completions."""

from __future__ import annotations

import warnings

from datasets import Dataset
from transformers import TrainerCallback
from transformers.trainer_utils import get_last_checkpoint
from trl import SFTConfig, SFTTrainer

from embnoise import linear, neftune
from embnoise_torch.transformers import NoiseCallback
from tests.torch.test_trl import llama, text, tokenizer


def train(folder, note, kill):
    warnings.simplefilter("ignore")  # what TRL says is not our subject
    model = llama(attention_dropout=0.1)
    model.model.embed_tokens.register_forward_hook(
        lambda module, args, output: note(output.detach()) if module.training else None
    )
    rows = [
        {"prompt": text(row, 2 + row % 3), "completion": " " + text(row + 5, 3 + row % 5)}
        for row in range(40)
    ]

    class Callback(TrainerCallback):
        def on_step_end(self, args, state, control, **kwargs):
            kill()

    work = SFTTrainer(
        model,
        SFTConfig(
            output_dir=str(folder), per_device_train_batch_size=2, gradient_accumulation_steps=2,
            max_steps=6, save_steps=2, learning_rate=0.01, packing=True, max_length=32,
            report_to=[], disable_tqdm=True, use_cpu=True, bf16=False, dataloader_pin_memory=False,
        ),
        train_dataset=Dataset.from_list(rows),
        processing_class=tokenizer(),
        callbacks=[NoiseCallback(neftune(alpha=linear(20.0, 1.0)), where="completion"), Callback()],
    )  # fmt: skip
    work.train(resume_from_checkpoint=get_last_checkpoint(str(folder)))
    return {name: value.detach() for name, value in model.state_dict().items()}
