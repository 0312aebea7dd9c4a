"""Lightning's Trainer: a checkpoint in the middle of an epoch, with gradient accumulation."""

from __future__ import annotations

import warnings

from lightning.pytorch import seed_everything

from embnoise import linear, neftune
from embnoise_torch.lightning import NoiseCallback
from tests.torch.test_lightning import Loader, Module, On, trainer


def train(folder, note, kill):
    warnings.simplefilter("ignore")  # Lightning's advice on workers and processes
    seed_everything(3, verbose=False)
    path = folder / "last.ckpt"
    module = Module()
    module.lm.get_input_embeddings().register_forward_hook(
        lambda embedding, args, output: note(output.detach())
    )

    def after_batch(work, index):
        if index == 3 and work.current_epoch == 0:  # a step, and four of the six batches
            work.save_checkpoint(path)
        kill()

    work = trainer(
        NoiseCallback(neftune(alpha=linear(20.0, 0.0))),
        On(after_batch),
        accumulate_grad_batches=2,
        max_epochs=2,
    )
    checkpoint = {"ckpt_path": path, "weights_only": False} if path.exists() else {}
    work.fit(module, Loader(), **checkpoint)
    return {name: value.detach() for name, value in module.state_dict().items()}
