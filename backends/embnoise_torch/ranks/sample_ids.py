"""Sample ids: no two data-parallel ranks may draw the same noise for different data.

With W ranks that take blocks of b consecutive samples in turn, sample q of a step on rank r is
sample ((q // b) * W + r) * b + q % b of the global batch. That number is its id. No other sample of
the step has it, on whatever rank and however many samples a rank has.

With antithetic noise, rows 2i and 2i + 1 of a rank are a pair: blocks of an odd size are doubled.
"""

from __future__ import annotations

import math
from typing import TYPE_CHECKING, TypeVar

import numpy as np
from numpy.typing import NDArray
from torch import Tensor, distributed

from embnoise.backend import dealt_ids
from embnoise_torch.ranks.dealing import Dealing, block_size

if TYPE_CHECKING:
    from torch.distributed.device_mesh import DeviceMesh

__all__ = ["SampleIds"]

_DISTRIBUTED = distributed.is_available()

_SAME_SAMPLES = frozenset(("tp", "cp", "sp", "pp"))
"""Dimensions of a mesh along which ranks have the same samples, under their usual names."""

Integers = TypeVar("Integers", NDArray[np.int64], Tensor)


class SampleIds:
    """The sample ids of this process.

    Args:
        mesh: A device mesh, of which the dimensions along which ranks have the same samples are
            named "tp", "cp", "sp" or "pp". By default every rank of the default process group, once
            there is one, sees different data.
        dealing: How samples are dealt to ranks: the block size b, or the data loader that deals
            them. By default single samples, b = 1.
        rows: How many consecutive rows must stay on one rank, from ``rows_of_a_sample``.

    Raises:
        TypeError: ``dealing`` is neither an integer nor a data loader.
        ValueError: ``mesh`` is not a device mesh that this rank is part of, or ``dealing`` is below
            1 or a data loader that does not say how it deals.
    """

    def __init__(
        self, mesh: DeviceMesh | None, dealing: Dealing | None = None, *, rows: int = 1
    ) -> None:
        self._fixed: tuple[int, int] | None = None
        if mesh is not None:
            coordinate = mesh.get_coordinate() if hasattr(mesh, "get_coordinate") else None
            if coordinate is None:
                raise ValueError(
                    f"mesh must be a DeviceMesh that this rank is part of, got {mesh!r}"
                )
            names = mesh.mesh_dim_names or [""] * mesh.ndim
            rank, ranks = 0, 1
            for index, size, name in zip(coordinate, mesh.shape, names, strict=True):
                if name not in _SAME_SAMPLES:
                    rank, ranks = rank * size + index, ranks * size
            self._fixed = rank, ranks
        self._rows = rows
        self._assumed = dealing is None
        self._block = 1 if dealing is None else block_size(dealing, self._place()[1])

    @property
    def alone(self) -> bool:
        """Whether this rank is the only one, so that sample ids are the numbers of its samples."""
        return self._place()[1] == 1

    def next_block(self, samples: int) -> int:
        """The number of the first sample of a lookup: each begins with a block of its own.

        Args:
            samples: How many samples of the step this rank has had before.
        """
        return -(-samples // self._block) * self._block

    def of_batch(self, first: int, batch: int) -> NDArray[np.int64]:
        """The ids of a batch's rows, int64 [B], unique over all ranks within the step.

        Args:
            first: The number of the first sample, from ``next_block``.
            batch: B.
        """
        return self._ids(np.arange(first, first + batch))

    def of_rows(self, first: int, rows: Tensor) -> Tensor:
        """The same for rows of which several may be one sample.

        Args:
            first: The number of the first sample, from ``next_block``.
            rows: Which sample each row is, integers [B]: 0 for the first one.
        """
        return self._ids(first + rows)

    def _ids(self, numbers: Integers) -> Integers:
        return dealt_ids(numbers, *self._place(), block=math.lcm(self._block, self._rows))

    def _place(self) -> tuple[int, int]:
        """This rank, and how many there are."""
        return self._fixed or _default_group()

    def __repr__(self) -> str:
        rank, ranks = self._place()
        assumed = " (assumed)" if self._assumed else ""
        return f"rank={rank} of {ranks}, dealing={self._block}{assumed}"


def _default_group() -> tuple[int, int]:
    if _DISTRIBUTED and distributed.is_initialized():
        return distributed.get_rank(), distributed.get_world_size()
    return 0, 1
