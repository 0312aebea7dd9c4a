"""A penalty on gradients: its backward pass recomputes a forward that one has recomputed before."""

import pytest
import torch

from embnoise import neftune
from embnoise_torch import attach
from tests.torch.models import batch
from tests.torch.test_recompute import Net


@pytest.mark.parametrize("passes", [2, 3])
def test_a_penalty_and_other_passes_over_the_same_ids(passes):
    net, ids = Net(), batch()
    with attach(net, neftune()):
        losses = [net(ids)]
        (slope,) = torch.autograd.grad(losses[0], net.head.weight, create_graph=True)
        losses += [net(ids) for _ in range(passes - 1)]
        (slope.square().sum() + sum(losses[1:])).backward()
    first, again, *others = net.seen
    firsts, recomputed = others[: passes - 1], others[passes - 1 :]
    assert torch.equal(first, again)
    for noisy, twice in zip([first, *firsts], reversed(recomputed), strict=True):
        assert torch.equal(noisy, twice)
