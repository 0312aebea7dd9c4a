"""The NumPy layer as PyTorch modules."""

import numpy as np
import torch
from torch import nn


class Arrays:
    """What the NumPy layer needs of PyTorch."""

    stop = staticmethod(torch.Tensor.detach)

    @staticmethod
    def numpy(array):
        array = array.detach()
        return (array.float() if array.dtype == torch.bfloat16 else array).numpy()

    @staticmethod
    def array(values, like):
        return torch.from_numpy(np.asarray(values, np.float32)).to(like.dtype)


class Counting(nn.Module):
    """Its training calls are its steps."""

    def __init__(self, layer):
        super().__init__()
        self.layer = layer

    def forward(self, x, mask=None):
        return self.layer(Arrays, x, mask, None, self.training)


class Stepped(Counting):
    """It is given the step."""

    def forward(self, x, mask=None, step=0):
        return self.layer(Arrays, x, mask, step, self.training)


class Packing(Counting):
    """It is given the step, and documents."""

    def forward(self, x, mask=None, segment_ids=None, step=0):
        return self.layer(Arrays, x, mask, step, self.training, segment_ids)


def make(layer):
    if layer.packs:
        return Packing(layer)
    return (Stepped if layer.takes_step else Counting)(layer)
