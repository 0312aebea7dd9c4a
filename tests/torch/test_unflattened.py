"""``torch.export.unflatten``: the exported program of a model with noise as a module again."""

import pytest
import torch

from embnoise import neftune
from embnoise_torch import add_noise, attach
from tests.torch.models import Embedder, batch


@pytest.mark.filterwarnings("ignore:.isinstance.treespec, LeafSpec:FutureWarning")
def test_unflattened():
    model, ids = Embedder(), batch()
    with attach(model, neftune(5.0)) as handle:
        unflattened = torch.export.unflatten(torch.export.export(model, (ids,), strict=False))
        noisy = unflattened(ids)
        assert handle.lookups == 1
    assert torch.equal(noisy, add_noise(model.embed.weight[ids], neftune(5.0), step=0))
