"""How a data loader deals the samples of a global batch to ranks.

The schemes in use are block-cyclic: each rank in turn takes a block of consecutive samples. They
differ in the size of the block.
"""

from __future__ import annotations

import sys
from typing import Any, TypeAlias

from torch.utils.data import DataLoader, DistributedSampler

from embnoise.backend import check_integer, format_value

__all__ = ["Dealing", "block_size", "find_block_size"]

Dealing: TypeAlias = "int | DataLoader[Any]"
"""How many consecutive samples of the global batch each rank takes in turn, or a data loader."""


def block_size(dealing: Dealing, ranks: int) -> int:
    """The block size that the argument ``dealing`` says.

    Args:
        dealing: The block size, or a data loader.
        ranks: How many ranks there are now. With one, any data loader will do.

    Raises:
        TypeError: ``dealing`` is neither an integer nor a data loader.
        ValueError: It is below 1, or a data loader that does not say how it deals.
    """
    if not hasattr(dealing, "dataset"):
        return check_integer("dealing", dealing, minimum=1)
    found = find_block_size(dealing)
    if found is None and ranks > 1:
        raise ValueError(
            "dealing must be an integer for a data loader that neither Accelerate nor a "
            f"DistributedSampler deals to ranks, got {format_value(dealing)}. Pass how many "
            "consecutive samples of the global batch each rank takes in turn; if every rank reads "
            "data of its own, any number will do"
        )
    return found or 1


def find_block_size(loader: Any) -> int | None:
    """How many consecutive samples each rank takes in turn; ``None`` if the loader does not say.

    PyTorch's ``DistributedSampler`` deals single samples. Accelerate deals the batches of ranks,
    or with ``split_batches`` equal parts of a batch.
    """
    batches = getattr(loader, "batch_sampler", None)
    samplers = (getattr(loader, "sampler", None), getattr(batches, "sampler", None))
    if any(isinstance(each, DistributedSampler) for each in samplers):
        return 1
    accelerate: Any = sys.modules.get("accelerate.data_loader")
    if accelerate is None or not issubclass(type(loader), accelerate.DataLoaderStateMixin):
        return None
    while isinstance(batches, accelerate.SkipBatchSampler):  # of a resumed run
        batches = batches.batch_sampler
    for dealer in (loader.dataset, samplers[0], batches):
        if isinstance(dealer, accelerate.IterableDatasetShard | accelerate.BatchSamplerShard):
            return _part(dealer.batch_size, dealer.num_processes if dealer.split_batches else 1)
    size = getattr(batches, "batch_size", None) if loader.batch_size is None else loader.batch_size
    # A dispatcher splits, on one process, what it reads for all of them.
    return _part(size, loader.state.num_processes if getattr(loader, "split_batches", False) else 1)


def _part(size: int | None, parts: int) -> int | None:
    return None if size is None else max(size // parts, 1)
