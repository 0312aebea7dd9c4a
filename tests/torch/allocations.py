"""What the noise of a lookup allocates."""

import tracemalloc

import torch
from torch.utils._python_dispatch import TorchDispatchMode

from embnoise import neftune
from embnoise.backend import TokenArrays
from embnoise_torch import attach
from embnoise_torch.tracing.custom_op import add_ready_


class Allocations(TorchDispatchMode):
    """The bytes of the largest tensor that an operation makes anew."""

    def __init__(self):
        super().__init__()
        self.largest = 0

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        out = func(*args, **(kwargs or {}))
        known = {a.untyped_storage().data_ptr() for a in args if isinstance(a, torch.Tensor)}
        if isinstance(out, torch.Tensor) and out.untyped_storage().data_ptr() not in known:
            self.largest = max(self.largest, out.untyped_storage().nbytes())
        return out


def memory_of_the_noise(table, ids):
    """Peak memory of the noise step, Python's and NumPy's included, over the output's size.

    With padding, which takes more than rows that are full.
    """
    mask = torch.ones_like(ids)
    mask[:, -(ids.shape[1] // 4) :] = 0
    handle = attach(table, neftune())
    output = table(ids).detach()
    source = next(iter(handle._sources.values()))

    def add_noise_():
        add_ready_(output, source.noise, source.ready_lookup(output, ids, TokenArrays(mask), []))

    with Allocations():  # what is imported once, also by PyTorch for this mode, does not count
        add_noise_()
    tracemalloc.start()
    with Allocations() as allocations:
        add_noise_()
    _, peak = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    handle.remove()
    size = output.untyped_storage().nbytes()
    return (peak + allocations.largest) / size
