"""Lightning's ``training_step`` is called with a batch, and calls any part of its module."""

import warnings

import pytest
import torch
from torch import nn
from torch.utils.data import DataLoader

from embnoise import neftune
from embnoise_torch import add_noise
from tests.torch.test_untold_padding import IDS, MASK, WARNED

lightning = pytest.importorskip("lightning")
from lightning.pytorch import LightningModule  # noqa: E402

from embnoise_torch.lightning import NoiseCallback  # noqa: E402
from tests.torch.test_lightning import pytestmark, trainer  # noqa: E402, F401


class Net(nn.Module):
    def __init__(self):
        super().__init__()
        self.e = nn.Embedding(50, 8)

    def forward(self, x):
        return self.e(x)


class Step(LightningModule):
    """Notes what a function looks up in a part of the module, or in its embedding itself."""

    def __init__(self, look):
        super().__init__()
        self.net, self.look = Net(), look
        nn.init.zeros_(self.net.e.weight)
        self.noisy = []

    def training_step(self, batch, index):
        found = self.look(self.net, batch)
        self.noisy.append(found.detach())
        return found.sum()

    def configure_optimizers(self):
        return torch.optim.SGD(self.parameters(), lr=0.0)


def fit(look, batches, **options):
    step = Step(look)
    callback = NoiseCallback(neftune(5.0, seed=3), **options)
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        trainer(callback, max_epochs=1).fit(step, DataLoader(batches, batch_size=None))
    return step.noisy, [str(each.message) for each in caught if "embnoise" in str(each.message)]


@pytest.mark.parametrize(
    "look",
    [
        lambda net, batch: net(batch["input_ids"]),
        lambda net, batch: net.e(batch["input_ids"]),
        lambda net, batch: net(batch["input_ids"].clone()),
    ],
    ids=["part", "embedding", "copy"],
)
def test_the_mask_of_the_batch(look):
    noisy, found = fit(look, [{"input_ids": IDS, "attention_mask": MASK}] * 2)
    assert found == []
    for step, each in enumerate(noisy):
        clean = torch.zeros(3, 6, 8)
        assert torch.equal(each, add_noise(clean, neftune(5.0, seed=3), step=step, mask=MASK))


def test_a_batch_with_names_of_its_own_is_warned_of():
    batches = [{"ids": IDS, "mask": MASK}] * 2
    _, (message,) = fit(lambda net, batch: net(batch["ids"]), batches)
    assert WARNED in message
    _, found = fit(
        lambda net, batch: net(batch["ids"]),
        batches,
        tokens=lambda batch: {"mask": batch["mask"]},
    )
    assert found == []


def test_a_batch_without_masks():
    assert fit(lambda net, batch: net(batch), [IDS] * 2)[1] == []
